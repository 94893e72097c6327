"""PNG label maps: gray of 1 to 16 bits, and palette indices.

This module checks the file: its signature, IHDR, the CRC of every chunk, and that the compressed stream is
complete. Then it decompresses the stream in one call and unfilters and counts its rows in one pass
(`statsvc_workers.kernels.png_rows`), which for long runs takes little more time than decompressing. Pillow
decodes only interlaced files.
Format: Portable Network Graphics (PNG) Specification, Third Edition, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import io
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from imagecodecs import DeflateError, deflate_decode

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    colors_shown,
    equal_channels,
    gray_colors,
    packed_colors,
)
from statsvc_workers.formats.png_structure import (
    BLOCK,
    CHANNELS,
    COLOR_TYPES,
    GRAY,
    PALETTE,
    RGB,
    Header,
    Image,
    check_stream,
    palette_colors,
    read_header,
    read_image,
)
from statsvc_workers.kernels.buffer_pool import borrowed_buffer
from statsvc_workers.kernels.sizes import IDS
from statsvc_workers.kernels.tiles import bands_of, entries_of_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid
    from statsvc_workers.kernels.tiles import Entries

NAME = "PNG"
MAGIC = b"\x89PNG\r\n\x1a\n"

AT_ONCE = 1 << 26
"""Most bytes of image data that are decompressed in one call."""

BAND = 1 << 22
"""Approximate bytes of image data that are unfiltered and counted in one call; always whole rows."""


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Check the whole file, then return its pixels: raw gray values or palette indices.

    An image with three equal channels has gray values. Raises `UnreadableSample` for a damaged, truncated,
    color-coded or oversized file.
    """
    header, start = read_header(file, size)
    check_pixels(header.height, header.width, max_pixels)
    image = read_image(file, size, header, start)
    if header.color_type not in (GRAY, PALETTE):
        text = f"{COLOR_TYPES[header.color_type]}, {header.depth} bits per channel"
        ids = (equal_channels(pixels, text) for pixels in _channels(image, header))
        return LabelMap(Mode.GRAY, header.height, header.width, ids, layout="rows")
    mode = Mode.PALETTE if header.color_type == PALETTE else Mode.GRAY
    if header.interlaced:
        chunks = _interlaced_chunks(image, header)
        return LabelMap(mode, header.height, header.width, chunks, layout="rows")
    return _counted_by_row(image, header, mode)


def open_colors(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Check the whole file, then return its colors 0xRRGGBB; transparency is ignored.

    Raises `UnreadableSample` as `open_label_map` does, and for 16 bits per channel.
    """
    header, start = read_header(file, size)
    if header.depth == 16:
        raise UnreadableSample("has 16 bits per channel, but a palette contains 8-bit colors; omit --rule")
    check_pixels(header.height, header.width, max_pixels)
    image = read_image(file, size, header, start)
    mode = Mode.PALETTE if header.color_type == PALETTE else Mode.GRAY
    if header.interlaced:
        chunks = _interlaced_colors(image, header)
        return LabelMap(mode, header.height, header.width, chunks, layout="rows")
    if header.color_type not in (GRAY, PALETTE):
        return LabelMap(mode, header.height, header.width, _colors(image, header), layout="rows")
    colors = palette_colors(image) if header.color_type == PALETTE else gray_colors(header.depth)
    label_map = _counted_by_row(image, header, mode)
    label_map.meaning = partial(colors_shown, colors)
    return label_map


def _counted_by_row(image: Image, header: Header, mode: Mode) -> LabelMap:
    """Return the label map of an image that is not interlaced, with the functions that count its bytes."""
    label_map = LabelMap(mode, header.height, header.width, _chunks(image, header), layout="rows")
    if header.depth <= 8:
        label_map.histogram = partial(_histogram, image, header)
    if header.depth == 8:
        label_map.tiles = partial(_tiles, image, header)
    return label_map


def open_channels(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Check the whole file, then return its channels [rows, width, 3 or 4]; a palette has its colors."""
    header, start = read_header(file, size)
    check_pixels(header.height, header.width, max_pixels)
    image = read_image(file, size, header, start)
    rows = _interlaced_chunks(image, header) if header.interlaced else _chunks(image, header)
    channels: Iterator[NDArray[Any]]
    if header.color_type == PALETTE:
        colors = palette_colors(image)
        table = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1).astype(np.uint8)
        table = np.pad(table, ((0, 256 - len(table)), (0, 0)))
        channels = (table[chunk] for chunk in rows)
    elif header.color_type == GRAY:
        channels = (np.stack([chunk] * 3, -1) for chunk in rows)
    else:
        channels = _channels(image, header)
    return LabelMap(Mode.GRAY, header.height, header.width, channels, layout="rows")


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    header, _ = read_header(file, size)
    text = f"{header.depth}-bit {COLOR_TYPES[header.color_type]}"
    return Peek(text, header.color_type not in (GRAY, PALETTE))


