"""Blended edges between class ids: the only finding that needs pixels. It reads a few label maps."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field

from statsvc.common.plurals import plural
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.finding import SERIOUS, Finding, list_first

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

MIN_STEPS_PER_PEAK = 2
"""Steps per edge pixel outside the range of its neighbors: interpolation creates few of the latter."""

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


class EdgePixels(Struct):
    """The edge pixels of a label map, at which the left and the right neighbor differ.

    edges  number of them
    steps  (id, lower neighbor, higher neighbor) → number of those whose id lies between the neighbors'
    peaks  number of those whose id lies outside the range of the neighbors' and equals neither
    """

    edges: int = 0
    steps: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    peaks: int = 0

    def add(self, block: NDArray[np.integer]) -> None:
        """Add the edge pixels of a 2-D block."""
        if block.ndim != 2 or block.shape[1] < 3:
            return
        left, center, right = block[:, :-2], block[:, 1:-1], block[:, 2:]
        low, high = np.minimum(left, right), np.maximum(left, right)
        edge = left != right
        step = (low < center) & (center < high)
        self.edges += int(edge.sum())
        self.peaks += int((edge & ((center < low) | (center > high))).sum())
        triples = np.stack([center[step], low[step], high[step]], axis=-1)
        found, counts = np.unique(triples, axis=0, return_counts=True)
        for (c, a, b), number in zip(found.tolist(), counts.tolist(), strict=True):
            self.steps[c, a, b] += number

    def blended_share(self) -> float:
        """Return the share of the edge pixels that interpolation probably created.

        Interpolation puts an id between many pairs of neighbors, and never outside their range. A thin class
        that lies between two others is always between the same ones, and fragments are as often outside.
        """
        total = self.steps.total()
        if self.edges < MIN_EDGE_PIXELS or total < MIN_STEPS_PER_PEAK * self.peaks:
            return 0.0
        pairs: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for center, low, high in self.steps:
            pairs[center].add((low, high))
        blends = sum(n for (center, _, _), n in self.steps.items() if len(pairs[center]) > 1)
        return blends / self.edges


def blended(facts: Facts, read_pixels: ReadPixels) -> tuple[Finding | None, int]:
    """Return the finding about blended edges, or None, and the number of label maps that were read.

    read_pixels  yields the pixels of a sample as 2-D blocks; nothing if the sample cannot be read
    """
    share_of: dict[int, float] = {}
    for row in suspects(facts):
        found, is_read = EdgePixels(), False
        for block in read_pixels(str(facts.files.path[row])):
            found.add(block)
            is_read = True
        if is_read:
            share_of[row] = found.blended_share()
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
