"""NPY label maps: integer and bool arrays, streamed block by block, so larger than memory is fine.

Format: NEP 1, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    colour_coded,
    packed_colours,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "NumPy array"
MAGIC = b"\x93NUMPY"


def open_label_map(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read the header; the pixels follow in storage order, whose kind does not matter for counting.

    Raises `UnreadableSample` for other than integers, for colour, and for a file shorter than it says.
    """
    shape, dtype = _header(file)
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise UnreadableSample(f"holds {dtype} records, not class ids; save a plain integer array")
    if dtype.kind not in "biu":
        raise UnreadableSample(
            f"holds {dtype.name} values, not class ids; if they are whole numbers, "
            "save array.astype('uint8') or another integer type"
        )
    if _is_colour(shape, dtype):
        raise colour_coded(f"shape {shape}, uint8; a volume of {shape[-1]} slices has the slices first")
    # Axes of length 1 say nothing: (1, H, W) and (H, W, 1) are label maps, too.
    axes = [length for length in shape if length != 1] or [1]
    width = axes[-1]
    height = math.prod(axes[:-1])
    check_pixels(height, width, max_pixels)
    start = file.tell()
    needed = start + height * width * dtype.itemsize
    if size < needed:
        raise UnreadableSample(f"is truncated: {size} bytes of {needed} for {shape} {dtype}; {COPY_AGAIN}")
    return LabelMap(Mode.ARRAY, height, width, _chunks(file, start, height * width, dtype))


def layout(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, type and where the pixels begin, of an array in C order. Raises `UnreadableSample`."""
    shape, dtype, fortran = _whole_header(file)
    if fortran and len(shape) > 1:
        raise UnreadableSample("is in Fortran order, in which an index along the first axis is scattered")
    if dtype.kind not in "biu" or dtype.subdtype:
        raise UnreadableSample(f"holds {dtype} values, not class ids; save an integer type")
    return shape, dtype, file.tell()


def open_part(file: BinaryIO, max_pixels: int, dtype: str, shape: tuple[int, ...]) -> LabelMap:
    """Open the bytes of an index along the first axis, which are an array of this type and shape."""
    width = ([length for length in shape if length != 1] or [1])[-1]
    height = math.prod(shape) // max(1, width)
    check_pixels(height, width, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _chunks(file, 0, height * width, np.dtype(dtype)))


def open_colours(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read an array of colours, uint8 [..., 3 or 4] in C order. Raises `UnreadableSample` for any other."""
    shape, dtype, fortran = _whole_header(file)
    if dtype != np.uint8 or len(shape) < 2 or shape[-1] not in (3, 4) or fortran:
        raise UnreadableSample(
            f"holds {dtype} {shape}, not colours (uint8, the last axis 3 or 4 long); leave --rule out if it "
            "holds class ids"
        )
    channels, width = shape[-1], shape[-2]
    height = math.prod(shape[:-2])
    check_pixels(height, width, max_pixels)
    start, needed = file.tell(), file.tell() + height * width * channels
    if size < needed:
        raise UnreadableSample(f"is truncated: {size} bytes of {needed} for {shape} {dtype}; {COPY_AGAIN}")
    # Read by whole pixels: a chunk's bytes are a multiple of them.
    pixel = np.dtype((np.void, channels))
    chunks = _chunks(file, start, height * width, pixel)
    colours = (packed_colours(chunk.view(np.uint8).reshape(-1, channels)) for chunk in chunks)
    return LabelMap(Mode.ARRAY, height, width, colours)


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    del size
    shape, dtype = _header(file)
    return Peek(f"array of {dtype.name}", dtype.kind not in "biu" or _is_colour(shape, dtype))


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, dtype, _ = _whole_header(file)
    return shape, dtype


def _whole_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            # Version 3 exists for field names outside Latin-1 only.
            raise UnreadableSample(f"is of NPY version {version}, for records; save a plain integer array")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        if isinstance(error, UnreadableSample):
            raise
        reason = str(error).splitlines()[0][:120]
        raise UnreadableSample(f"has a damaged NPY header ({reason}); {COPY_AGAIN}") from None
    if any(length < 0 for length in shape):
        raise UnreadableSample(f"has a damaged NPY header (shape {shape}); {COPY_AGAIN}")
    return shape, dtype, fortran


def _is_colour(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 and len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 1


def _chunks(file: BinaryIO, start: int, pixels: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    file.seek(start)
    while pixels:
        count = min(pixels, CHUNK_PIXELS)
        data = file.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise UnreadableSample(f"became shorter while it was read; {COPY_AGAIN}")
        yield np.frombuffer(data, dtype)
        pixels -= count
