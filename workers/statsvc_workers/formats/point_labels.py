"""SemanticKITTI `.label` files: one class for each point of a scan, in the lower 16 of 32 bits.

The upper 16 bits number the objects. Format: http://semantic-kitti.org/dataset.html#format.
"""

from __future__ import annotations

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

NAME = "SemanticKITTI label file"
POINT = np.dtype("<u4")
CLASS_BITS = 0xFFFF


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Return the classes of the points of one scan, as one row."""
    points, rest = divmod(size, POINT.itemsize)
    if rest:
        raise UnreadableSample(
            f"is no {NAME}: {size} bytes are not a multiple of {POINT.itemsize}; {COPY_AGAIN}"
        )
    check_pixels(1, points, max_pixels)
    return LabelMap(Mode.ARRAY, 1, points, _chunks(file))


def peek(_file: BinaryIO, size: int) -> Peek:
    """Return the number of points."""
    return Peek(f"{size // POINT.itemsize} points", color=False)


FORMAT = Format(NAME, (b"",), open_label_map, peek)


def _chunks(file: BinaryIO) -> Iterator[NDArray[Any]]:
    while data := file.read(CHUNK_PIXELS * POINT.itemsize):
        yield (np.frombuffer(data, POINT) & CLASS_BITS).astype(np.uint16)
