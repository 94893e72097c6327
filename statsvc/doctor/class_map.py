"""A finding about a class map that was made for other ids than those in the label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes.class_maps import IGNORE
from statsvc.common.plurals import plural
from statsvc.doctor.finding import NOTICE, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap

    Int64 = NDArray[np.int64]

OUTSIDE_SHARE = 0.5
"""Share of the pixels with ids that the class map does not contain above which it is the wrong map."""

ABSENT_SHARE = 0.5
"""Share of the ids and of the classes of a class map that never occur above which it may be the wrong map."""

_FIX = (
    "Check which ids the class map is made for, and choose another one with --class-map. --class-map none "
    "counts the ids as they are."
)


def made_for_other_ids(
    class_map: ClassMap,
    raw_ids: Int64,
    pixels: Int64,
    samples: int | None,
    files_with: Callable[[Int64], tuple[tuple[str, ...], int]] = lambda _ids: ((), 0),
) -> Finding | None:
    """Return a finding if the map does not contain most pixels, or if most of its ids never occur.

    raw_ids     int64 [K], without those that other findings explain
    pixels      int64 [K], total pixels of each
    samples     number of counted samples; None if unknown. Few images do not contain every class, so ids that
                never occur are reported from as many samples on as the map has ids of classes
    files_with  returns paths of samples that contain these ids, and the number of samples
    """
    raw_ids, pixels = raw_ids[pixels > 0], pixels[pixels > 0]
    most_first = np.argsort(-pixels, kind="stable")
    raw_ids, pixels = raw_ids[most_first], pixels[most_first]
    outside = ~class_map.apply(raw_ids)[1]
    all_pixels, outside_pixels = sum(pixels.tolist()), sum(pixels[outside].tolist())
    class_of = {raw: target for raw, target in class_map.targets if 0 <= target != IGNORE}
    if outside_pixels > OUTSIDE_SHARE * all_pixels:
        files, count = files_with(raw_ids[outside])
        return Finding(
            "class_map",
            SERIOUS,
            f"{outside_pixels / all_pixels:.1%} of the pixels have ids that the class map {class_map.name} "
            f"does not contain, so they are not counted: {list_first(raw_ids[outside].tolist())}. It maps "
            f"{list_first(class_of) or 'no other ids'} to classes.",
            _FIX,
            files,
            count,
            tuple(raw_ids[outside].tolist()),
        )
    occurring = set(raw_ids.tolist()) & set(class_of)
    absent = [raw for raw in class_of if raw not in occurring]
    classes = set(class_of.values())
    present_classes = {class_of[raw] for raw in occurring}
    if (
        len(absent) <= ABSENT_SHARE * len(class_of)
        or len(classes - present_classes) <= ABSENT_SHARE * len(classes)
        or (samples is not None and samples < len(class_of))
    ):
        return None
    return Finding(
        "class_map",
        NOTICE,
        f"{len(absent)} of the {plural(len(class_of), 'id')} that the class map {class_map.name} maps to "
        f"classes never occur: {list_first(absent)}. The label maps contain {list_first(raw_ids.tolist())}.",
        _FIX,
        ids=tuple(absent),
    )
