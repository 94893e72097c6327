"""NIfTI-1 and NIfTI-2 label volumes, `.nii` and `.nii.gz`, streamed in storage order.

nibabel reads the header. Voxels are counted as they are stored; the header's scale is applied to the few ids
that occur, not to the volume.
Format: https://nifti.nimh.nih.gov/nifti-1/.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    Format,
    LabelMap,
    Peek,
    check_pixels,
    color_coded,
    whole_numbers,
)
from statsvc_workers.formats.voxels import (
    MARGIN,
    TOLERANCE,
    check_stored,
    inflated,
    stored_voxels,
    volume_map,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

NAME = "NIfTI volume"
GZIP = b"\x1f\x8b"
LENGTHS = (348, 540)  # bytes of a NIfTI-1 and a NIfTI-2 header, which are the value of the first field
MAGIC = (GZIP, *(struct.pack(order + "i", length) for order in "<>" for length in LENGTHS))

MAGICS = {348: (344, (b"n+1\0",)), 540: (4, (b"n+2\0\r\n\x1a\n",))}
"""Bytes of the header → (offset of the magic string, its possible values)."""

COLOR_TYPES = (128, 2304)
COMPLEX_TYPES = (32, 1792, 2048)


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header; a volume of shape (x, y, z) has width x and height y·z.

    Raises `UnreadableSample` for color and complex voxels, for scaled or floating-point labels that are not
    whole numbers within `TOLERANCE`, and for a truncated file.
    """
    header, shape, chunks = _open(file, size, max_pixels, whole=True)
    return volume_map(shape, chunks, _meaning(header))


def open_array(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> NDArray[Any]:
    """Read a whole volume of numbers, (x, y, z, …), with its scale."""
    header, shape, chunks = _open(file, size, max_pixels, whole=False)
    values = np.concatenate(list(chunks)).reshape(shape, order="F")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    return values if slope == 0 or not math.isfinite(slope + inter) else values * slope + inter


def _open(
    file: BinaryIO, size: int, max_pixels: int, *, whole: bool
) -> tuple[Any, tuple[int, ...], Iterator[NDArray[Any]]]:
    """Return the header, the shape and the voxels in storage order; with `whole`, as integers."""
    packed = file.read(2) == GZIP
    file.seek(0)
    header, order = _header(inflated(file) if packed else file)
    code = int(header["datatype"])
    if code in COLOR_TYPES:
        raise color_coded("RGB voxels")
    dtype = header.get_data_dtype().newbyteorder(order)
    if code in COMPLEX_TYPES or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"contains {dtype.name} voxels, not class ids; export an integer type")
    shape = header.get_data_shape()
    width, height = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
    if any(length < 0 for length in shape):
        raise UnreadableSample(f"is damaged: its header gives the shape {shape}; {COPY_AGAIN}")
    check_pixels(height, width, max_pixels)
    start, voxels = int(header["vox_offset"]), height * width
    if not LENGTHS[0] <= start <= max(size, MARGIN):
        raise UnreadableSample(f"is damaged: its voxels begin at byte {start}; {COPY_AGAIN}")
    if not packed:
        check_stored(size, start, shape, dtype)
    file.seek(0)
    stream = inflated(file) if packed else file
    return header, shape, stored_voxels(stream, start, voxels, dtype, packed=packed, whole=whole)


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    packed = file.read(2) == GZIP
    file.seek(0)
    header, _ = _header(inflated(file) if packed else file)
    shape = " x ".join(str(length) for length in header.get_data_shape())
    return Peek(
        f"NIfTI volume of {header.get_data_dtype().name}, {shape}", int(header["datatype"]) in COLOR_TYPES
    )


def has_scale(file: BinaryIO) -> bool:
    """Whether the header of a volume has a scale."""
    try:
        packed = file.read(2) == GZIP
        file.seek(0)
        return _meaning(_header(inflated(file) if packed else file)[0]) is not None
    except Exception:  # noqa: BLE001 - an unreadable file is reported when it is counted
        return False


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_array=open_array)


def _header(file: BinaryIO) -> tuple[Any, str]:
    """Return nibabel's header and the byte order of the file."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    data = file.read(LENGTHS[1])
    for order in "<>":
        length = struct.unpack(order + "i", data[:4])[0] if len(data) >= 4 else 0
        if length in LENGTHS:
            break
    else:
        raise UnreadableSample(f"is not a valid NIfTI volume: its header is damaged; {COPY_AGAIN}")
    if len(data) < length:
        raise UnreadableSample(f"is truncated inside its header; {COPY_AGAIN}")
    offset, magics = MAGICS[length]
    magic = data[offset : offset + len(magics[0])]
    if magic not in magics:
        pair = magic[:2] == b"ni"
        raise UnreadableSample(
            "is the header of a .hdr/.img pair; convert it to one .nii file"
            if pair
            else f"is not a valid NIfTI volume: its magic is {magic!r}; {COPY_AGAIN}"
        )
    kind = Nifti1Header if length == LENGTHS[0] else Nifti2Header
    return kind(data[:length], endianness=order, check=False), order


def _meaning(header: Any) -> Callable[[NDArray[np.int64]], NDArray[np.int64]] | None:
    """Return the function that applies the header's scale to ids; None where the header has no scale."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    # By the format, a slope of 0 or NaN means that there is no scale.
    if slope == 0 or not math.isfinite(slope) or (slope, inter) == (1, 0):
        return None
    if not math.isfinite(inter):
        raise UnreadableSample(f"is damaged: its scale is {slope} and {inter}; {COPY_AGAIN}")

    def scaled(ids: NDArray[np.int64]) -> NDArray[np.int64]:
        try:
            return whole_numbers(ids * slope + inter, TOLERANCE)
        except UnreadableSample as error:
            raise UnreadableSample(f"has the scale {slope:g} x + {inter:g} and then {error}") from None

    return scaled
