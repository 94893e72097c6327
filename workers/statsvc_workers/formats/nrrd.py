"""NRRD label volumes, `.nrrd` and 3D Slicer's `.seg.nrrd`, streamed in storage order.

pynrrd reads the header. The voxels are read here, because pynrrd decompresses a file of any size in one step.
Format: https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import bz2
import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    Format,
    LabelMap,
    Peek,
    check_pixels,
    color_coded,
)
from statsvc_workers.formats.voxels import check_stored, inflated, stored_voxels, volume_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "NRRD volume"
MAGIC = b"NRRD000"

MAX_HEADER_BYTES = 1 << 20
"""Largest header; a segmentation of 3D Slicer has about a kilobyte for each segment."""

GZIP, BZIP2 = ("gzip", "gz"), ("bzip2", "bz2")

POSITIONS = ("domain", "space", "time", "none", "???")
"""Kinds of an axis along which voxels lie, or unknown ones; an axis of another kind is inside one voxel."""

COLORS = ("3-color", "4-color", "rgb-color", "rgba-color", "hsv-color", "xyz-color")


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header; a volume of sizes (x, y, z) has width x and height y·z.

    Raises `UnreadableSample` for colors, several values of a voxel, as the layers of overlapping segments,
    voxels in another file, values that are not whole numbers, and for a truncated file.
    """
    shape, chunks = _open(file, size, max_pixels, whole=True)
    return volume_map(shape, chunks)


def open_array(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> NDArray[Any]:
    """Read a whole array of numbers, in the order of the header's sizes."""
    shape, chunks = _open(file, size, max_pixels, whole=False)
    return np.concatenate(list(chunks)).reshape(shape, order="F")


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    header, _ = _header(file)
    sizes = " x ".join(str(length) for length in header["sizes"])
    color = any(kind in COLORS for kind in _kinds(header))
    return Peek(f"NRRD volume of {header['type']}, {sizes}", color)


FORMAT = Format(NAME, (MAGIC,), open_label_map, peek, open_array=open_array)


def _open(
    file: BinaryIO, size: int, max_pixels: int, *, whole: bool
) -> tuple[tuple[int, ...], Iterator[NDArray[Any]]]:
    """Return the shape and the voxels in storage order; with `whole`, as integers."""
    header, start = _header(file)
    shape = tuple(int(length) for length in header["sizes"])
    dtype = _voxel_type(header)
    if whole:
        for kind, length in zip(_kinds(header), shape, strict=False):
            if kind in COLORS and length > 1:
                raise color_coded(f"an axis of the kind {kind}")
            if kind not in POSITIONS and length > 1:
                raise UnreadableSample(
                    f"has {length} values for each voxel (an axis of the kind {kind}), as the layers of "
                    "overlapping segments; export it as one label map"
                )
    if not shape or min(shape) < 0:
        raise UnreadableSample(f"is damaged: its header gives the sizes {shape}; {COPY_AGAIN}")
    check_pixels(math.prod(shape[1:]), shape[0], max_pixels)
    voxels, encoding = math.prod(shape), header["encoding"]
    file.seek(start)
    if encoding == "raw":
        check_stored(size, start, shape, dtype)
        return shape, stored_voxels(file, start, voxels, dtype, packed=False, whole=whole)
    if encoding in GZIP:
        stream = inflated(file)
    elif encoding in BZIP2:
        stream = cast("BinaryIO", bz2.BZ2File(file))
    else:
        raise UnreadableSample(f"has the encoding {encoding!r}; save it with the encoding gzip or raw")
    return shape, stored_voxels(stream, 0, voxels, dtype, packed=True, whole=whole)


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return pynrrd's header, and the offset of the first byte after it."""
    import nrrd

    data = io.BytesIO(file.read(MAX_HEADER_BYTES))
    header: dict[str, Any] = nrrd.read_header(data)
    missing = [field for field in ("type", "dimension", "sizes", "encoding") if field not in header]
    if missing or header["dimension"] != len(header["sizes"]):
        reason = f"lacks {', '.join(missing)}" if missing else "has sizes that contradict its dimension"
        raise UnreadableSample(f"is damaged: its header {reason}; {COPY_AGAIN}")
    if "data file" in header or "datafile" in header:
        raise UnreadableSample("stores its voxels in another file; save it as one .nrrd file")
    if any(header.get(field) for field in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise UnreadableSample("skips lines or bytes before its voxels; save it again as one .nrrd file")
    return header, data.tell()


def _kinds(header: dict[str, Any]) -> list[str]:
    """Return the kinds of the axes, whose letters may be upper or lower case; none if they are not given."""
    return [str(kind).lower() for kind in header.get("kinds", ())]


def _voxel_type(header: dict[str, Any]) -> np.dtype[Any]:
    """Return the dtype of the voxels, with their byte order, as pynrrd reads it from the header."""
    import nrrd

    one: dict[str, Any] = {name: header[name] for name in ("type", "endian") if name in header}
    if header["type"] == "block":
        raise UnreadableSample("contains blocks of bytes, not class ids; export an integer type")
    one |= {"dimension": 1, "sizes": np.ones(1, np.int64), "encoding": "raw"}
    dtype: np.dtype[Any] = nrrd.read_data(one, io.BytesIO(bytes(8))).dtype
    return dtype