FORMAT = Format(NAME, (MAGIC,), open_label_map, peek, open_colors, open_channels)


def decompressed_bytes(file: BinaryIO, size: int) -> int | None:
    """Return the decompressed size of the image from its header; None where Pillow decodes it.

    Raises `UnreadableSample` for a damaged header.
    """
    header, _ = read_header(file, size)
    return None if header.interlaced else header.stream_bytes()


def is_counted_by_row(file: BinaryIO, size: int) -> bool:
    """Whether `loops.count_rows` counts an image, by its header; raises as `decompressed_bytes`."""
    header, _ = read_header(file, size)
    return not header.interlaced and header.color_type in (GRAY, PALETTE) and header.depth <= 8


def _bands(image: Image, header: Header) -> Iterator[NDArray[np.uint8]]:
    """Yield the decompressed rows in bands: each row's filter type, then its bytes; uint8 [n], writable.

    A band is overwritten when the next one is requested or another image is decompressed.

    The allocated memory depends only on the header, which was checked against the limit of pixels. libdeflate
    decompresses a stream of up to `AT_ONCE` bytes; it is many times as fast as zlib, but cannot pause. zlib
    decompresses a longer stream band by band.
    """
    expected = header.stream_bytes()
    line = expected // header.height
    band = line * max(1, BAND // line)
    if expected <= AT_ONCE:
        with borrowed_buffer(expected) as whole:
            _decompress_into(whole, image, header)
            for start in range(0, expected, band):
                yield whole[start : start + band]
        return
    check_stream(image, header)  # so that the loop below always finds enough data
    inflater, source = zlib.decompressobj(), io.BytesIO(image.stream)
    for start in range(0, expected, band):
        rows = bytearray()
        while (missing := min(band, expected - start) - len(rows)) > 0:
            rows += inflater.decompress(inflater.unconsumed_tail or source.read(BLOCK), missing)
        yield np.frombuffer(rows, np.uint8)


def _decompress_into(whole: NDArray[np.uint8], image: Image, header: Header) -> None:
    """Decompress the image data, which must be as long as `whole`. Raises `UnreadableSample`."""
    try:
        complete = len(deflate_decode(image.stream, out=whole.data)) == len(whole)
    except DeflateError:
        complete = False
    if not complete:
        # libdeflate reports only that it failed; zlib reports why.
        check_stream(image, header)
        whole[:] = np.frombuffer(zlib.decompressobj().decompress(image.stream, len(whole)), np.uint8)


def _histogram(image: Image, header: Header) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decompress, unfilter and count an image of at most 8 bits per pixel; return ids and pixels."""
    whole, rest = divmod(header.width * header.depth, 8)
    tails = np.zeros(256, np.int64)
    counts = _count_bytes(image, header, np.array([0, header.height]), np.array([0, whole]), tails)[0]
    if header.depth < 8:
        shifts = np.arange(8 - header.depth, -1, -header.depth)
        packed = (np.arange(256)[:, None] >> shifts) & ((1 << header.depth) - 1)  # [byte, pixel in it]
        pixels = np.zeros(1 << header.depth, np.int64)
        np.add.at(pixels, packed, counts[:, None])
        np.add.at(pixels, packed[:, : rest // header.depth], tails[:, None])
        counts = pixels
    ids = counts.nonzero()[0].astype(np.int64, copy=False)
    return ids, counts[ids]


def _tiles(image: Image, header: Header, grid: Grid) -> Entries:
    """Decompress, unfilter and count an image of 8 bits per pixel; return the entries of its tiles."""
    bands = bands_of((1, header.height, header.width), (1, grid.rows, grid.columns))
    counts = _count_bytes(image, header, bands.rows, bands.columns, np.zeros(256, np.int64))
    return entries_of_tables(counts)


def _count_bytes(
    image: Image,
    header: Header,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    tails: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Decompress, unfilter and count the bytes of an image in each tile.

    rows, columns  where the tiles' rows and columns of whole bytes begin, and the last ones end
    tails          int64 [256], to which the last bytes are added where a row ends within a byte

    Returns int64 [tiles, 256], row by row.
    """
    from statsvc_workers.kernels import loops  # listing does not need it

    row = header.row_bytes()
    counts = np.zeros((len(rows) - 1) * (len(columns) - 1) * IDS, np.int64)
    previous_row, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        height = len(band) // (1 + row)
        inside = rows if height == header.height else np.clip(rows - top, 0, height)
        _check_filter_type(top, loops.count_rows(band, inside, row, columns, counts, tails, previous_row))
        top += height
    return counts.reshape(-1, IDS)


def _chunks(image: Image, header: Header) -> Iterator[NDArray[Any]]:
    """Decompress and unfilter an image; yield its rows as uint8 or big-endian uint16 [rows, width]."""
    from statsvc_workers.kernels import loops

    row = header.row_bytes()
    previous_row, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        rows = len(band) // (1 + row)
        part = np.empty((rows, row), np.uint8)
        step = header.depth // 8 or 1
        _check_filter_type(top, loops.unfilter(band, rows, row, step, part, previous_row))
        top += rows
        if header.depth == 16:
            yield part.view(">u2")
        elif header.depth == 8:
            yield part
        else:
            shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
            unpacked = (part[:, :, None] >> shifts) & np.uint8((1 << header.depth) - 1)
            yield unpacked.reshape(rows, -1)[:, : header.width]


def _colors(image: Image, header: Header) -> Iterator[NDArray[np.int32]]:
    """Yield the rows of an image of 8-bit channels as colors [rows, width]."""
    for pixels in _channels(image, header):
        yield packed_colors(pixels)


def _channels(image: Image, header: Header) -> Iterator[NDArray[Any]]:
    """Decompress and unfilter a color image; yield rows of uint8 or big-endian uint16 [rows, width, 3 or 4].

    Gray with alpha has the gray value in each of the three channels.
    """
    if header.interlaced:
        if header.depth == 16:
            raise UnreadableSample("is interlaced, with 16 bits per channel; export it without interlacing")
        for strip in _pillow_strips(image, header):
            yield np.asarray(strip.convert("RGB" if header.color_type == RGB else "RGBA"))
        return
    from statsvc_workers.kernels import loops

    channels = CHANNELS[header.color_type]
    sample = np.dtype(">u2" if header.depth == 16 else "u1")
    row = header.row_bytes()
    previous_row, top = np.zeros(row, np.uint8), 0
    for band in _bands(image, header):
        rows = len(band) // (1 + row)
        part = np.empty((rows, row), np.uint8)
        step = channels * sample.itemsize
        _check_filter_type(top, loops.unfilter(band, rows, row, step, part, previous_row))
        top += rows
        pixels = part.view(sample).reshape(rows, header.width, channels)
        yield pixels if channels > 2 else pixels[..., [0, 0, 0, 1]]


def _check_filter_type(top: int, row: int) -> None:
    """Raise `UnreadableSample` where a kernel found an unknown filter type in a row, counted from `top`.

    Kernels return −1 for a band without such a row.
    """
    if row >= 0:
        raise UnreadableSample(
            f"is damaged: row {top + row} of its pixels has an invalid filter type; {COPY_AGAIN}"
        )


def _interlaced_chunks(image: Image, header: Header) -> Iterator[NDArray[Any]]:
    # Pillow scales gray of 2 and 4 bits to 0…255.
    scale = {2: 85, 4: 17}.get(header.depth, 1) if header.color_type == GRAY else 1
    for strip in _pillow_strips(image, header):
        chunk = np.asarray(strip)
        yield chunk // np.uint8(scale) if scale > 1 else chunk


def _interlaced_colors(image: Image, header: Header) -> Iterator[NDArray[np.int32]]:
    for strip in _pillow_strips(image, header):
        yield packed_colors(np.asarray(strip.convert("RGB")))


def _pillow_strips(image: Image, header: Header) -> Iterator[Any]:
    """Decode an interlaced image with Pillow; yield it in strips."""
    # The plugin is used directly: `Image.open` warns about large images by a global limit, and this image
    # was already checked against max_pixels.
    from PIL.PngImagePlugin import PngImageFile

    check_stream(image, header)  # Pillow would fill missing rows with zeros, which would count as class 0
    rows = max(1, CHUNK_PIXELS // header.width)
    with PngImageFile(image.file()) as opened:
        opened.load()
        for top in range(0, header.height, rows):
            yield opened.crop((0, top, header.width, min(top + rows, header.height)))
