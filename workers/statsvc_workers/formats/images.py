"""BMP, GIF, WebP, PGM and TGA label maps, decoded by Pillow.

They have gray values, palette indices or three equal channels.

GIF stores gray images with a palette, whose indices each writer chooses, so a gray palette gives its grays.

WebP supports neither gray nor a palette: a WebP label map is lossless and has three equal channels.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

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
    packed_colors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "BMP, GIF, WebP or PGM image"
MAGIC = (b"BM", b"GIF8", b"RIFF", b"P4", b"P5")

INDEXED_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Pillow's modes of images with one channel."""

NO_LIMIT = 1 << 62


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header; the image is later decoded as a whole.

    Raises `UnreadableSample` for colors, lossy compression, animations and damaged files.
    """
    image = _open(file, size, max_pixels)
    chunks = _rows(image) if image.mode in INDEXED_MODES else _equal_channels(image)
    return LabelMap(_mode(image), image.height, image.width, chunks, layout="rows")


def open_channels(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Open the channels [rows, width, 3 or 4] of an image; a palette image has the colors of its palette."""
    image = _open(file, size, max_pixels)
    return LabelMap(_mode(image), image.height, image.width, _channels(image), layout="rows")


def open_colors(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Open an image as colors; a palette image has the colors of its palette."""
    image = _open(file, size, max_pixels)
    return LabelMap(_mode(image), image.height, image.width, _colors(image), layout="rows")


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    image = _open(file, size, NO_LIMIT)
    # A WebP counts as color here: only its pixels show whether it is one of the rare WebP label maps.
    return Peek(f"{image.format} {image.mode}", image.mode not in INDEXED_MODES)


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_colors, open_channels)

TGA_FORMAT = Format("TGA image", (b"",), open_label_map, peek, open_colors, open_channels)
"""A TGA begins with no fixed bytes."""


def _mode(image: Any) -> Mode:
    return Mode.PALETTE if image.mode == "P" else Mode.GRAY


def _open(file: BinaryIO, size: int, max_pixels: int) -> Any:
    """Return Pillow's image, before decoding."""
    # The plugins are used directly: `Image.open` would accept any format, and it warns about large images
    # by a global limit.
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
    from PIL.PpmImagePlugin import PpmImageFile
    from PIL.TgaImagePlugin import TgaImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    head = file.read(12)
    file.seek(0)
    if head[:2] == b"BM":
        _check_bmp(file, size)
        image: Any = BmpImageFile(file)
    elif head[:4] == b"GIF8":
        image = GifImageFile(file)
    elif head[8:] == b"WEBP":
        check_pixels(*_webp_size(file, size), max_pixels)
        file.seek(0)
        image = WebPImageFile(file)
    elif head[:2] in (b"P4", b"P5"):
        image = PpmImageFile(file)
        _check_pgm(file, size, image)
    else:
        image = TgaImageFile(file)
    check_pixels(image.height, image.width, max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UnreadableSample(f"is an animation of {image.n_frames} frames; save each frame as a file")
    return image


def _check_pgm(file: BinaryIO, size: int, image: Any) -> None:
    """Raise `UnreadableSample` for a truncated PGM, and for a maximum at which Pillow scales the values."""
    start = image.tile[0][2]
    file.seek(0)
    fields = b" ".join(line.partition(b"#")[0] for line in file.read(start).splitlines()).split()
    highest = 1 if fields[0] == b"P4" else int(fields[3])
    if fields[0] == b"P5" and highest not in (255, 65535):
        raise UnreadableSample(
            f"has the maximum {highest}, so its values depend on the program that reads it; export it as PNG"
        )
    row = -(-image.width // 8) if highest == 1 else image.width * (1 if highest == 255 else 2)
    if size < start + row * image.height:
        raise UnreadableSample(f"is truncated: {size} of {start + row * image.height} bytes; {COPY_AGAIN}")
    file.seek(0)


def _check_bmp(file: BinaryIO, size: int) -> None:
    """Raise `UnreadableSample` for a truncated BMP; Pillow would accept truncated RLE data."""
    head = file.read(38)
    file.seek(0)
    if len(head) < 26:
        raise UnreadableSample(f"is truncated inside its header; {COPY_AGAIN}")
    start, header = struct.unpack("<II", head[10:18])
    # The oldest headers, of 12 bytes, contain no length; their pixels are never compressed.
    end = start + (struct.unpack("<I", head[34:])[0] if header >= 40 and len(head) == 38 else 0)
    if end > size:
        raise UnreadableSample(f"is truncated: {size} of {end} bytes; {COPY_AGAIN}")


def _webp_size(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return (height, width) of a lossless WebP from its chunks. Raises `UnreadableSample` for any other."""
    end = struct.unpack("<I", file.read(8)[4:])[0] + 8
    if size < end:
        raise UnreadableSample(f"is truncated: {size} of {end} bytes; {COPY_AGAIN}")
    position = 12
    while position + 8 <= end:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if position + 8 + length > end:
            break
        if kind == b"VP8 ":
            raise UnreadableSample("is a lossy WebP, which cannot store labels; export it as PNG")
        if kind in (b"ANIM", b"ANMF"):
            raise UnreadableSample("is an animation; save each frame as a file")
        if kind == b"VP8L":
            bits = int.from_bytes(file.read(5)[1:], "little")
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        position += 8 + length + length % 2
    raise UnreadableSample(f"is damaged: it contains no image; {COPY_AGAIN}")


def _strips(image: Any) -> Iterator[Any]:
    """Decode the image; yield it in strips."""
    image.load()
    rows = max(1, CHUNK_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _rows(image: Any) -> Iterator[NDArray[Any]]:
    grays: NDArray[np.uint8] | None = None
    for strip in _strips(image):
        if grays is None:
            grays = _grays(image)
        pixels = np.asarray(strip)
        yield pixels if image.mode != "P" else grays[pixels]


def _grays(image: Any) -> NDArray[np.uint8]:
    """Return index → id, uint8 [256], of a decoded image: gray values for a GIF whose palette is gray.

    Indices are ids in every other image, and where two indices that occur have the same gray.
    """
    indices = np.arange(256, dtype=np.uint8)
    if image.mode != "P" or image.format != "GIF":
        return indices
    palette = np.zeros((256, 3), np.uint8)
    entries = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(entries)] = entries
    occurring = [index for _, index in image.getcolors(256)]
    used = palette[occurring]
    is_gray = bool((used == used[:, :1]).all())
    return palette[:, 0] if is_gray and len(np.unique(used[:, 0])) == len(used) else indices


def _colors(image: Any) -> Iterator[NDArray[Any]]:
    for strip in _strips(image):
        yield packed_colors(np.asarray(strip.convert("RGB")))


def _channels(image: Any) -> Iterator[NDArray[Any]]:
    for strip in _strips(image):
        yield np.asarray(strip.convert("RGBA" if image.mode == "RGBA" else "RGB"))


def _equal_channels(image: Any) -> Iterator[NDArray[Any]]:
    for pixels in _channels(image):
        yield equal_channels(pixels, f"{image.format}, {image.mode}")
