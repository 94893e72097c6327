"""The label map of one picture whose classes are stored as one binary mask per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from statsvc.classes.palettes import OVERLAP
from statsvc.errors import UnreadableSample
from statsvc_workers.formats import FORMATS, LabelMap, Mode, extension, open_label_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray


def open_masks(masks: Sequence[tuple[str, BinaryIO, int]], max_pixels: int, key: str | None) -> LabelMap:
    """Merge masks, (path, file, class id) each: 0 outside all of them, `OVERLAP` inside several.

    The masks of one class are joined. Raises `UnreadableSample` for a mask with more than two values, and for
    masks of different sizes.
    """
    ids: NDArray[np.int32] | None = None
    size = (0, 0)
    for path, file, class_id in masks:
        name = path.rpartition("/")[2]
        mask = open_label_map(path, file, max_pixels, key=key)
        if ids is None:
            size = (mask.height, mask.width)
            ids = np.zeros(mask.height * mask.width, np.int32)
        if (mask.height, mask.width) != size:
            raise UnreadableSample(
                f"has the mask {name} of {mask.width} x {mask.height} pixels, but another one of {size[1]} x "
                f"{size[0]}"
            )
        foreground: int | None = None
        position = 0
        for chunk in _ordered(mask, path, file, max_pixels, key):
            flat = chunk.reshape(-1)
            inside = flat != 0
            values = np.unique(flat[inside])
            if len(values) > 1 or (len(values) and foreground not in (None, values[0])):
                found = ", ".join(map(str, [*([] if foreground is None else [foreground]), *values[:3]]))
                raise UnreadableSample(
                    f"has the mask {name}, which is not binary: it contains the values {found}"
                )
            foreground = int(values[0]) if len(values) else foreground
            part = ids[position : position + len(flat)]
            overlap = inside & (part != 0) & (part != class_id)
            part[inside] = class_id
            part[overlap] = OVERLAP
            position += len(flat)
    assert ids is not None
    layout: Literal["rows"] | None = None if mask.layout is None else "rows"
    return LabelMap(Mode.GRAY, *size, [ids.reshape(size)], layout=layout, volume=mask.volume)


def _ordered(
    mask: LabelMap, path: str, file: BinaryIO, max_pixels: int, key: str | None
) -> Iterator[NDArray[Any]]:
    """Yield the pixels of a mask in an order that does not depend on how its file is divided."""
    file_format = FORMATS[extension(path)]
    if file_format.open_array is None or extension(path) in (".nii", ".nii.gz"):
        yield from mask.chunks
        return
    length = file.seek(0, 2)
    file.seek(0)
    yield np.ascontiguousarray(file_format.open_array(file, length, max_pixels, key))
