"""NIfTI-1 and NIfTI-2 label volumes, `.nii` and `.nii.gz`, streamed in storage order.

Voxels are counted as they are stored; the header's scale is applied to the few ids that occur, not to the
volume. The headers are read here, because nibabel takes longer to load than several volumes to count.
Formats: https://nifti.nimh.nih.gov/nifti-1/ and https://nifti.nimh.nih.gov/nifti-2/.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

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

_FIRST = struct.Struct("<40x8h14xh36x3f24xi"), struct.Struct(">40x8h14xh36x3f24xi")
"""NIfTI-1: dim, datatype, vox_offset, scl_slope, scl_inter, glmin; little-endian and big-endian."""

_SECOND = struct.Struct("<12xh2x8q88xq2d"), struct.Struct(">12xh2x8q88xq2d")
"""NIfTI-2: datatype, dim, vox_offset, scl_slope, scl_inter."""

MOST_AXES = 7

COLOR_TYPES = {128: "RGB", 2304: "RGBA"}
TYPES = {
    2: "uint8",
    4: "int16",
    8: "int32",
    16: "float32",
    64: "float64",
    256: "int8",
    512: "uint16",
    768: "uint32",
    1024: "int64",
    1280: "uint64",
}
"""Code of a type of voxels → its name."""

OTHER_TYPES = {1: "1-bit", 32: "complex64", 1536: "float128", 1792: "complex128", 2048: "complex256"}
"""The same for types that are not counted."""


class Header(NamedTuple):
    """What the header of a volume says.

    kind          name of the type of its voxels
    order         "<" or ">", its byte order
    shape         lengths of the axes, x first
    start         byte at which the voxels begin, of the decompressed file
    slope, inter  scale of the voxels
    """

    kind: str
    order: Literal["<", ">"]
    shape: tuple[int, ...]
    start: float
    slope: float
    inter: float


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
    slope, inter = header.slope, header.inter
    return values if slope == 0 or not math.isfinite(slope + inter) else values * slope + inter


def _open(
    file: BinaryIO, size: int, max_pixels: int, *, whole: bool
) -> tuple[Header, tuple[int, ...], Iterator[NDArray[Any]]]:
    """Return the header, the shape and the voxels in storage order; with `whole`, as integers."""
    packed = file.read(2) == GZIP
    file.seek(0)
    header = _header(inflated(file) if packed else file)
    if header.kind in COLOR_TYPES.values():
        raise color_coded("RGB voxels")
    if header.kind not in TYPES.values():
        raise UnreadableSample(f"contains {header.kind} voxels, not class ids; export an integer type")
    dtype, shape = np.dtype(header.kind).newbyteorder(header.order), header.shape
    width, height = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
    if any(length < 0 for length in shape):
        raise UnreadableSample(f"is damaged: its header gives the shape {shape}; {COPY_AGAIN}")
    check_pixels(height, width, max_pixels)
    if not LENGTHS[0] <= header.start <= max(size, MARGIN):  # also for NaN
        raise UnreadableSample(f"is damaged: its voxels begin at byte {header.start:g}; {COPY_AGAIN}")
    start, voxels = int(header.start), height * width
    if not packed:
        check_stored(size, start, shape, dtype)
    file.seek(0)
    stream = inflated(file) if packed else file
    return header, shape, stored_voxels(stream, start, voxels, dtype, packed=packed, whole=whole)


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    header = read_header(file)
    shape = " x ".join(str(length) for length in header.shape)
    return Peek(f"NIfTI volume of {header.kind}, {shape}", header.kind in COLOR_TYPES.values())


def has_scale(file: BinaryIO) -> bool:
    """Whether the header of a volume has a scale."""
    try:
        return _meaning(read_header(file)) is not None
    except Exception:  # noqa: BLE001 - an unreadable file is reported when it is counted
        return False


def counted_type(file: BinaryIO) -> np.dtype[Any]:
    """Return the type of the integers that are counted. Raises `UnreadableSample`."""
    kind = read_header(file).kind
    if kind not in TYPES.values():
        raise UnreadableSample(f"contains {kind} voxels")
    dtype = np.dtype(kind)
    return np.dtype(np.int64) if dtype.kind == "f" else dtype


def read_header(file: BinaryIO) -> Header:
    """Return the header of a volume. Raises `UnreadableSample`, and the exceptions of the decompressor."""
    packed = file.read(2) == GZIP
    file.seek(0)
    return _header(inflated(file) if packed else file)


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_array=open_array)


def _header(file: BinaryIO) -> Header:
    """Return the header at the start of a decompressed file."""
    data = file.read(LENGTHS[1])
    order: Literal["<", ">"]
    for order in ("<", ">"):
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
    if length == LENGTHS[0]:
        *dim, code, start, slope, inter, vertices = _FIRST["<>".index(order)].unpack_from(data)
    else:
        code, *dim, start, slope, inter = _SECOND["<>".index(order)].unpack_from(data)
        vertices = 0
    if not 0 <= dim[0] <= MOST_AXES:
        raise UnreadableSample(f"is damaged: its header gives {dim[0]} axes; {COPY_AGAIN}")
    shape = tuple(dim[1 : 1 + dim[0]])
    if length == LENGTHS[0] and shape[:3] == (-1, 1, 1):
        # A surface of FreeSurfer, with more vertices than 16 bits can hold: their number is in glmin.
        # https://github.com/nipy/nibabel/issues/100
        shape = (vertices, *shape[1:])
    kind = (TYPES | COLOR_TYPES | OTHER_TYPES).get(code, f"unknown (type {code})")
    return Header(kind, order, shape, start, slope, inter)


def _meaning(header: Header) -> Callable[[NDArray[np.int64]], NDArray[np.int64]] | None:
    """Return the function that applies the header's scale to ids; None where the header has no scale."""
    slope, inter = header.slope, header.inter
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
