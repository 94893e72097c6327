"""Findings about label maps from whose ids 1 was subtracted: all of them twice, or only some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural, plural_with_verb
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.finding import SERIOUS, Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

MIN_REDUCED = 3
"""Files with, and without, 255 below which their frequencies are not compared."""

MIN_SIMILARITY, MAX_SIMILARITY = 0.8, 0.6
"""Share that the distributions of files with and without 255 have in common: shifted by 1, and as stored."""

REDUCING_MAPS = ("reduce_zero_label", "ade20k")
"""Class maps of label maps with 0 for void, from whose ids 1 is subtracted."""


def reduced_twice(facts: Facts) -> Finding | None:
    """Return a finding about a class map that subtracts 1 from ids from which 1 was already subtracted."""
    class_map = facts.table.configuration.class_map
    if class_map is None or class_map.name not in REDUCING_MAPS:
        return None
    white = facts.raw_ids == 255
    if not facts.pixels[white].sum():
        return None
    before = facts.class_pixels()
    return Finding(
        "reduced_twice",
        SERIOUS,
        f"The class map {class_map.name} subtracts 1 from every id and ignores 0, but the files contain 255 "
        f"({plural(int(facts.pixels[white].sum()), 'pixel')}), which only label maps that were already "
        "reduced have. The first class is ignored, and every other class counts for the one before it.",
        "Omit the class map (--class-map none), also in training, or use the original files.",
        facts.paths_with(np.array([255])),
        int(facts.images[white].max()),
        (255,),
        facts.interpretation.largest_change(before, np.roll(before, 1)),
    )


def reduced_partly(facts: Facts) -> Finding | None:
    """Return a finding about some files from whose ids 1 was subtracted, and 0 replaced by 255."""
    configuration = facts.table.configuration
    rows = facts.flagged["white"]
    others = (facts.files.status == 0) & ~rows
    if configuration.counting.rule != VALUE or min(rows.sum(), others.sum()) < MIN_REDUCED:
        return None
    reduced = _share_of_ids(facts, facts.flagged_pixels["white"])
    plain = _share_of_ids(facts, facts.pixels - facts.flagged_pixels["white"])
    if plain[0] == 0 or plain[255] or not (reduced[:255] > 0).any():
        return None
    # Subtracting 1 modulo 256 turns the histogram of the other files into that of these files.
    shifted, same = np.roll(plain, -1), plain
    if _similarity(reduced, shifted) < MIN_SIMILARITY or _similarity(reduced, same) > MAX_SIMILARITY:
        return None
    count = int(rows.sum())
    return Finding(
        "reduced_partly",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'contains', 'contain')} 255, and the other files have the same "
        "frequencies for the next higher ids. reduce_zero_label was probably applied to these files only, so "
        "the same class has two ids.",
        "Export these files again, or apply the same step to all files.",
        facts.files.first_paths(rows),
        count,
    )


def _share_of_ids(facts: Facts, pixels: Int64) -> NDArray[np.float64]:
    """Return the share of the ids 0 … 255, float64 [256], given the pixels of raw ids, int64 [K]."""
    shares = np.zeros(256)
    known = (facts.raw_ids >= 0) & (facts.raw_ids < 256)
    shares[facts.raw_ids[known]] = pixels[known]
    return np.asarray(shares / max(1.0, shares.sum()), np.float64)


def _similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the share that two distributions have in common, 0 … 1."""
    return float(np.minimum(first, second).sum())
