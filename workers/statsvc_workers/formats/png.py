"""PNG label maps: grey of 1 to 16 bits and palette indices.

The file is checked here: signature, IHDR, the CRC of every chunk, and that the compressed stream is whole.
Then it is inflated in one call and its rows are unfiltered and counted in one pass
(`statsvc_workers.kernels.png_rows`), which for long runs costs little more than inflating. Pillow decodes
interlaced files only.
Format: Portable Network Graphics (PNG) Specification, Third Edition, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from imagecodecs import DeflateError, deflate_decode

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    colour_coded,
    colours_shown,
    grey_colours,
    packed_colours,
)
from statsvc_workers.kernels.buffer_pool import room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "PNG"
MAGIC = b"\x89PNG\r\n\x1a\n"

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
COLOURS = {GREY: "grey", RGB: "RGB", PALETTE: "palette", GREY_ALPHA: "grey with alpha", RGBA: "RGBA"}
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}

# Adam7: first column, first row, column step, row step of each pass.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

END = b"\0\0\0\0IEND\xaeB`\x82"

BLOCK = 1 << 20

AT_ONCE = 1 << 26
"""Longest image data, in bytes, that is inflated at once."""

BAND = 1 << 22
"""Bytes of image data that are unfiltered, and counted, at once: about; whole rows at least."""


@dataclass(frozen=True, slots=True)
class Image:
    """The critical chunks of a file, whose checksums are right.

    head    signature and IHDR, then PLTE where there is one
    stream  the data of all IDAT chunks: one zlib stream
    """

    head: bytes
    stream: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The IHDR chunk."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    def stream_bytes(self) -> int:
        """Return the length of the inflated image data: filter bytes and packed rows of each pass."""
        bits = self.depth * CHANNELS[self.colour]
        if not self.interlaced:
            return self.height * (1 + (self.width * bits + 7) // 8)
        total = 0
        for column, row, column_step, row_step in PASSES:
            width = max(0, -((column - self.width) // column_step))
            height = max(0, -((row - self.height) // row_step))
            if width:
                total += height * (1 + (width * bits + 7) // 8)
        return total


def open_label_map(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Check the whole file, then return its pixels: raw grey values, or palette indices.

    Raises `UnreadableSample` for a damaged, truncated, colour-coded or oversized file.
    """
    header, start = _header(file, size)
    if header.colour not in (GREY, PALETTE):
        raise colour_coded(f"{COLOURS[header.colour]}, {header.depth} bits a channel")
    check_pixels(header.height, header.width, max_pixels)
    image = _checked(file, size, header, start)
    mode = Mode.PALETTE if header.colour == PALETTE else Mode.GREY
    if header.interlaced:
        return LabelMap(mode, header.height, header.width, _chunks_by_pillow(image, header))
    histogram = partial(_histogram, image, header) if header.depth <= 8 else None
    return LabelMap(mode, header.height, header.width, _chunks(image, header), histogram)


