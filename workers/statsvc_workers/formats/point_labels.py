"""One class for each point of a lidar scan: SemanticKITTI `.label` and nuScenes `_lidarseg.bin` files.

SemanticKITTI has the class in the lower 16 of 32 bits, and the number of the object in the upper 16 bits; see
http://semantic-kitti.org/dataset.html#format. nuScenes has 8 bits; see docs/instructions_lidarseg.md in
https://github.com/nutonomy/nuscenes-devkit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KITTI, NUSCENES = "SemanticKITTI label file", "nuScenes lidarseg file"
POINT: dict[str, np.dtype[Any]] = {KITTI: np.dtype("<u4"), NUSCENES: np.dtype("u1")}
CLASS_BITS = 0xFFFF


def open_label_map(
    file: BinaryIO, size: int, max_pixels: int, _key: str | None = None, *, name: str
) -> LabelMap:
    """Return the classes of the points of one scan, as one row."""
    points, rest = divmod(size, POINT[name].itemsize)
    if rest:
        raise UnreadableSample(
            f"is not a valid {name}: {size} bytes are not a multiple of {POINT[name].itemsize}; {COPY_AGAIN}"
        )
    check_pixels(1, points, max_pixels)
    return LabelMap(Mode.ARRAY, 1, points, _chunks(file, POINT[name]))


def peek(_file: BinaryIO, size: int, *, name: str) -> Peek:
    """Return the number of points."""
    return Peek(f"{size // POINT[name].itemsize} points", color=False)


FORMAT, LIDARSEG = (
    Format(name, (b"",), partial(open_label_map, name=name), partial(peek, name=name))
    for name in (KITTI, NUSCENES)
)


def _chunks(file: BinaryIO, point: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    while data := file.read(CHUNK_PIXELS * point.itemsize):
        values = np.frombuffer(data, point)
        yield values if point.itemsize == 1 else (values & CLASS_BITS).astype(np.uint16)
