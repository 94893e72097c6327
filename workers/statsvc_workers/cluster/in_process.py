"""Counting a few small files in this process, so that one changed file starts no cluster.

Worker processes exist because a file may take its reader's process with it, or its memory. So only those are
counted here that run through nothing but this project's own loops and libdeflate: PNG that is not interlaced,
whose header says before anything is inflated how much that will be. The rest is left to the cluster.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import extension, png
from statsvc_workers.samples.open_sample import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

FILES = 32
FILE_BYTES = 1 << 22
"""Most files counted here in one scan, and most bytes that they have together."""

INFLATED_BYTES = 1 << 24
"""Most bytes that one of them is inflated to: 16 MB, a label map of 4096 × 4096."""

SECONDS = 1.0
"""How long files are counted here: what a cluster takes to start. Files that are left then go to one."""


def few(sizes: Sequence[int]) -> bool:
    """Whether files of these sizes, in bytes, may be counted here."""
    return len(sizes) <= FILES and sum(sizes) <= FILE_BYTES


def count_here(
    reading: CountOptions, samples: Sequence[str | Member], check: Callable[[], None]
) -> tuple[BatchResult | None, list[str | Member]]:
    """Count what may be counted here of a few samples; return its rows, and the samples that are left.

    A failure is kept where the file is the one whose header was looked at. `check` is called before each
    sample and may raise to stop.
    """
    from statsvc_workers.cluster.tasks import UNREADABLE, count_samples

    plain = [one for one in samples if isinstance(one, str)]
    looked_at = {path: found for path in plain if (found := _looked_at(reading, path)) is not None}
    asked: list[float] = []

    def late() -> bool:
        check()
        asked.append(time.monotonic())
        # The first file loads, or compiles, what counts them all.
        return len(asked) > 1 and asked[-1] - asked[1] > SECONDS

    # Whatever came in a file's place since stays below the bound, too.
    bounded = replace(reading, max_pixels=min(reading.max_pixels, 8 * INFLATED_BYTES), device="cpu")
    rows = count_samples(bounded, list(looked_at), late)
    for at, path in enumerate(rows.path):
        if rows.status[at] == UNREADABLE and looked_at[path] != _fingerprint(rows, at):
            return None, list(samples)
    done = set(rows.path)
    return (rows if done else None), [one for one in samples if not (isinstance(one, str) and one in done)]


def _fingerprint(rows: BatchResult, at: int) -> tuple[int, int, int]:
    return int(rows.size[at]), int(rows.mtime_ns[at]), int(rows.ctime_ns[at])


def _looked_at(reading: CountOptions, path: str) -> tuple[int, int, int] | None:
    """Return the fingerprint of a file that may be counted here, by its header; None for any other."""
    if extension(path) != ".png":
        return None
    try:
        with opened(reading.root, path) as source:
            stamp = source.stamp()
            try:
                assert source.file is not None
                needed = png.inflated_bytes(source.file, stamp.size)
            except UnreadableSample:
                needed = 0  # refused by its header, here as there
    except (OSError, UnreadableSample):
        return None
    return None if needed is None or needed > INFLATED_BYTES else stamp.fingerprint
