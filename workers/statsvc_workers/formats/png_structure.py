"""The structure of a PNG file: its header, its checked chunks, and its compressed stream.

Format: Portable Network Graphics (PNG) Specification, Third Edition, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from msgspec import Struct

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import COPY_AGAIN, packed_colors

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
COLOR_TYPES = {GRAY: "gray", RGB: "RGB", PALETTE: "palette", GRAY_ALPHA: "gray with alpha", RGBA: "RGBA"}
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGBA: (8, 16)}

# Adam7 interlacing: first column, first row, column step, row step of each pass.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

IEND = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of every file."""

HEADER_BYTES = 33
"""Bytes of the signature and the IHDR chunk."""

_HEADER, _CHUNK = struct.Struct(">8xI4sIIBBBBBI"), struct.Struct(">I4s")
"""The signature and the IHDR chunk; length and name of a chunk."""

_NAME_CRC = {name: zlib.crc32(name) for name in (b"PLTE", b"IDAT", b"IEND")}
"""The chunks that are kept in memory, and the CRC of their names."""

BLOCK = 1 << 20
"""Bytes that are read, or decompressed, in one step."""


class Image(Struct, frozen=True):
    """The critical chunks of a file, whose checksums were verified.

    head    signature and IHDR, followed by PLTE if the file has one
    stream  the data of all IDAT chunks: one zlib stream
    """

    head: bytes
    stream: bytes

    def file(self) -> BinaryIO:
        """Return a PNG file of these chunks, for a decoder that might expand or misread others."""
        length = len(self.stream).to_bytes(4, "big")
        crc = zlib.crc32(self.stream, zlib.crc32(b"IDAT")).to_bytes(4, "big")
        return io.BytesIO(b"".join((self.head, length, b"IDAT", self.stream, crc, IEND)))


