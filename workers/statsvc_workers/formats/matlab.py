"""MAT files: version 7.3, which is HDF5, and version 5, decoded as a whole by SciPy.

`key` names a variable, or a field of a struct: `GTcls.Segmentation`.
Format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import hdf5
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    color_coded,
    long_axes,
    size_without_unit_axes,
    volume_of,
    whole_numbers,
)
from statsvc_workers.formats.blocks import is_color

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "MAT file of version 5 or 7.3"
VERSION_5 = b"MATLAB 5.0 MAT-file"
MAGIC = (b"MATLAB 7.3 MAT-file", hdf5.MAGIC, VERSION_5)

HEADER_BYTES = 128
"""Bytes before the first variable of a file of version 5."""

COMPRESSED = 15
"""Type of a compressed variable."""

BLOCK = 1 << 20
"""Bytes that are decompressed in one step."""

MAX_VALUE_BYTES = 8

LISTED_ARRAYS = 8
"""Arrays that an error message lists."""


def open_label_map(file: BinaryIO, size: int, max_pixels: int, key: str | None = None) -> LabelMap:
    """Open the variable `key`, or the only array of two or more axes.

    Raises `UnreadableSample` for values that are not whole numbers, and for a damaged file.
    """
    if not _is_version_5(file):
        return hdf5.open_label_map(file, size, max_pixels, key)
    values = open_array(file, size, max_pixels, key)
    if is_color(values.shape, values.dtype):
        raise color_coded(f"shape {values.shape}, uint8")
    height, width = size_without_unit_axes(values.shape)
    check_pixels(height, width, max_pixels)
    values = np.ascontiguousarray(values)
    chunks = [whole_numbers(values) if values.dtype.kind == "f" else values]
    layout: Literal["rows"] | None = None if long_axes(values.shape) is None else "rows"
    volume = volume_of(values.shape)
    return LabelMap(Mode.ARRAY, height, width, chunks, axes=values.ndim, layout=layout, volume=volume)


def open_array(file: BinaryIO, size: int, max_pixels: int, key: str | None = None) -> NDArray[Any]:
    """Read a whole array of numbers."""
    if not _is_version_5(file):
        return hdf5.open_array(file, size, max_pixels, key)
    _check_sizes(file, size, max_pixels)
    arrays = _arrays(file, max_pixels, key)
    if key is None:
        arrays = {name: array for name, array in arrays.items() if min(array.shape) > 1}
    listed = list(arrays.items())[:LISTED_ARRAYS]
    names = ", ".join(f"{name} ({array.dtype} {array.shape})" for name, array in listed) or "none"
    if key is not None and key not in arrays:
        raise UnreadableSample(f"contains no array {key!r}; choose one of {names} with --key")
    if key is None and len(arrays) != 1:
        raise UnreadableSample(f"contains {len(arrays)} arrays ({names}); choose one with --key")
    return next(iter(arrays.values())) if key is None else arrays[key]


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the only array is."""
    if not _is_version_5(file):
        return hdf5.peek(file, size)
    from scipy.io import whosmat

    variables = [(name, shape, kind) for name, shape, kind in whosmat(file) if max(shape) > 1]
    name, shape, kind = variables[0]
    return Peek(f"MAT variable {name} of {kind}", kind == "uint8" and is_color(shape, np.uint8))


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_array=open_array)


def _is_version_5(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(len(VERSION_5))
    file.seek(0)
    return head == VERSION_5


def _check_sizes(file: BinaryIO, size: int, max_pixels: int) -> None:
    """Raise `UnreadableSample` for a file that is truncated, or that decompresses to too many bytes.

    SciPy decompresses a variable as a whole, of whatever size.
    """
    limit = MAX_VALUE_BYTES * max_pixels + BLOCK
    file.seek(HEADER_BYTES - 2)
    order = "<" if file.read(2) == b"IM" else ">"
    position, total = HEADER_BYTES, 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack(order + "II", file.read(8))
        position += 8 + length
        if position > size:
            raise UnreadableSample(f"is truncated: {size} of {position} bytes; {COPY_AGAIN}")
        total += _inflated_bytes(file, length, limit - total) if kind == COMPRESSED else length
        if total > limit:
            raise UnreadableSample(
                f"contains more than {limit} bytes, over the limit of {max_pixels} pixels (max_pixels); "
                "raise the limit if the arrays are really this large"
            )


def _inflated_bytes(file: BinaryIO, length: int, limit: int) -> int:
    """Return the bytes to which a compressed variable expands; it stops soon after `limit`."""
    inflater, total = zlib.decompressobj(), 0
    while length and total <= limit:
        data = file.read(min(length, BLOCK))
        length -= len(data)
        while data and total <= limit:
            total += len(inflater.decompress(data, BLOCK))
            data = inflater.unconsumed_tail
    return total


def _arrays(file: BinaryIO, max_pixels: int, key: str | None) -> dict[str, NDArray[Any]]:
    """Return numeric arrays of two or more axes by name, also those in structs; all, or of one variable."""
    from scipy.io import loadmat, whosmat

    file.seek(0)
    variables = {name: shape for name, shape, _ in whosmat(file)}
    wanted = [name for name in variables if key is None or name == key.partition(".")[0]]
    for name in wanted:
        check_pixels(1, max(1, int(np.prod(variables[name], dtype=np.float64))), max_pixels)
    file.seek(0)
    try:
        content = loadmat(file, variable_names=wanted)
    except TypeError as error:  # SciPy's error for an element of another type than the format requires
        raise UnreadableSample(f"is damaged: {str(error)[:100]}; {COPY_AGAIN}") from None
    arrays: dict[str, NDArray[Any]] = {}
    for name in wanted:
        _collect(name, content[name], arrays)
    return arrays


def _collect(name: str, value: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """Add the numeric arrays of a variable, and of the fields of a struct of one element."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            _collect(f"{name}.{field}", value[field].item(), arrays)
    elif value.dtype.kind in "biuf" and value.ndim >= 2:
        arrays[name] = value
