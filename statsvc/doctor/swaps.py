"""Two classes whose ids are exchanged in some of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural_with_verb
from statsvc.doctor.finding import SERIOUS, Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

MAX_CLASSES = 40
"""Most frequent classes whose pairs are compared."""

MAX_CELLS = 50_000_000
"""Largest number of samples × classes that are read a second time."""

MIN_FILES, MIN_WIDE_FILES = 8, 20
"""Files that contain both classes below which a minority is not significant: if their ratios
vary by at most a quarter, and by at most a half."""

MIN_SWAPPED = 2
"""Files with exchanged classes below which the finding is not significant if ratios vary by a half."""

MIN_SHARE = 0.8
"""Share of the files that contain both classes."""

MIN_NARROW_RATIO, MIN_RATIO = 2.0, 4.0
"""How many times as frequent one class is as the other in the middle file, for these two cases."""

MINORITY = 0.45
"""Largest share of files in which the classes are exchanged."""


def swapped_classes(facts: Facts) -> Finding | None:
    """Return a finding about the pair of classes that are most likely exchanged in a part of the files.

    In most files one class is several times as frequent as the other, in the rest it is the reverse by
    about the same factor, and there are no files in between.
    """
    counts = _class_counts(facts)
    if counts is None:
        return None
    best: tuple[float, int, int, NDArray[np.bool_]] | None = None
    logs = np.log(np.maximum(counts, 1))
    for i in range(counts.shape[1]):
        for j in range(counts.shape[1]):
            both = (counts[:, i] > 0) & (counts[:, j] > 0)
            if i == j or both.sum() < MIN_FILES or both.sum() < MIN_SHARE * len(counts):
                continue
            ratio = logs[:, i] - logs[:, j]
            swapped = _mirrored(ratio, both)
            if swapped is not None:
                score = float(np.median(ratio[both & ~swapped]))
                if best is None or score > best[0]:
                    best = score, i, j, swapped
    if best is None:
        return None
    _, i, j, swapped = best
    order = _frequent_classes(facts)
    rows = np.flatnonzero(facts.files.status == 0)[swapped]
    names = [facts.interpretation.name(int(facts.class_id[order[k]])) for k in (i, j)]
    where = [split for split, member in facts.members.items() if member[rows].any()]
    return Finding(
        "swapped_classes",
        SERIOUS,
        f"{plural_with_verb(len(rows), 'file', 'has', 'have')} much more of {names[1]} than of {names[0]}, "
        "all others the reverse by about the same factor. The ids are probably exchanged in these files"
        + (f" ({', '.join(where)})." if where else "."),
        "Open some of them next to their images. If the ids are exchanged, export the files again.",
        facts.files.first_paths(rows),
        len(rows),
        tuple(int(facts.class_id[order[k]]) for k in (i, j)),
    )


def _mirrored(ratio: NDArray[np.float64], both: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return which files have the opposite ratio, bool [n]; None unless they form a separate group."""
    values = ratio[both]
    usual, unusual = values[values > 0], values[values <= 0]
    if not len(unusual) or len(unusual) > MINORITY * len(values):
        return None
    middle = float(np.median(usual))
    spread = max(float(np.abs(usual - middle).max()), float(np.abs(unusual + middle).max()))
    # Few files are significant if their ratios hardly vary.
    is_narrow = spread <= middle / 4 and middle >= np.log(MIN_NARROW_RATIO)
    is_wide = spread <= middle / 2 and middle >= np.log(MIN_RATIO)
    is_wide &= len(values) >= MIN_WIDE_FILES and len(unusual) >= MIN_SWAPPED
    return both & (ratio <= 0) if is_narrow or is_wide else None


def _frequent_classes(facts: Facts) -> NDArray[np.intp]:
    """Return the indices, in `facts.class_id`, of the most frequent classes."""
    pixels = facts.class_pixels()[facts.class_id]
    return np.argsort(-pixels, kind="stable")[:MAX_CLASSES]


def _class_counts(facts: Facts) -> NDArray[np.float64] | None:
    """Return the pixels of the most frequent classes in each counted sample; None if there are too many."""
    order = _frequent_classes(facts)
    if len(order) < 2 or facts.counted * len(facts.raw_ids) > MAX_CELLS:
        return None
    class_of = facts.interpretation.class_of(facts.raw_ids)
    table = (class_of[:, None] == facts.class_id[order]).astype(np.float64)
    return np.concatenate([block.counts[block.status == 0] @ table for block in facts.table.blocks()])
