"""NPY label maps: arrays of whole numbers, streamed block by block, so an array may be larger than memory.

Format: NEP 1, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

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
    equal_channels,
    long_axes,
    packed_colors,
    size_without_unit_axes,
    volume_of,
    whole_numbers,
)
from statsvc_workers.formats.blocks import is_color

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

NAME = "NumPy array"
MAGIC = b"\x93NUMPY"

MAX_HEADER_BYTES = 1 << 16
"""Largest header; NumPy itself accepts 10,000 characters."""


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header of an array; its elements are counted in storage order.

    Raises `UnreadableSample` for elements that are not whole numbers, for a color image, and for a file
    shorter than its header requires.
    """
    shape, dtype, fortran = _header(file)
    _check_type(dtype)
    if is_color(shape, dtype):
        file.seek(0)
        return _equal_channels(open_channels(file, size, max_pixels), shape)
    height, width = size_without_unit_axes(shape)
    check_pixels(height, width, max_pixels)
    start = file.tell()
    _check_size(size, start + height * width * dtype.itemsize, shape, dtype)
    chunks = _whole(_chunks(file, start, height * width, dtype))
    layout, volume = _layout(shape, fortran=fortran), volume_of(shape)
    return LabelMap(Mode.ARRAY, height, width, chunks, axes=len(shape), layout=layout, volume=volume)


def _equal_channels(label_map: LabelMap, shape: tuple[int, ...]) -> LabelMap:
    text = f"shape {shape}, uint8; if it is a volume, save it with the slices as first axis"
    label_map.chunks = (equal_channels(pixels, text) for pixels in label_map.chunks)
    label_map.axes = len(shape)
    return label_map


