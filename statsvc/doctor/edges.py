"""Edges blended between ids that are classes: the one finding that needs pixels, of a few label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.finding import SERIOUS, Finding, listed, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    Look = Callable[[str], Iterable[NDArray[np.integer]]]

LOOKED_AT = 8
"""Label maps that are read again at most."""

BLENDED = 0.08
"""Share of the edges that are steps from which a label map was interpolated.

CamVid's label maps have 1.7 % at most, where three classes meet, and 17 % at least once Pillow has resized
them bilinearly to half or one and a half times their size.
"""

EDGES = 50
"""Pixels at edges below which a share says nothing."""


def suspects(facts: Facts) -> list[int]:
    """Return rows to look at: those of odd size first, then those with most different ids."""
    if facts.table.configuration.counting.rule != VALUE:
        return []
    there = np.flatnonzero((facts.files.status == 0) & (facts.ids_in > 1))
    order = np.lexsort((there, -facts.ids_in[there], ~facts.flagged["odd"][there]))
    rows: list[int] = there[order[:LOOKED_AT]].tolist()
    return rows


def steps(block: NDArray[np.integer]) -> tuple[int, int]:
    """Return how many pixels of a 2-D block lie at an edge, and how many of them are a step of a ramp.

    At an edge the neighbours left and right differ; at a step the pixel lies strictly between the two.
    """
    if block.ndim != 2 or block.shape[1] < 3:
        return 0, 0
    left, here, right = block[:, :-2], block[:, 1:-1], block[:, 2:]
    between = ((left < here) & (here < right)) | ((left > here) & (here > right))
    return int((left != right).sum()), int(between.sum())


def blended(facts: Facts, look: Look) -> tuple[Finding | None, int]:
    """Return the finding on blended edges, if any, and how many label maps were looked at.

    look  yields a sample's pixels as 2-D blocks; nothing where it cannot be read again
    """
    shares: dict[int, float] = {}
    for row in suspects(facts):
        counted = [steps(block) for block in look(str(facts.files.path[row]))]
        edges = sum(edge for edge, _ in counted)
        if counted:
            shares[row] = sum(step for _, step in counted) / edges if edges >= EDGES else 0.0
    rows = sorted(row for row, share in shares.items() if share >= BLENDED)
    if not rows:
        return None, len(shares)
    each = (f"{facts.files.path[row]} {shares[row]:.0%}" for row in rows)
    finding = Finding(
        "blended_edges",
        SERIOUS,
        f"in {len(rows)} of {plural(len(shares), 'label map')} looked at, pixels between two classes have "
        f"ids between theirs, as interpolation makes them ({listed(each, 3)} of the pixels at edges)",
        "resize label maps with nearest neighbour, and write them again from where they came; others of the "
        "dataset are probably so too",
        facts.files.named(np.array(rows)),
        len(rows),
    )
    return finding, len(shares)