class Header(Struct, frozen=True):
    """The IHDR chunk: size in pixels, bits per channel, color type, and whether Adam7 is used."""

    width: int
    height: int
    depth: int
    color_type: int
    interlaced: bool

    def row_bytes(self) -> int:
        """Return the bytes of a row without its filter type."""
        return (self.width * self.depth * CHANNELS[self.color_type] + 7) // 8

    def stream_bytes(self) -> int:
        """Return the bytes of the decompressed image data: filter types and packed rows of each pass."""
        bits = self.depth * CHANNELS[self.color_type]
        if not self.interlaced:
            return self.height * (1 + self.row_bytes())
        total = 0
        for column, row, column_step, row_step in PASSES:
            width = max(0, -((column - self.width) // column_step))
            height = max(0, -((row - self.height) // row_step))
            if width:
                total += height * (1 + (width * bits + 7) // 8)
        return total


def read_header(file: BinaryIO, size: int) -> tuple[Header, bytes]:
    """Read the signature and IHDR; return the header and these bytes."""
    start = file.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        raise _truncated(size, "its header")
    length, kind, width, height, depth, color_type, compression, filtering, interlace, crc = _HEADER.unpack(
        start
    )
    if kind != b"IHDR" or length != 13:
        raise UnreadableSample(f"is damaged: its first chunk is {kind!r}, not IHDR; {COPY_AGAIN}")
    if zlib.crc32(start[12:29]) != crc:
        raise _damaged("IHDR", 8)
    if depth not in DEPTHS.get(color_type, ()) or compression or filtering or interlace > 1:
        raise UnreadableSample(
            f"is not a valid PNG: color type {color_type}, bit depth {depth}, compression {compression}, "
            f"filter {filtering}, interlace {interlace}; export it again"
        )
    return Header(width, height, depth, color_type, bool(interlace)), start


def read_image(file: BinaryIO, size: int, header: Header, start: bytes) -> Image:
    """Check every chunk; return those that contain the image.

    A decoder receives only IHDR, PLTE and IDAT: texts, profiles and animations cannot make it fail.
    """
    # Even stored (uncompressed) deflate blocks add little to the image, so more than twice is damage.
    budget = 2 * header.stream_bytes() + BLOCK
    head, stream = [start], []
    position, kind = len(start), b""
    while kind != b"IEND":
        top = file.read(8)
        if len(top) < 8:
            raise _truncated(size, "a chunk header, before IEND")
        length, kind = _CHUNK.unpack(top)
        crc = _NAME_CRC.get(kind)
        if crc is None and not (kind.isalpha() and kind.isascii()):
            raise UnreadableSample(f"is damaged: no chunk name at byte {position + 4}; {COPY_AGAIN}")
        if position + 12 + length > size:
            where = f"its {kind.decode()} chunk at byte {position}, which declares {length} bytes"
            raise _truncated(size, where)
        if crc is not None:
            budget -= length
            if budget < 0:
                raise UnreadableSample(
                    f"is damaged: more data than {header.width} x {header.height} pixels need; {COPY_AGAIN}"
                )
            data, end = file.read(length), file.read(4)
            crc = zlib.crc32(data, crc)
            if kind == b"PLTE":
                head += (top, data, end)
            elif kind == b"IDAT":
                stream.append(data)
        elif not kind[0] & 0x20:
            raise UnreadableSample(
                f"requires the PNG extension {kind.decode()!r}, which is not supported; export it again"
            )
        else:
            crc, end = _skip(file, length, zlib.crc32(kind))
        if len(end) < 4:
            raise _truncated(size, f"its {kind.decode()} chunk")
        if crc != int.from_bytes(end, "big"):
            raise _damaged(kind.decode(), position)
        position += 12 + length
    return Image(b"".join(head), b"".join(stream))


def check_stream(image: Image, header: Header) -> None:
    """Decompress the image data block by block, without storing it.

    Raises `UnreadableSample`, with the reason, where the stream is damaged or its length is wrong.
    """
    expected = header.stream_bytes()
    inflater = zlib.decompressobj()
    length = _decompressed_length(inflater, image.stream, expected)
    if not inflater.eof or length < expected:
        raise UnreadableSample(
            f"is truncated inside its compressed data: {length} of {expected} bytes of pixels; {COPY_AGAIN}"
        )


def _decompressed_length(inflater: Any, data: bytes, limit: int) -> int:
    """Decompress `data`, discard the output and return its length. Raises `UnreadableSample` over `limit`."""
    total = 0
    while not inflater.eof:
        try:
            out = inflater.decompress(data, BLOCK)
        except zlib.error as error:
            raise UnreadableSample(
                f"is damaged: its compressed data is invalid ({error}); {COPY_AGAIN}"
            ) from None
        total += len(out)
        if total > limit:
            raise UnreadableSample(
                f"is damaged: its compressed data contains more pixels than its header declares; {COPY_AGAIN}"
            )
        data = inflater.unconsumed_tail
        if not data and len(out) < BLOCK:
            break
    return total


def _skip(file: BinaryIO, length: int, crc: int) -> tuple[int, bytes]:
    """Read over a chunk's data; return the CRC of chunk name and data, and the CRC stored after them."""
    while length:
        block = file.read(min(length, BLOCK))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        length -= len(block)
    return crc, file.read(4)


def palette_colors(image: Image) -> NDArray[np.int64]:
    """Return the colors 0xRRGGBB of the palette, int64 [n]."""
    start = HEADER_BYTES
    if image.head[start + 4 : start + 8] != b"PLTE":
        raise UnreadableSample(f"is damaged: it has palette indices but no palette; {COPY_AGAIN}")
    length = int.from_bytes(image.head[start : start + 4], "big")
    entries = np.frombuffer(image.head, np.uint8, length // 3 * 3, start + 8).reshape(-1, 3)
    return packed_colors(entries).astype(np.int64)


def _truncated(size: int, where: str) -> UnreadableSample:
    return UnreadableSample(f"is truncated: it ends after {size} bytes, inside {where}; {COPY_AGAIN}")


def _damaged(chunk: str, position: int) -> UnreadableSample:
    return UnreadableSample(
        f"is damaged: the checksum of its {chunk} chunk at byte {position} is wrong; {COPY_AGAIN}"
    )
