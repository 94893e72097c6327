"""NIfTI-1 and NIfTI-2 label volumes, `.nii` and `.nii.gz`, streamed in storage order.

nibabel reads the header. The voxels are counted as they are stored; a scale is applied to the few ids that
occur, never to the volume. gzip is inflated by ISA-L, piece by piece, ten times as fast as zlib.
Format: https://nifti.nimh.nih.gov/nifti-1/.
"""

from __future__ import annotations

import gzip
import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, cast

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
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

NAME = "NIfTI volume"
GZIP = b"\x1f\x8b"
LENGTHS = (348, 540)  # the first field: bytes of a NIfTI-1 and a NIfTI-2 header
MAGIC = (GZIP, *(struct.pack(order + "i", length) for order in "<>" for length in LENGTHS))

MAGICS = {348: (344, (b"n+1\0",)), 540: (4, (b"n+2\0\r\n\x1a\n",))}

MARGIN = 1 << 27
"""Most bytes before and after the voxels of a compressed volume that are inflated: 128 MB."""

COLOURS = (128, 2304)
COMPLEX = (32, 1792, 2048)


def open_label_map(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read the header; a volume of [x, y, z] has width x and height y·z.

    Raises `UnreadableSample` for colour and complex voxels, for scaled or floating-point labels that are no
    whole numbers, and for a file that ends early.
    """
    packed = file.read(2) == GZIP
    file.seek(0)
    header, order = _header(_inflated(file) if packed else file)
    code = int(header["datatype"])
    if code in COLOURS:
        raise colour_coded("RGB voxels")
    dtype = header.get_data_dtype().newbyteorder(order)
    if code in COMPLEX or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"holds {dtype.name} voxels, not class ids; export an integer type")
    shape = header.get_data_shape()
    width, height = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
    if any(length < 0 for length in shape):
        raise UnreadableSample(f"is damaged: its header gives the shape {shape}; {COPY_AGAIN}")
    check_pixels(height, width, max_pixels)
    start, voxels = int(header["vox_offset"]), height * width
    if not LENGTHS[0] <= start <= max(size, MARGIN):
        raise UnreadableSample(f"is damaged: its voxels begin at byte {start}; {COPY_AGAIN}")
    needed = start + voxels * dtype.itemsize
    if not packed and size < needed:
        raise UnreadableSample(
            f"is truncated: {size} bytes of {needed} for {shape} {dtype.name}; {COPY_AGAIN}"
        )
    file.seek(0)
    chunks = _chunks(_inflated(file) if packed else file, start, voxels, dtype, packed=packed)
    return LabelMap(Mode.ARRAY, height, width, chunks, meaning=_meaning(header))


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    del size
    packed = file.read(2) == GZIP
    file.seek(0)
    header, _ = _header(_inflated(file) if packed else file)
    shape = " x ".join(str(length) for length in header.get_data_shape())
    return Peek(
        f"NIfTI volume of {header.get_data_dtype().name}, {shape}", int(header["datatype"]) in COLOURS
    )


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
        raise UnreadableSample(f"is no NIfTI volume: its header is damaged; {COPY_AGAIN}")
    if len(data) < length:
        raise UnreadableSample(f"is truncated inside its header; {COPY_AGAIN}")
    at, magics = MAGICS[length]
    magic = data[at : at + len(magics[0])]
    if magic not in magics:
        pair = magic[:2] == b"ni"
        raise UnreadableSample(
            "is the header of a .hdr/.img pair; convert it to one .nii file"
            if pair
            else f"is no NIfTI volume: its magic is {magic!r}; {COPY_AGAIN}"
        )
    kind = Nifti1Header if length == LENGTHS[0] else Nifti2Header
    return kind(data[:length], endianness=order, check=False), order


def _inflated(file: BinaryIO) -> BinaryIO:
    """Return the stream of a gzip file, its checksums looked at on the way."""
    from isal import igzip

    return cast("BinaryIO", igzip.IGzipFile(fileobj=file))


def _chunks(
    stream: BinaryIO, start: int, voxels: int, dtype: np.dtype[Any], *, packed: bool
) -> Iterator[NDArray[Any]]:
    from isal.igzip_lib import IsalError

    damaged: tuple[Any, ...] = (EOFError, IsalError, gzip.BadGzipFile)
    left = voxels
    try:
        stream.seek(start)
        while left:
            count = min(left, CHUNK_PIXELS)
            data = stream.read(count * dtype.itemsize)
            if len(data) < count * dtype.itemsize:
                held = voxels - left + len(data) // dtype.itemsize
                raise UnreadableSample(f"is truncated: {held} of {voxels} voxels; {COPY_AGAIN}")
            chunk = np.frombuffer(data, dtype)
            yield whole_numbers(chunk) if dtype.kind == "f" else chunk
            left -= count
        # What follows the voxels is nothing of theirs, but gzip's checksum comes at its end.
        rest = 0
        while packed and rest <= MARGIN and (data := stream.read(1 << 20)):
            rest += len(data)
    except damaged as error:
        raise UnreadableSample(
            f"is damaged: its compressed data ends early or is invalid ({error}); {COPY_AGAIN}"
        ) from None


def _meaning(header: Any) -> Callable[[NDArray[np.int64]], NDArray[np.int64]] | None:
    """Return what stored ids stand for, by the header's scale; None where they stand for themselves."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    # A slope of 0, or one that is no number, means that there is no scale.
    if slope == 0 or not math.isfinite(slope) or (slope, inter) == (1, 0):
        return None
    if not math.isfinite(inter):
        raise UnreadableSample(f"is damaged: its scale is {slope} and {inter}; {COPY_AGAIN}")

    def scaled(ids: NDArray[np.int64]) -> NDArray[np.int64]:
        try:
            return whole_numbers(ids * slope + inter)
        except UnreadableSample as error:
            raise UnreadableSample(f"is scaled by {slope:g} x + {inter:g} and {error}") from None

    return scaled
