"""Counting rules: what a histogram over the numbers in a file says about class ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes.palettes import UNKNOWN
from statsvc.dataset.counting_rule import VALUE
from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting

    Int64 = NDArray[np.int64]

UNKNOWN_COLOURS = 32
"""Most colours outside the palette that one label map may have; more are soft edges, or a photograph."""

VOID = -1
"""The id of pixels that belong to no segment."""


def merged(ids: Int64, counts: Int64) -> tuple[Int64, Int64]:
    """Return ids ascending, each once, with the sums of their counts: int64 [k], int64 [k]."""
    unique, place = np.unique(ids, return_inverse=True)
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, place, counts)
    return unique, total


def applied(counting: Counting, ids: Int64, counts: Int64) -> tuple[Int64, Int64]:
    """Return the histogram over raw ids of one over the numbers of a file, by the dataset's rule.

    Raises `UnreadableSample` for a label map of many colours that the palette does not have.
    """
    if counting.rule == VALUE:
        return ids, counts
    if counting.palette is not None:
        return _by_palette(counting, ids, counts)
    if counting.rule == "id // 1000":
        return merged(np.where(ids < 1000, ids, ids // 1000), counts)
    if counting.rule == "id // 256":
        return merged(ids // 256, counts)
    assert counting.rule == "id % 65536"
    return merged(ids % 65536, counts)


def by_segments(category_of: Mapping[int, int], ids: Int64, counts: Int64) -> tuple[Int64, Int64]:
    """Return the histogram over categories of one over colours 0xRRGGBB, by COCO's panoptic rule.

    A segment's id is R + 256·G + 65536·B; 0 is no segment and becomes `VOID`. Format:
    https://cocodataset.org/#format-data. Raises `UnreadableSample` for a segment that is not listed.
    """
    segments = (ids >> 16) | (ids & 0xFF00) | ((ids & 0xFF) << 16)
    unknown = [int(segment) for segment in segments if segment and int(segment) not in category_of]
    if unknown:
        raise UnreadableSample(
            f"has the segment {unknown[0]}, which its annotation does not list; "
            "PNG and JSON do not belong together: take both from one release"
        )
    categories = [category_of[int(segment)] if segment else VOID for segment in segments]
    return merged(np.array(categories, np.int64), counts)


def too_many_colours() -> UnreadableSample:
    """Return the refusal of a picture of thousands of colours."""
    return UnreadableSample(
        "has thousands of colours, so it is no colour-coded label map: a photograph, or labels that were "
        "resized with interpolation or saved lossily; choose the label maps with --pattern"
    )


def _by_palette(counting: Counting, ids: Int64, counts: Int64) -> tuple[Int64, Int64]:
    assert counting.palette is not None
    table = np.array(
        [((red << 16) | (green << 8) | blue, raw) for red, green, blue, raw in counting.palette.colors],
        np.int64,
    )
    table = table[np.argsort(table[:, 0])]
    at = np.minimum(np.searchsorted(table[:, 0], ids), len(table) - 1)
    known = table[at, 0] == ids
    strange = int(np.count_nonzero(~known))
    if strange > UNKNOWN_COLOURS:
        most = ids[~known][np.argsort(-counts[~known])][:3]
        share = counts[~known].sum() / counts.sum()
        raise UnreadableSample(
            f"has {strange} colours that the palette {counting.palette.name} lacks "
            f"({', '.join(f'#{colour:06x}' for colour in most)}, …), {share:.1%} of its pixels: another "
            "palette, or labels that were resized with interpolation, smoothed or saved lossily"
        )
    return merged(np.where(known, table[at, 1], ids + UNKNOWN), counts)
