"""Blended edges between class ids: the only finding that needs pixels. It reads a few label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.finding import SERIOUS, Finding, list_first, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    ReadPixels = Callable[[str], Iterable[NDArray[np.integer]]]

MAX_READ = 8
"""Maximum number of label maps that are read."""

BLENDED_SHARE = 0.08
"""Share of the edge pixels that are steps of a ramp from which a label map counts as interpolated.

CamVid's label maps have at most 1.7 %, where three classes meet, and at least 17 % after Pillow has resized
them bilinearly to half or one and a half times their size.
"""

MIN_EDGE_PIXELS = 50
"""Number of edge pixels below which the share is not significant."""


def suspects(facts: Facts) -> list[int]:
    """Return the rows of the label maps to read: odd sizes first, then those with the most distinct ids."""
    if facts.table.configuration.counting.rule != VALUE:
        return []
    rows = np.flatnonzero((facts.files.status == 0) & (facts.ids_per_sample > 1))
    order = np.lexsort((rows, -facts.ids_per_sample[rows], ~facts.flagged["odd"][rows]))
    selected: list[int] = rows[order[:MAX_READ]].tolist()
    return selected


def edge_pixels(block: NDArray[np.integer]) -> tuple[int, int]:
    """Return the number of edge pixels in a 2-D block, and how many of them are a step of a ramp.

    A pixel is at an edge if its left and right neighbors differ. It is a step of a ramp if its id also lies
    strictly between theirs.
    """
    if block.ndim != 2 or block.shape[1] < 3:
        return 0, 0
    left, center, right = block[:, :-2], block[:, 1:-1], block[:, 2:]
    step = ((left < center) & (center < right)) | ((left > center) & (center > right))
    return int((left != right).sum()), int(step.sum())


def blended(facts: Facts, read_pixels: ReadPixels) -> tuple[Finding | None, int]:
    """Return the finding about blended edges, or None, and the number of label maps that were read.

    read_pixels  yields the pixels of a sample as 2-D blocks; nothing if the sample cannot be read
    """
    share_of: dict[int, float] = {}
    for row in suspects(facts):
        counts = [edge_pixels(block) for block in read_pixels(str(facts.files.path[row]))]
        edges, steps = sum(edge for edge, _ in counts), sum(step for _, step in counts)
        if counts:
            share_of[row] = steps / edges if edges >= MIN_EDGE_PIXELS else 0.0
    rows = sorted(row for row, share in share_of.items() if share >= BLENDED_SHARE)
    if not rows:
        return None, len(share_of)
    shares = (f"{facts.files.path[row]} {share_of[row]:.0%}" for row in rows)
    finding = Finding(
        "blended_edges",
        SERIOUS,
        f"In {len(rows)} of {plural(len(share_of), 'label map')} that were read, pixels between two classes "
        f"have an id between theirs ({list_first(shares, 3)} of the edge pixels). Resizing with "
        "interpolation causes this, and these pixels count for classes that are not in the image.",
        "Export the label maps again, and resize them with nearest neighbor. Other label maps of the dataset "
        "probably have the same fault.",
        facts.files.first_paths(np.array(rows)),
        len(rows),
    )
    return finding, len(share_of)
