"""TIFF label maps: integers and palette indices, streamed strip by strip or tile by tile; pages are a volume.

tifffile reads the structure and decodes each segment, with imagecodecs for compression. What it would
fill or cut in silence (missing tiles, offsets beyond the end of the file) is refused here first.
"""

from __future__ import annotations

import logging
import math
from functools import partial
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
    colours_shown,
    grey_colours,
    packed_colours,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "TIFF"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

JPEG = (6, 7, 33007, 34892)
BLACK_IS_ZERO, RGB, PALETTE = 1, 2, 3
SIDE_BY_SIDE = 1
DEPTHS = (1, 2, 4, 8)
"""Bits of grey values and palette indices that stand for colours."""
SPARSE_TAGS = (42112, 42113)  # GDAL_METADATA, GDAL_NODATA

# tifffile logs what it repairs; without a handler Python would print each line into the progress bar.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _Clipped:
    """A file whose `read` never allocates more than the file holds, whatever a damaged tag asks for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.file.tell())
        return self.file.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def open_label_map(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read the structure of the first series at full resolution; its pixels are raw, not inverted.

    Raises `UnreadableSample` for floating point, colour, lossy or incomplete files.
    """
    series = _series(file, size)
    page = series.keyframe
    if page.samplesperpixel > 1:
        raise colour_coded(f"{page.samplesperpixel} samples a pixel")
    mode = Mode.PALETTE if page.photometric == PALETTE else Mode.GREY
    return _read(file, size, max_pixels, series, mode)