def open_channels(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Open the channels of an array: its last axis or, where that is longer, its first axis.

    Raises `UnreadableSample` for an array of fewer than three axes.
    """
    shape, dtype, fortran = _header(file)
    _check_type(dtype)
    stored = shape[::-1] if fortran else shape
    if len(shape) < 3:
        raise UnreadableSample(f"has the shape {shape}, without an axis of channels; omit --rule channel")
    channels = min(stored[0], stored[-1])
    pixels = math.prod(shape) // max(1, channels)
    width = stored[-2] if stored[-1] == channels else stored[-1]
    check_pixels(pixels // max(1, width), width, max_pixels)
    start = file.tell()
    _check_size(size, start + math.prod(shape) * dtype.itemsize, shape, dtype)
    chunks: Iterator[NDArray[Any]]
    if stored[-1] == channels:
        # An element is a whole pixel, so that no chunk ends within one.
        pixel = np.dtype((np.void, channels * dtype.itemsize))
        parts = _chunks(file, start, pixels, pixel)
        chunks = (part.view(dtype).reshape(-1, channels) for part in parts)
    else:
        whole = np.concatenate(list(_chunks(file, start, math.prod(shape), dtype)))
        chunks = iter((whole.reshape(channels, -1).T,))
    layout: Literal["rows"] | None = "rows" if len(shape) == 3 and not fortran else None
    integers = (_integers(chunk) for chunk in chunks)
    return LabelMap(Mode.ARRAY, pixels // width, width, integers, layout=layout)


def open_array(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> NDArray[Any]:
    """Read a whole array of numbers."""
    shape, dtype, fortran = _header(file)
    _check_type(dtype)
    check_pixels(math.prod(shape), 1, max_pixels)
    start = file.tell()
    _check_size(size, start + math.prod(shape) * dtype.itemsize, shape, dtype)
    flat = np.concatenate(list(_chunks(file, start, math.prod(shape), dtype)))
    return flat.reshape(shape, order="F" if fortran else "C")


def _check_type(dtype: np.dtype[Any]) -> None:
    """Raise `UnreadableSample` for values that cannot be whole numbers."""
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise UnreadableSample(f"contains {dtype} records, not class ids; save a plain integer array")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(
            f"contains {dtype.name} values, not class ids; if they are whole numbers, "
            "save array.astype('uint8') or another integer type"
        )


def _integers(chunk: NDArray[Any]) -> NDArray[Any]:
    return whole_numbers(chunk) if chunk.dtype.kind == "f" else chunk


def _whole(chunks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for chunk in chunks:
        yield _integers(chunk)


def layout(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return (shape, dtype, offset of the first element in bytes) of an array in C order.

    Raises `UnreadableSample` for Fortran order and for types that cannot store whole numbers.
    """
    shape, dtype, fortran = _header(file)
    if fortran and len(shape) > 1:
        raise UnreadableSample(
            "is in Fortran order, which scatters an index of the first axis over the file; save it in C order"
        )
    _check_type(dtype)
    return shape, dtype, file.tell()


def open_part(file: BinaryIO, max_pixels: int, dtype: str, shape: tuple[int, ...]) -> LabelMap:
    """Open the bytes of one index along the first axis: an array of this dtype and shape."""
    height, width = size_without_unit_axes(shape)
    check_pixels(height, width, max_pixels)
    chunks = _whole(_chunks(file, 0, height * width, np.dtype(dtype)))
    return LabelMap(Mode.ARRAY, height, width, chunks, layout=_layout(shape))


def open_colors(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Open an array of colors, uint8 [..., 3 or 4] in C order. Raises `UnreadableSample` for any other."""
    shape, dtype, fortran = _header(file)
    if dtype != np.uint8 or len(shape) < 2 or shape[-1] not in (3, 4) or fortran:
        raise UnreadableSample(
            f"contains {dtype} of shape {shape}, not colors (uint8 with a last axis of length 3 or 4); omit "
            "--rule if it contains class ids"
        )
    channels, width = shape[-1], shape[-2]
    height = math.prod(shape[:-2])
    check_pixels(height, width, max_pixels)
    start = file.tell()
    _check_size(size, start + height * width * channels, shape, dtype)
    # An element is a whole pixel, so that no chunk ends within one.
    pixel = np.dtype((np.void, channels))
    chunks = _chunks(file, start, height * width, pixel)
    colors = (packed_colors(chunk.view(np.uint8).reshape(-1, channels)) for chunk in chunks)
    layout, volume = _layout(shape[:-1]), volume_of(shape[:-1])
    return LabelMap(Mode.ARRAY, height, width, colors, layout=layout, volume=volume)


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    shape, dtype, _ = _header(file)
    return Peek(f"array of {dtype.name}", dtype.kind not in "biu" or is_color(shape, dtype))


FORMAT = Format(NAME, (MAGIC,), open_label_map, peek, open_colors, open_channels, open_array)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Read the header; return (shape, dtype, whether the array is in Fortran order)."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            # Version 3 is used only for field names outside Latin-1.
            raise UnreadableSample(f"has NPY version {version}, for records; save a plain integer array")
        # NumPy reads the whole header before it checks the length.
        length_bytes = file.read(2 * version[0])
        length = int.from_bytes(length_bytes, "little")
        if length > MAX_HEADER_BYTES:
            raise UnreadableSample(f"has a damaged NPY header ({length} bytes); {COPY_AGAIN}")
        shape, fortran, dtype = readers[version](io.BytesIO(length_bytes + file.read(length)))
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        # Python's parser raises MemoryError, too, for an expression that is nested too deeply.
        if isinstance(error, UnreadableSample):
            raise
        reason = (str(error) or "it is nested too deeply").splitlines()[0][:120]
        raise UnreadableSample(f"has a damaged NPY header ({reason}); {COPY_AGAIN}") from None
    if any(length < 0 for length in shape):
        raise UnreadableSample(f"has a damaged NPY header (shape {shape}); {COPY_AGAIN}")
    return shape, dtype, fortran


def _layout(shape: Sequence[int], *, fortran: bool = False) -> Literal["rows", "columns"] | None:
    """Return the order in which the pixels of an array are stored; None if it has more than three axes."""
    if long_axes(shape) is None:
        return None
    return "columns" if fortran else "rows"


def _check_size(size: int, needed: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if size < needed:
        raise UnreadableSample(f"is truncated: {size} bytes of {needed} for {shape} {dtype}; {COPY_AGAIN}")


def _chunks(file: BinaryIO, start: int, pixels: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    file.seek(start)
    while pixels:
        count = min(pixels, CHUNK_PIXELS)
        data = file.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise UnreadableSample(f"became shorter while it was being read; {COPY_AGAIN}")
        yield np.frombuffer(data, dtype)
        pixels -= count
