"""BMP, GIF and WebP label maps, decoded by Pillow: grey values, or palette indices.

WebP has neither grey nor a palette: labels are pictures whose three channels are equal, and only lossless
files are read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

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
    packed_colours,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "BMP, GIF or WebP image"
MAGIC = (b"BM", b"GIF8", b"RIFF")

INDEXED = ("1", "L", "P")


def open_label_map(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read the header; the picture is decoded whole.

    Raises `UnreadableSample` for colour, lossy compression, animations and damaged files.
    """
    image = _opened(file, size, max_pixels)
    webp = image.format == "WEBP"
    if image.mode not in INDEXED and not webp:
        raise colour_coded(f"{image.format}, {image.mode}")
    mode = Mode.PALETTE if image.mode == "P" else Mode.GREY
    chunks = _equal_channels(image) if webp else _rows(image)
    return LabelMap(mode, image.height, image.width, chunks)


def open_colours(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read a picture as colours, palette images by what their indices show."""
    image = _opened(file, size, max_pixels)
    mode = Mode.PALETTE if image.mode == "P" else Mode.GREY
    return LabelMap(mode, image.height, image.width, _colours(image))


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    image = _opened(file, size, 1 << 62)
    # Of a WebP nothing but the pixels tells; those that are label maps are rare.
    return Peek(f"{image.format} {image.mode}", image.mode not in INDEXED)


def _opened(file: BinaryIO, size: int, max_pixels: int) -> Any:
    """Return Pillow's image, not decoded yet."""
    # The plugins themselves: `Image.open` warns about large images by a global limit, and would also
    # take any other format.
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
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
    else:
        raise UnreadableSample(f"is no {NAME}; {COPY_AGAIN}")
    check_pixels(image.height, image.width, max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UnreadableSample(f"is an animation of {image.n_frames} frames; save each as a file of its own")
    return image


def _check_bmp(file: BinaryIO, size: int) -> None:
    """Refuse a BMP that ends before its pixels do; Pillow would take what there is of RLE data."""
    head = file.read(38)
    file.seek(0)
    if len(head) < 26:
        raise UnreadableSample(f"is truncated inside its header; {COPY_AGAIN}")
    start, header = struct.unpack("<II", head[10:18])
    # The oldest headers, of 12 bytes, do not say how long the pixels are, and know no compression.
    end = start + (struct.unpack("<I", head[34:])[0] if header >= 40 and len(head) == 38 else 0)
    if end > size:
        raise UnreadableSample(f"is truncated: {size} bytes of {end}; {COPY_AGAIN}")


def _webp_size(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return height and width of a lossless WebP by its chunks. Raises `UnreadableSample` for any other."""
    end = struct.unpack("<I", file.read(8)[4:])[0] + 8
    if size < end:
        raise UnreadableSample(f"is truncated: {size} bytes of {end}; {COPY_AGAIN}")
    at = 12
    while at + 8 <= end:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if at + 8 + length > end:
            break
        if kind == b"VP8 ":
            raise UnreadableSample("is a lossy WebP, which cannot hold labels; export it as PNG")
        if kind in (b"ANIM", b"ANMF"):
            raise UnreadableSample("is an animation; save each frame as a file of its own")
        if kind == b"VP8L":
            bits = int.from_bytes(file.read(5)[1:], "little")
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        at += 8 + length + length % 2
    raise UnreadableSample(f"is damaged: it holds no picture; {COPY_AGAIN}")


def _loaded(image: Any, rows: int) -> Iterator[Any]:
    """Decode the picture; yield it in strips."""
    image.load()
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _rows(image: Any) -> Iterator[NDArray[Any]]:
    for part in _loaded(image, max(1, CHUNK_PIXELS // image.width)):
        yield np.asarray(part)


def _colours(image: Any) -> Iterator[NDArray[Any]]:
    for part in _loaded(image, max(1, CHUNK_PIXELS // image.width)):
        yield packed_colours(np.asarray(part.convert("RGB")))


def _equal_channels(image: Any) -> Iterator[NDArray[Any]]:
    for part in _loaded(image, max(1, CHUNK_PIXELS // image.width)):
        pixels = np.asarray(part.convert("RGB"))
        grey = pixels[..., 0]
        if not ((pixels[..., 1] == grey) & (pixels[..., 2] == grey)).all():
            raise colour_coded("WebP, RGB")
        yield grey
