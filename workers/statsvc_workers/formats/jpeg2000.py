"""Lossless JPEG 2000 label maps, `.jp2` and `.j2k`, decoded as a whole by imagecodecs (OpenJPEG).

They have gray values or three equal channels; values keep their bits, whereas Pillow scales fewer than eight.
Format: ITU-T T.800, annexes A and I.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from msgspec import Struct

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    equal_channels,
    packed_colors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "JPEG 2000 image"
START = b"\xff\x4f\xff\x51"
"""The markers SOC and SIZ, with which a codestream begins."""

END = b"\xff\xd9"
MAGIC = (START, b"\0\0\0\x0cjP  ")
MAX_HEADER_BYTES = 1 << 20

# Markers of segments of the main header.
SIZ, COD, COC, SOT = 0xFF51, 0xFF52, 0xFF53, 0xFF90

REVERSIBLE = 1
"""The wavelet transform without rounding, in a COD segment, and in a COC segment for one channel."""


class _Header(Struct, frozen=True):
    height: int
    width: int
    channels: int
    bits: int
    lossless: bool


def open_label_map(file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header; raises `UnreadableSample` for colors, lossy compression and damaged files."""
    header = _checked(file, max_pixels)
    chunks = (
        pixels if pixels.ndim == 2 else equal_channels(pixels, f"JPEG 2000, {header.channels} channels")
        for pixels in _decoded(file, header)
    )
    return LabelMap(Mode.GRAY, header.height, header.width, chunks, layout="rows")


def open_channels(file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Open the channels [rows, width, channel] of an image; those of a gray image are equal."""
    header = _checked(file, max_pixels)
    chunks = (_channels(pixels) for pixels in _decoded(file, header))
    return LabelMap(Mode.GRAY, header.height, header.width, chunks, layout="rows")


def open_colors(file: BinaryIO, _size: int, max_pixels: int) -> LabelMap:
    """Open an image of 8 bits as colors."""
    header = _checked(file, max_pixels)
    if header.bits != 8:
        raise UnreadableSample(f"has {header.bits} bits per channel, not colors; omit --rule for class ids")
    chunks = (packed_colors(_channels(pixels)) for pixels in _decoded(file, header))
    return LabelMap(Mode.GRAY, header.height, header.width, chunks, layout="rows")


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    header = _header(file)
    return Peek(f"JPEG 2000 of {header.channels} x {header.bits} bits", header.channels > 1)


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_colors, open_channels)


def _checked(file: BinaryIO, max_pixels: int) -> _Header:
    header = _header(file)
    if not header.lossless:
        raise UnreadableSample(
            "is a lossy JPEG 2000, which cannot store labels; write it with the reversible transform "
            "(gdal_translate -of JP2OpenJPEG -co REVERSIBLE=YES -co QUALITY=100), or export it as PNG"
        )
    if header.channels not in (1, 3, 4):
        raise UnreadableSample(f"has {header.channels} channels, not class ids; export one as PNG or TIFF")
    check_pixels(header.height, header.width, max_pixels)
    return header


def _header(file: BinaryIO) -> _Header:
    """Read the segments SIZ, COD and COC of the main header, which ends at the first SOT."""
    file.seek(0)
    data = _codestream(file.read(MAX_HEADER_BYTES))
    position, transforms = 2, set()
    size: tuple[int, int, int, int] | None = None
    while position + 4 <= len(data):
        marker, length = struct.unpack(">HH", data[position : position + 4])
        segment = data[position + 4 : position + 2 + length]
        if marker == SIZ:
            right, bottom, left, top = struct.unpack(">4I", segment[2:18])
            channels, depth = struct.unpack(">HB", segment[34:37])
            size = bottom - top, right - left, channels, (depth & 127) + 1
        elif marker == COD:
            transforms.add(segment[9])
        elif marker == COC and size is not None:
            transforms.add(segment[6 if size[2] < 257 else 7])
        elif marker == SOT and size is not None and transforms:
            return _Header(*size, lossless=transforms == {REVERSIBLE})
        elif marker == SOT:
            break
        position += 2 + length
    raise UnreadableSample(f"is damaged: it has no complete header; {COPY_AGAIN}")


def _codestream(data: bytes) -> bytes:
    """Return the codestream of a file: the file itself, or the content of its only box `jp2c`."""
    if data.startswith(START):
        return data
    position = 0
    while position + 16 <= len(data):
        length, kind, longer = struct.unpack(">I4sQ", data[position : position + 16])
        begin = position + (16 if length == 1 else 8)
        end = {0: len(data), 1: position + longer}.get(length, position + length)
        if kind == b"jp2c":
            return data[begin:end]
        if end < begin:
            break
        position = end
    return b""


def _decoded(file: BinaryIO, header: _Header) -> Iterator[NDArray[Any]]:
    """Decode the image, [rows, width] or [rows, width, channel]."""
    from imagecodecs import jpeg2k_decode

    file.seek(0)
    data = file.read()
    if END not in _codestream(data)[-16:]:  # OpenJPEG fills the rest of a truncated image with zeros
        raise UnreadableSample(f"is truncated: it does not end with the end of its image; {COPY_AGAIN}")
    pixels: NDArray[Any] = jpeg2k_decode(data)
    if pixels.shape[:2] != (header.height, header.width):
        raise UnreadableSample(
            f"is damaged: its header gives {header.width} x {header.height} pixels, its image has the shape "
            f"{pixels.shape}; {COPY_AGAIN}"
        )
    yield pixels


def _channels(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1)
