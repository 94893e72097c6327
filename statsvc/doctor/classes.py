"""Findings about classes: absent from a split, or mostly in a single file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural
from statsvc.doctor.finding import NOTICE, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

DOMINANT_SHARE = 0.5
"""Share of a class's pixels in one file above which its weight depends on that file."""

MIN_SAMPLES = 20
"""Number of samples below which such a share is normal."""


def absent_from_split(facts: Facts, explained: set[int]) -> Iterator[Finding]:
    """Yield a finding for each split without any pixel of a class that the dataset contains.

    explained  raw ids that other findings explain; classes with no other raw id are skipped
    """
    for split, raw_pixels in facts.split_pixels.items():
        if not facts.members[split].any():
            continue
        pixels = facts.class_pixels(raw_pixels)
        missing = facts.class_id[(pixels[facts.class_id] == 0) & ~_explained_classes(facts, explained)]
        if not len(missing) or not pixels.any():
            continue
        names = list_first(facts.interpretation.name(int(class_id)) for class_id in missing)
        is_training = "train" in split.lower()
        consequence = (
            f"The weights of split={split} are 0 for them, and a model does not learn them."
            if is_training
            else f"Scores on {split} do not cover them."
        )
        rows = np.unique(facts.largest_row[np.isin(facts.class_id, missing)])
        yield Finding(
            "absent_from_split",
            SERIOUS if is_training else NOTICE,
            f"{len(missing)} of {plural(len(facts.class_id), 'class')} without a pixel in {split}: {names}. "
            f"{consequence}",
            f"Create new splits, or move files that contain these classes to {split}.",
            facts.files.first_paths(rows),
            len(rows),
            tuple(missing.tolist()),
            facts.interpretation.largest_change(pixels, facts.class_pixels()),
        )


def hangs_on_one_file(facts: Facts, explained: set[int]) -> Iterator[Finding]:
    """Yield a finding for each class with most of its pixels in one file.

    explained  raw ids that other findings explain; classes with no other raw id are skipped
    """
    if facts.counted < MIN_SAMPLES:
        return
    interpretation, class_pixels = facts.interpretation, facts.class_pixels()
    pixels = class_pixels[facts.class_id]
    dominant = (facts.largest_pixels > DOMINANT_SHARE * pixels) & ~_explained_classes(facts, explained)
    before = interpretation.weights(class_pixels)
    for k in np.flatnonzero(dominant).tolist():
        class_id = int(facts.class_id[k])
        without_file = interpretation.weights(facts.class_pixels(facts.pixels - facts.largest_counts[k]))
        moves = None
        if before is not None and without_file is not None:
            moves = interpretation.weight_change(class_id, before, without_file)
        yield Finding(
            "hangs_on_one_file",
            NOTICE,
            f"{facts.largest_pixels[k] / pixels[k]:.0%} of the {plural(int(pixels[k]), 'pixel')} of class "
            f"{interpretation.name(class_id)} are in one of {plural(facts.counted, 'file')}. That file "
            "determines the weight of the class.",
            "Inspect the file. If it is correct, limit the weight with clip=lo,hi or use a method with a "
            "smaller range.",
            facts.files.first_paths(facts.largest_row[k : k + 1]),
            1,
            (class_id,),
            moves,
        )


def _explained_classes(facts: Facts, explained: set[int]) -> NDArray[np.bool_]:
    """Return which of the classes that occur, bool [T], consist of explained raw ids only."""
    is_explained = np.isin(facts.raw_ids, list(explained))
    others = facts.interpretation.class_of(facts.raw_ids[~is_explained])
    classes = facts.interpretation.class_of(np.array(sorted(explained), np.int64))
    return np.isin(facts.class_id, classes) & ~np.isin(facts.class_id, others)