def open_colours(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Check the whole file, then return its colours 0xRRGGBB; transparency is left out.

    Raises `UnreadableSample` as `open_label_map` does, and for 16 bits a channel.
    """
    header, start = _header(file, size)
    if header.depth == 16:
        raise UnreadableSample("has 16 bits a channel, which is no palette's colours; leave --rule out")
    check_pixels(header.height, header.width, max_pixels)
    image = _checked(file, size, header, start)
    mode = Mode.PALETTE if header.colour == PALETTE else Mode.GREY
    if header.interlaced:
        chunks = _colours_by_pillow(image, header)
        return LabelMap(mode, header.height, header.width, chunks)
    if header.colour not in (GREY, PALETTE):
        return LabelMap(mode, header.height, header.width, _colours(image, header))
    meaning = partial(
        colours_shown, _palette(image) if header.colour == PALETTE else grey_colours(header.depth)
    )
    histogram = partial(_histogram, image, header)
    return LabelMap(mode, header.height, header.width, _chunks(image, header), histogram, meaning)


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    header, _ = _header(file, size)
    return Peek(f"{header.depth}-bit {COLOURS[header.colour]}", header.colour not in (GREY, PALETTE))


def inflated_bytes(file: BinaryIO, size: int) -> int | None:
    """Return how many bytes the image inflates to, by its header; None where Pillow decodes it.

    Raises `UnreadableSample` for a damaged header.
    """
    header, _ = _header(file, size)
    return None if header.interlaced else header.stream_bytes()


def _header(file: BinaryIO, size: int) -> tuple[Header, bytes]:
    """Read signature and IHDR; return the header and these bytes."""
    start = file.read(33)
    if len(start) < 33:
        raise _truncated(size, "its header")
    length, kind, width, height, depth, colour, compression, filtering, interlace, crc = struct.unpack(
        ">I4sIIBBBBBI", start[8:]
    )
    if kind != b"IHDR" or length != 13:
        raise UnreadableSample(f"is damaged: its first chunk is {kind!r}, not IHDR; {COPY_AGAIN}")
    if zlib.crc32(start[12:29]) != crc:
        raise _damaged("IHDR", 8)
    if depth not in DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise UnreadableSample(
            f"is no valid PNG: colour type {colour}, bit depth {depth}, compression {compression}, "
            f"filter {filtering}, interlace {interlace}; export it again"
        )
    return Header(width, height, depth, colour, bool(interlace)), start


def _checked(file: BinaryIO, size: int, header: Header, start: bytes) -> Image:
    """Check every chunk; return those that hold the image.

    Only IHDR, PLTE and IDAT reach a decoder: no text, profile or animation can make it fail.
    """
    expected = header.stream_bytes()
    # Stored (uncompressed) deflate blocks add little; twice the image is no image of this size.
    room = 2 * expected + BLOCK
    head, stream = [start], []
    position, kind = len(start), b""
    while kind != b"IEND":
        top = file.read(8)
        if len(top) < 8:
            raise _truncated(size, "a chunk header, before IEND")
        length, kind = struct.unpack(">I4s", top)
        name = kind.decode("latin-1")
        if not (kind.isalpha() and kind.isascii()):
            raise UnreadableSample(f"is damaged: no chunk name at byte {position + 4}; {COPY_AGAIN}")
        if position + 12 + length > size:
            raise _truncated(size, f"its {name} chunk at byte {position}, which declares {length} bytes")
        if kind in (b"PLTE", b"IDAT", b"IEND"):
            room -= length
            if room < 0:
                raise UnreadableSample(
                    f"is damaged: more data than {header.width} x {header.height} pixels need; {COPY_AGAIN}"
                )
            body = file.read(length + 4)
            data, end = body[:-4], body[-4:]
            crc = zlib.crc32(data, zlib.crc32(kind))
            if kind == b"PLTE":
                head += (top, body)
            elif kind == b"IDAT":
                stream.append(data)
        elif not kind[0] & 0x20:
            raise UnreadableSample(f"needs the PNG extension {name!r}, which is not read; export it again")
        else:
            crc, end = _skip(file, length, zlib.crc32(kind))
        if len(end) < 4:
            raise _truncated(size, f"its {name} chunk")
        if crc != int.from_bytes(end, "big"):
            raise _damaged(name, position)
        position += 12 + length
    return Image(b"".join(head), b"".join(stream))


def _bands(image: Image, header: Header) -> Iterator[NDArray[np.uint8]]:
    """Yield the inflated rows, some at a time: each row's filter type, then its bytes; uint8 [n], writable.

    What was yielded is overwritten once the next is asked for, or another image is inflated.
    What is allocated follows from what the header declares, which was checked against the limit. A stream of
    up to `AT_ONCE` bytes is inflated by libdeflate, which is many times as fast as zlib and cannot stop on
    the way; a longer one band by band.
    """
    expected = header.stream_bytes()
    line = expected // header.height
    band = line * max(1, BAND // line)
    if expected <= AT_ONCE:
        with room(expected) as whole:
            _inflate_into(whole, image, header)
            for start in range(0, expected, band):
                yield whole[start : start + band]
        return
    _diagnose(image, header)  # so that the stream is known to hold all that is taken from it
    inflater, source = zlib.decompressobj(), io.BytesIO(image.stream)
    for start in range(0, expected, band):
        rows = bytearray()
        while (missing := min(band, expected - start) - len(rows)) > 0:
            rows += inflater.decompress(inflater.unconsumed_tail or source.read(BLOCK), missing)
        yield np.frombuffer(rows, np.uint8)


def _inflate_into(whole: NDArray[np.uint8], image: Image, header: Header) -> None:
    """Inflate the image data, which must be as long as `whole`. Raises `UnreadableSample`."""
    try:
        complete = len(deflate_decode(image.stream, out=whole.data)) == len(whole)
    except DeflateError:
        complete = False
    if not complete:
        # libdeflate says only that it failed; zlib finds out how.
        _diagnose(image, header)
        whole[:] = np.frombuffer(zlib.decompressobj().decompress(image.stream, len(whole)), np.uint8)


def _diagnose(image: Image, header: Header) -> None:
    """Inflate a stream block by block, keeping nothing. Raises `UnreadableSample` saying what is wrong."""
    expected = header.stream_bytes()
    inflater = zlib.decompressobj()
    inflated = _inflate(inflater, image.stream, expected)
    if not inflater.eof or inflated < expected:
        raise UnreadableSample(
            f"is truncated inside its compressed data: {inflated} of {expected} bytes of pixels; {COPY_AGAIN}"
        )


def _inflate(inflater: Any, data: bytes, room: int) -> int:
    """Inflate `data`, throw the output away, return its length; at most a block is held."""
    total = 0
    while not inflater.eof:
        try:
            out = inflater.decompress(data, BLOCK)
        except zlib.error as error:
            raise UnreadableSample(
                f"is damaged: its compressed data is invalid ({error}); {COPY_AGAIN}"
            ) from None
        total += len(out)
        if total > room:
            raise UnreadableSample(
                f"is damaged: its compressed data holds more pixels than its header; {COPY_AGAIN}"
            )
        data = inflater.unconsumed_tail
        if not data and len(out) < BLOCK:
            break
    return total


def _skip(file: BinaryIO, length: int, crc: int) -> tuple[int, bytes]:
    while length:
        block = file.read(min(length, BLOCK))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        length -= len(block)
    return crc, file.read(4)


def _histogram(image: Image, header: Header) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inflate, unfilter and count an image of at most 8 bits a pixel; return ids and pixels."""
    from statsvc_workers.kernels import png_rows  # numba takes 0.3 s to load: not where files are only listed

    row = (header.width * header.depth + 7) // 8
    whole, rest = divmod(header.width * header.depth, 8)
    counts, tails = np.zeros(256, np.int64), np.zeros(256, np.int64)
    before, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        rows = len(band) // (1 + row)
        _known_filter(top, png_rows.count_rows(band, rows, row, whole, counts, tails, before))
        top += rows
    if header.depth < 8:
        shifts = np.arange(8 - header.depth, -1, -header.depth)
        packed = (np.arange(256)[:, None] >> shifts) & ((1 << header.depth) - 1)  # [byte, pixel in it]
        pixels = np.zeros(1 << header.depth, np.int64)
        np.add.at(pixels, packed, counts[:, None])
        np.add.at(pixels, packed[:, : rest // header.depth], tails[:, None])
        counts = pixels
    ids = np.flatnonzero(counts)
    return ids.astype(np.int64), counts[ids]


def _chunks(image: Image, header: Header) -> Iterator[NDArray[Any]]:
    """Inflate and unfilter an image; yield its rows as uint8 or big-endian uint16 [rows, width]."""
    from statsvc_workers.kernels import png_rows

    row = (header.width * header.depth + 7) // 8
    before, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        rows = len(band) // (1 + row)
        part = np.empty((rows, row), np.uint8)
        _known_filter(top, png_rows.unfilter(band, rows, row, header.depth // 8 or 1, part, before))
        top += rows
        if header.depth == 16:
            yield part.view(">u2")
        elif header.depth == 8:
            yield part
        else:
            shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
            spread = (part[:, :, None] >> shifts) & np.uint8((1 << header.depth) - 1)
            yield spread.reshape(rows, -1)[:, : header.width]


def _colours(image: Image, header: Header) -> Iterator[NDArray[np.int32]]:
    """Inflate and unfilter an image of 8-bit channels; yield its rows as colours [rows, width]."""
    from statsvc_workers.kernels import png_rows

    channels = CHANNELS[header.colour]
    row = header.width * channels
    before, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        rows = len(band) // (1 + row)
        part = np.empty((rows, row), np.uint8)
        _known_filter(top, png_rows.unfilter(band, rows, row, channels, part, before))
        top += rows
        pixels = part.reshape(rows, header.width, channels)
        # Grey with alpha: the one value three times.
        yield packed_colours(pixels if channels > 2 else pixels[..., [0, 0, 0]])


def _colours_by_pillow(image: Image, header: Header) -> Iterator[NDArray[np.int32]]:
    for part in _strips_by_pillow(image, header):
        yield packed_colours(np.asarray(part.convert("RGB")))


def _palette(image: Image) -> NDArray[np.int64]:
    """Return the colours of the indices, int64 [n]."""
    at = 33
    if image.head[at + 4 : at + 8] != b"PLTE":
        raise UnreadableSample(f"is damaged: a palette image without a palette; {COPY_AGAIN}")
    length = int.from_bytes(image.head[at : at + 4], "big")
    entries = np.frombuffer(image.head, np.uint8, length // 3 * 3, at + 8).reshape(-1, 3)
    return packed_colours(entries).astype(np.int64)


def _known_filter(top: int, row: int) -> None:
    """Refuse an image in which a kernel met a row of an unknown filter type, counted from row `top`."""
    if row >= 0:
        raise UnreadableSample(
            f"is damaged: row {top + row} of its pixels has a filter type that PNG does not have; "
            f"{COPY_AGAIN}"
        )


def _chunks_by_pillow(image: Image, header: Header) -> Iterator[NDArray[Any]]:
    # Pillow scales grey of 2 and 4 bits to 0…255.
    scale = {2: 85, 4: 17}.get(header.depth, 1) if header.colour == GREY else 1
    for part in _strips_by_pillow(image, header):
        chunk = np.asarray(part)
        yield chunk // np.uint8(scale) if scale > 1 else chunk


def _strips_by_pillow(image: Image, header: Header) -> Iterator[Any]:
    # The plugin itself: `Image.open` warns about large images by a global limit, and the size was
    # checked against max_pixels already.
    from PIL.PngImagePlugin import PngImageFile

    _diagnose(image, header)  # Pillow fills missing rows with zeros, which would be counted as class 0
    length = len(image.stream).to_bytes(4, "big")
    crc = zlib.crc32(image.stream, zlib.crc32(b"IDAT")).to_bytes(4, "big")
    file = b"".join((image.head, length, b"IDAT", image.stream, crc, END))
    rows = max(1, CHUNK_PIXELS // header.width)
    with PngImageFile(io.BytesIO(file)) as opened:
        opened.load()
        for top in range(0, header.height, rows):
            yield opened.crop((0, top, header.width, min(top + rows, header.height)))


def _truncated(size: int, where: str) -> UnreadableSample:
    return UnreadableSample(f"is truncated: it ends after {size} bytes, inside {where}; {COPY_AGAIN}")


def _damaged(chunk: str, position: int) -> UnreadableSample:
    return UnreadableSample(
        f"is damaged: the checksum of its {chunk} chunk at byte {position} is wrong; {COPY_AGAIN}"
    )
