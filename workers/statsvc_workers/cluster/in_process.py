"""Count a few small files in this process, so that one changed file does not start a cluster.

Worker processes exist because decoding a file may crash the process or use up its memory. So this process
counts only files that need nothing but our own loops and libdeflate, and whose header limits the memory in
advance: PNG files that are not interlaced. The cluster counts all other files.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import extension, png
from statsvc_workers.samples.open_file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

MAX_FILES = 32
MAX_FILE_BYTES = 1 << 22
"""Most files that are counted in this process per scan, and their largest total size."""

MAX_DECOMPRESSED_BYTES = 1 << 24
"""Largest decompressed size of one file: 16 MB, a label map of 4096 × 4096."""

MAX_SECONDS = 1.0
"""Longest counting time in this process, about the start time of a cluster, which counts the other files."""

PIXELS_PER_BYTE = 8
"""Most pixels in a byte of PNG image data."""


def are_few(sizes: Sequence[int]) -> bool:
    """Whether files of these sizes, in bytes, may be counted in this process."""
    return len(sizes) <= MAX_FILES and sum(sizes) <= MAX_FILE_BYTES


def count_in_process(
    options: CountOptions, samples: Sequence[str | Member], check: Callable[[], None]
) -> tuple[BatchResult | None, list[str | Member]]:
    """Count the samples that may be counted in this process.

    Returns their rows (None if there are none) and the remaining samples. If a file fails and is not the file
    whose header was checked, no rows are returned and all samples remain. `check` is called before each
    sample and may raise to stop.
    """
    from statsvc_workers.cluster.tasks import UNREADABLE, count_samples

    paths = [sample for sample in samples if isinstance(sample, str)]
    checked = {path: stamp for path in paths if (stamp := _checked_fingerprint(options, path)) is not None}
    call_times: list[float] = []

    def is_late() -> bool:
        check()
        call_times.append(time.monotonic())
        # The time starts with the second file: the first one also loads, or compiles, the loops.
        return len(call_times) > 1 and call_times[-1] - call_times[1] > MAX_SECONDS

    # The limit of pixels also applies to a file that has replaced the checked one.
    max_pixels = min(options.max_pixels, PIXELS_PER_BYTE * MAX_DECOMPRESSED_BYTES)
    rows = count_samples(replace(options, max_pixels=max_pixels, device="cpu"), list(checked), is_late)
    for row, path in enumerate(rows.path):
        if rows.status[row] == UNREADABLE and checked[path] != _fingerprint(rows, row):
            return None, list(samples)
    counted = set(rows.path)
    remaining = [sample for sample in samples if not (isinstance(sample, str) and sample in counted)]
    return (rows if counted else None), remaining


def _fingerprint(rows: BatchResult, row: int) -> tuple[int, int, int]:
    return int(rows.size[row]), int(rows.mtime_ns[row]), int(rows.ctime_ns[row])


def _checked_fingerprint(options: CountOptions, path: str) -> tuple[int, int, int] | None:
    """Return the fingerprint of a file that may be counted in this process by its header; else None."""
    if extension(path) != ".png":
        return None
    try:
        with open_file(options.root, path) as source:
            stamp = source.stamp()
            try:
                assert source.file is not None
                needed = png.decompressed_bytes(source.file, stamp.size)
            except UnreadableSample:
                needed = 0  # its header is invalid, so nothing will be decompressed
    except (OSError, UnreadableSample):
        return None
    return None if needed is None or needed > MAX_DECOMPRESSED_BYTES else stamp.fingerprint