def open_colours(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Read the pixels as colours 0xRRGGBB: RGB, or what palette indices and grey values show.

    Transparency is left out. Raises `UnreadableSample` as `open_label_map` does, and for other colours than
    8 bits a channel, stored side by side.
    """
    series = _series(file, size)
    page = series.keyframe
    if (
        page.samplesperpixel == 1
        and page.bitspersample in DEPTHS
        and page.photometric in (BLACK_IS_ZERO, PALETTE)
    ):
        indexed = page.photometric == PALETTE
        label_map = _read(file, size, max_pixels, series, Mode.PALETTE if indexed else Mode.GREY)
        shown = _palette(page) if indexed else grey_colours(page.bitspersample)
        label_map.meaning = partial(colours_shown, shown)
        return label_map
    if page.photometric != RGB or page.bitspersample != 8 or page.planarconfig != SIDE_BY_SIDE:
        raise UnreadableSample(
            f"holds {page.samplesperpixel} x {page.bitspersample} bits a pixel, not RGB of 8 bits a channel, "
            "stored side by side; export it so, or leave --rule out if it holds class ids"
        )
    label_map = _read(file, size, max_pixels, series, Mode.GREY)
    label_map.chunks = (packed_colours(chunk) for chunk in label_map.chunks)
    return label_map


def _read(file: BinaryIO, size: int, max_pixels: int, series: Any, mode: Mode) -> LabelMap:
    """Return the pixels of a series; where they have several samples, these are the chunks' last axis."""
    page = series.keyframe
    samples = page.samplesperpixel
    dtype = page.dtype
    if dtype is None or dtype.kind not in "biu":
        raise UnreadableSample(
            f"holds {'unknown' if dtype is None else dtype.name} values, not class ids; "
            "if they are whole numbers, save them as an integer type"
        )
    if page.compression in JPEG:
        raise UnreadableSample(
            "is compressed with JPEG, which is lossy, so it cannot hold labels; export it with deflate or LZW"
        )
    pixels, width = math.prod(series.shape) // samples, page.imagewidth
    height = pixels // max(1, width)
    check_pixels(height, width, max_pixels)
    if page.is_tiled and page.tiledepth * page.tilelength * page.tilewidth > max(max_pixels, CHUNK_PIXELS):
        raise UnreadableSample(
            f"has tiles of {page.tilewidth} x {page.tilelength} pixels, over the limit of {max_pixels} "
            "(max_pixels); export it with smaller tiles"
        )
    # One run of bytes, larger than memory perhaps, and in ImageJ's stacks not described page by page.
    if series.dataoffset:
        for one in series.pages:
            if one is not None and not one.is_virtual and sum(one.databytecounts) < one.nbytes:
                raise UnreadableSample(
                    f"is damaged: strips of {sum(one.databytecounts)} bytes for {one.nbytes}; {COPY_AGAIN}"
                )
        _check_extent(series.dataoffset, pixels * samples * dtype.itemsize, size)
        stored = np.dtype(dtype).newbyteorder(page.parent.byteorder)
        return LabelMap(mode, height, width, _run(file, series.dataoffset, pixels, stored, samples))
    pages = list(series.pages)
    if None in pages or sum(math.prod(one.keyframe.shaped) for one in pages) != pixels * samples:
        raise UnreadableSample(f"lacks some of the pages of its {series.shape} volume; {COPY_AGAIN}")
    for one in pages:
        _check_segments(one, size)
    return LabelMap(mode, height, width, _segments(pages))


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    page = _series(file, size).keyframe
    if page.samplesperpixel > 1:
        return Peek(f"colour, {page.samplesperpixel} samples a pixel", colour=True)
    kind = "palette" if page.photometric == PALETTE else "TIFF"
    return Peek(f"{page.bitspersample}-bit {kind}", page.dtype is None or page.dtype.kind not in "biu")


def _palette(page: Any) -> NDArray[np.int64]:
    """Return the colours of palette indices, int64 [n]: high bytes of its entries, as Pillow reads them."""
    table = page.colormap
    if table is None or table.ndim != 2 or len(table) != 3:
        raise UnreadableSample(f"has palette indices and no palette; {COPY_AGAIN}")
    red, green, blue = (table >> 8).astype(np.int64)
    colours: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colours


def _series(file: BinaryIO, size: int) -> Any:
    import tifffile

    # OME metadata may name other files, which would then be part of this one.
    series = tifffile.TiffFile(_Clipped(file, size), is_ome=False).series
    if not series:
        raise UnreadableSample(f"holds no image; {COPY_AGAIN}")
    # Overviews and transparency masks beside the image are no images of their own.
    images = [one for one in series if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    if len(images) > 1:
        shapes = " and ".join(str(one.shape) for one in images[:3])
        raise UnreadableSample(
            f"holds {len(images)} images that do not make one volume ({shapes}); "
            "save each in a file of its own"
        )
    return series[0].levels[0]


def _check_extent(offset: int, count: int, size: int) -> None:
    if offset <= 0 or offset + count > size:
        raise UnreadableSample(
            f"is truncated: pixels up to byte {offset + count} of a file of {size}; {COPY_AGAIN}"
        )


def _check_segments(page: Any, size: int) -> None:
    """Refuse a page whose strips or tiles are not all in the file."""
    keyframe = page.keyframe
    what = "tiles" if keyframe.is_tiled else "strips"
    needed = math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) < needed or len(counts) < needed:
        raise UnreadableSample(f"lists {len(offsets)} of {needed} {what}; {COPY_AGAIN}")
    missing = 0
    for offset, count in zip(offsets[:needed], counts[:needed], strict=True):
        if offset == 0 or count == 0:
            missing += 1
        else:
            _check_extent(offset, count, size)
    if missing and not any(tag in keyframe.tags for tag in SPARSE_TAGS):
        raise UnreadableSample(
            f"lacks {missing} of {needed} {what}; {COPY_AGAIN}, or, if it is a sparse GeoTIFF, "
            "give it a nodata value (gdal_edit.py -a_nodata ID FILE)"
        )


def _run(
    file: BinaryIO, start: int, pixels: int, dtype: np.dtype[Any], samples: int
) -> Iterator[NDArray[Any]]:
    file.seek(start)
    while pixels:
        count = min(pixels, CHUNK_PIXELS)
        length = count * samples * dtype.itemsize
        data = file.read(length)
        if len(data) < length:
            raise UnreadableSample(f"became shorter while it was read; {COPY_AGAIN}")
        values = np.frombuffer(data, dtype)
        yield values.reshape(count, samples) if samples > 1 else values
        pixels -= count


def _segments(pages: list[Any]) -> Iterator[NDArray[Any]]:
    for page in pages:
        keyframe = page.keyframe
        _, depth, length, width, samples = keyframe.shaped
        for data, (_, z, y, x, _), shape in page.segments(maxworkers=1):
            # Tiles at the edge are padded.
            inside = (min(shape[0], depth - z), min(shape[1], length - y), min(shape[2], width - x))
            if data is None:
                yield from _constant(keyframe.nodata, math.prod(inside), keyframe.dtype, samples)
                continue
            segment = data[: inside[0], : inside[1], : inside[2]]
            segment = segment[..., 0] if samples == 1 else segment
            if segment.shape[:3] != inside:
                raise UnreadableSample(f"has a segment of {segment.shape} for {inside} pixels; {COPY_AGAIN}")
            rows = max(1, CHUNK_PIXELS // inside[2])
            for plane in segment:
                for top in range(0, len(plane), rows):
                    yield plane[top : top + rows]


def _constant(value: Any, pixels: int, dtype: np.dtype[Any], samples: int) -> Iterator[NDArray[Any]]:
    """Yield the pixels of a segment that a sparse file leaves out."""
    while pixels:
        count = min(pixels, CHUNK_PIXELS)
        yield np.full((count, samples) if samples > 1 else count, value, dtype)
        pixels -= count
