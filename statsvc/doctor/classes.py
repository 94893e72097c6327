"""Findings about classes: absent from a split, or known from one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.doctor.finding import NOTICE, SERIOUS, Finding, listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    Int64 = NDArray[np.int64]

HANGS = 0.5
"""Share of a class's pixels in one file from which its weight hangs on it."""

ENOUGH = 20
"""Samples from which that is remarkable."""


def absent_from_split(facts: Facts, explained: set[int]) -> Iterator[Finding]:
    """Classes that the dataset has and a split of it lacks, but those that are no classes."""
    for split, raw_pixels in facts.split_pixels.items():
        if not facts.members[split].any():
            continue
        pixels = facts.class_pixels(raw_pixels)
        missing = facts.class_id[(pixels[facts.class_id] == 0) & ~_are(facts, explained)]
        if not len(missing) or not pixels.any():
            continue
        names = listed(facts.basis.name(int(class_id)) for class_id in missing)
        training = "train" in split.lower()
        rows = facts.most_row[np.isin(facts.class_id, missing)]
        yield Finding(
            "absent_from_split",
            SERIOUS if training else NOTICE,
            f"{len(missing)} of {plural(len(facts.class_id), 'class')} without a pixel in {split}: {names}",
            f"weights of split={split} are 0 there and nothing is learnt of them: split anew, or move files "
            "such as these into it"
            if training
            else f"scores of {split} say nothing of them: split anew, or move files such as these into it",
            facts.files.named(np.unique(rows)),
            len(np.unique(rows)),
            tuple(missing.tolist()),
            facts.basis.moved(pixels, facts.class_pixels()),
        )


def hangs_on_one_file(facts: Facts, explained: set[int]) -> Iterator[Finding]:
    """Classes of which one file has most pixels: its weight is that file's doing."""
    if facts.counted < ENOUGH:
        return
    pixels = facts.class_pixels()[facts.class_id]
    for k in np.flatnonzero((facts.most > HANGS * pixels) & ~_are(facts, explained)).tolist():
        class_id, row = int(facts.class_id[k]), facts.most_row[k : k + 1]
        before, without = (facts.basis.weights(p) for p in _with_and_without(facts, k))
        moves = None
        if before is not None and without is not None:
            moves = {
                "class": class_id,
                "name": facts.basis.name(class_id),
                "weight": float(before[class_id]),
                "mended": float(without[class_id]),
            }
        yield Finding(
            "hangs_on_one_file",
            NOTICE,
            f"{facts.most[k] / pixels[k]:.0%} of the {plural(int(pixels[k]), 'pixel')} of class "
            f"{facts.basis.name(class_id)} are in one of {plural(facts.counted, 'file')}",
            "look at the file; where it is right, soften the weight with clip=lo,hi or a gentler method",
            facts.files.named(row),
            1,
            (class_id,),
            moves,
        )


def _with_and_without(facts: Facts, k: int) -> tuple[Int64, Int64]:
    return facts.class_pixels(), facts.class_pixels(facts.pixels - facts.most_counts[k])


def _are(facts: Facts, explained: set[int]) -> NDArray[np.bool_]:
    """Return which classes, bool [T], are ids that another finding explains."""
    wrong = facts.basis.place(np.array(sorted(explained), np.int64))
    right = facts.basis.place(facts.raw_ids[~np.isin(facts.raw_ids, list(explained))])
    return np.isin(facts.class_id, wrong) & ~np.isin(facts.class_id, right)
