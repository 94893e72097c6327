"""Findings about values in the label maps that are not class ids: masks, images, instances, no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural, plural_with_verb
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.facts import MASK_SHARE, MAX_PLAUSIBLE_ID
from statsvc.doctor.finding import MAX_FILES, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

SPARSE_IDS = 10
"""How many times as many ids as occur lie below the highest one where ids number objects."""

NUMBERED_SHARE = 0.95
"""Share of files with the ids 1 … k from which the ids number objects."""

MIN_NUMBERS = 5
"""Different numbers of objects per file below which ids 1 … k may be classes."""

MIN_OBJECTS = 16
"""Number of ids in one file up to which ids 1 … k may be classes."""

NODATA = (99, 127, 254, 999, 9999, 2**15 - 1, 2**31 - 1)
"""Usual values of pixels without data; 65535 and 4294967295 are findings of `wrong_sign`."""


def binary_masks(facts: Facts) -> Finding | None:
    """Return a finding about masks of 0 and 255 while 255 is ignored, so that no masked pixel is counted."""
    rows, mask_pixels = facts.flagged["mask"], facts.flagged_pixels["mask"]
    white = facts.raw_ids == 255
    white_elsewhere = (facts.pixels - mask_pixels)[white].sum()
    if not rows.any() or white_elsewhere or facts.interpretation.class_of(np.array([255]))[0] >= 0:
        return None
    only_masks = facts.pixels[(facts.raw_ids != 0) & ~white].sum() == 0
    if not only_masks and facts.mask_share < MASK_SHARE:
        return None  # a border of void around an empty scene
    white_pixels, count = int(mask_pixels[white].sum()), int(rows.sum())
    before = np.zeros(max(2, facts.interpretation.classes), np.int64)
    before[: facts.interpretation.classes] = facts.class_pixels()
    after = before.copy()
    after[1] += white_pixels
    return Finding(
        "binary_masks",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'contains', 'contain')} only the values 0 and 255, and 255 is "
        f"ignored. The {plural(white_pixels, 'pixel')} inside the masks are not counted.",
        "Map 255 to class 1 with --class-map binary."
        if only_masks
        else "Exclude these masks with --pattern, or convert them to the ids of the other files.",
        facts.files.first_paths(rows),
        count,
        (255,),
        facts.interpretation.largest_change(before, after),
    )


def images(facts: Facts) -> Finding | None:
    """Return a finding about files with as many ids as an image has brightness values."""
    rows = facts.flagged["photo"]
    if not rows.any() or facts.table.configuration.counting.rule != VALUE:
        return None
    count = int(rows.sum())
    pixels = facts.flagged_pixels["photo"]
    others = facts.pixels - pixels
    exclusive = facts.raw_ids[(pixels > 0) & (others == 0)]
    return Finding(
        "images",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'has', 'have')} at least {int(facts.ids_per_sample[rows].min())} "
        "different ids, none of them frequent. Images have this many brightness values; label maps do not.",
        "Exclude the images with --pattern. If they are depths or instance ids, choose files with class ids.",
        facts.files.first_paths(rows),
        count,
        tuple(exclusive.tolist()),
        facts.change_without(pixels) if count < facts.counted else None,
    )


def instance_ids(facts: Facts) -> Finding | None:
    """Return a finding about ids that number objects: far above their number, or 1 … k in each file."""
    configuration = facts.table.configuration
    if configuration.counting.rule != VALUE or configuration.class_map is not None:
        return None
    is_class = facts.interpretation.class_of(facts.raw_ids) >= 0
    ids = facts.raw_ids[is_class & (facts.pixels > 0) & ~facts.flagged_ids("photo")]
    if not len(ids):
        return None
    sparse = ids[ids > MAX_PLAUSIBLE_ID]
    if len(sparse) and ids[-1] + 1 > SPARSE_IDS * len(ids):
        found = (
            f"Only {plural(len(ids), 'id')} of 0 to {ids[-1]} occur, for example {list_first(sparse, 4)}. "
            "Such ids number objects, or mark pixels without data; they are not classes."
        )
        explained, rows = sparse, facts.paths_with(sparse)
    elif (numbered := _numbered(facts)) is not None:
        found = (
            f"In {numbered:.0%} of the files the ids are 1 to the number of ids, up to {ids[-1]}, and fewer "
            "files contain higher ids. Such ids number the objects of an image; they are not classes."
        )
        explained, rows = ids[ids > 0], facts.files.first_paths(facts.consecutive)
    else:
        return None
    return Finding(
        "instance_ids",
        SERIOUS,
        found,
        "Choose the files with class ids with --pattern, derive them with --rule 'id // 1000' or 'id // 256' "
        "if the ids encode classes, map all objects to one class, or ignore ids with --ignore-index.",
        rows,
        int((facts.ids_per_sample > 0).sum()) if not len(sparse) else int(facts.images[is_class].max()),
        tuple(explained.tolist()),
    )


def _numbered(facts: Facts) -> float | None:
    """Return the share of files whose ids are 1 … k, if they number objects; None otherwise."""
    counted = facts.files.status == 0
    share = facts.consecutive[counted].mean() if counted.any() else 0.0
    numbers = facts.ids_per_sample[facts.consecutive]
    distinct = len(np.unique(numbers))
    high = len(numbers) and numbers.max() > MIN_OBJECTS
    return float(share) if share >= NUMBERED_SHARE and distinct >= MIN_NUMBERS and high else None


def nodata(facts: Facts) -> Finding | None:
    """Return a finding about a usual nodata value, far above the other ids, that is counted as a class."""
    configuration = facts.table.configuration
    if configuration.counting.rule != VALUE or configuration.class_map is not None:
        return None
    is_class = (facts.interpretation.class_of(facts.raw_ids) >= 0) & (facts.pixels > 0)
    ids = facts.raw_ids[is_class]
    if len(ids) < 2 or ids[-1] not in NODATA or ids[-1] < 4 * (ids[-2] + 2):
        return None
    column = np.flatnonzero(facts.raw_ids == ids[-1])
    without = np.where(facts.raw_ids == ids[-1], facts.pixels, 0)
    return Finding(
        "nodata",
        SERIOUS,
        f"The id {ids[-1]} ({plural(int(facts.pixels[column[0]]), 'pixel')}) is far above the other ids (up "
        f"to {ids[-2]}) and a usual value for pixels without data, but it is counted as a class.",
        f"Ignore it with --ignore-index {ids[-1]},255.",
        _examples_in_rows(facts, int(column[0])),
        int(facts.images[column[0]]),
        (int(ids[-1]),),
        facts.change_without(without),
    )


def _examples_in_rows(facts: Facts, column: int) -> tuple[str, ...]:
    """Return paths of the first samples that contain the raw id of a column; reads the rows a second time."""
    rows: list[int] = []
    start = 0
    for block in facts.table.blocks():
        rows += (start + np.flatnonzero(block.counts[:, column] > 0)).tolist()
        start += len(block.path)
        if len(rows) >= MAX_FILES:
            break
    return facts.files.first_paths(np.array(rows[:MAX_FILES], np.int64))
