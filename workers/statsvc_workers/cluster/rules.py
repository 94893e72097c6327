"""Counting rules: from the numbers in a file to raw ids.

To add a rule that computes a raw id from a number, add it to `ARITHMETIC` in `statsvc.dataset.counting_rule`
and to `RAW_IDS` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes.palettes import UNKNOWN
from statsvc.dataset.counting_rule import VALUE
from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from statsvc.classes.palettes import Palette
    from statsvc.dataset.counting_rule import Counting

    Int64 = NDArray[np.int64]

RAW_IDS: dict[str, Callable[[Int64], Int64]] = {
    "id // 1000": lambda ids: np.where(ids < 1000, ids, ids // 1000),
    "id // 256": lambda ids: ids // 256,
    "id % 65536": lambda ids: ids % 65536,
}
"""Counting rule → function from the numbers in a file to raw ids, int64 [k] each."""

IS_OBJECT: dict[str, Callable[[Int64], NDArray[np.bool_]]] = {
    # https://github.com/mcordts/cityscapesScripts: an id below 1000 is a class, or a group of its objects
    "id // 1000": lambda ids: ids >= 1000,
    # The instance 0 is the class itself: https://www.cvlibs.net/datasets/kitti/eval_semantics.php
    "id // 256": lambda ids: ids % 256 != 0,
    # https://www.semantic-kitti.org/dataset.html: the upper 16 bits are the instance
    "id % 65536": lambda ids: ids // 65536 != 0,
}
"""Counting rule → function from the numbers in a file to whether each is an object, int64 [k] to bool [k]."""

MAX_UNKNOWN_COLORS = 32
"""Most colors outside the palette in one label map; more are blurred edges, or a photograph."""

LISTED_COLORS = 3
"""Colors that an error message lists."""

VOID = -1
"""Raw id of pixels that belong to no segment."""


def raw_ids(counting: Counting, ids: Int64, counts: Int64) -> Int64:
    """Return the raw id of each of the distinct numbers in a file, int64 [k].

    counts  int64 [k], pixels of each number

    Raises `UnreadableSample` for a label map with many colors outside the palette.
    """
    if counting.rule == VALUE or counting.masks or (counting.channel, counting.axis) != (None, None):
        return ids
    if counting.palette is not None:
        return _palette_ids(counting.palette, ids, counts)
    return RAW_IDS[counting.rule](ids)


def segment_ids(category_of: Mapping[int, int], ids: Int64) -> Int64:
    """Return the COCO category of each color 0xRRGGBB, int64 [k].

    In COCO's panoptic format, https://cocodataset.org/#format-data, the color of a segment encodes its id as
    R + 256·G + 65536·B; the id 0 means that there is no segment, and becomes `VOID`.

    Raises `UnreadableSample` for a segment that is not in `category_of`.
    """
    segments = (ids >> 16) | (ids & 0xFF00) | ((ids & 0xFF) << 16)
    unknown = [int(segment) for segment in segments if segment and int(segment) not in category_of]
    if unknown:
        raise UnreadableSample(
            f"contains the segment {unknown[0]}, which its annotation does not list. PNG and JSON do not "
            "match; use both from the same release"
        )
    categories = [category_of[int(segment)] if segment else VOID for segment in segments]
    return np.array(categories, np.int64)


def is_segment(ids: Int64) -> NDArray[np.bool_]:
    """Return which colors are segments of COCO's panoptic format, bool [k]; 0 means that there is none."""
    return np.asarray(ids != 0, np.bool_)


def too_many_colors() -> UnreadableSample:
    """Return the error for an image with more colors than a histogram can contain."""
    return UnreadableSample(
        "has thousands of colors, so it cannot be a color-coded label map. It may be a photograph, or labels "
        "that were resized with interpolation or saved with lossy compression; choose the label maps with "
        "--pattern"
    )


def _palette_ids(palette: Palette, ids: Int64, counts: Int64) -> Int64:
    """Return the ids of palette colors, and `UNKNOWN` plus the color for other colors."""
    table = np.array(
        [((red << 16) | (green << 8) | blue, raw) for red, green, blue, raw in palette.colors],
        np.int64,
    )
    table = table[np.argsort(table[:, 0])]
    position = np.minimum(np.searchsorted(table[:, 0], ids), len(table) - 1)
    known = table[position, 0] == ids
    unknown_colors = int(np.count_nonzero(~known))
    if unknown_colors > MAX_UNKNOWN_COLORS:
        frequent = ids[~known][np.argsort(-counts[~known])][:LISTED_COLORS]
        share = counts[~known].sum() / counts.sum()
        raise UnreadableSample(
            f"has {unknown_colors} colors that are not in the palette {palette.name} "
            f"({', '.join(f'#{color:06x}' for color in frequent)}, …), on {share:.1%} of its pixels. Use "
            "another palette, or labels that were not resized with interpolation, smoothed or saved with "
            "lossy compression"
        )
    return np.where(known, table[position, 1], ids + UNKNOWN)
