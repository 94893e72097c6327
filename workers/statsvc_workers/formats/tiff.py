"""TIFF label maps: whole numbers and palette indices, streamed strip by strip or tile by tile.

Several pages form a volume. tifffile reads the structure and decodes each segment, with imagecodecs for
compression. Errors that tifffile would silently repair (missing tiles, offsets beyond the end of the file)
are reported here first.
"""

from __future__ import annotations

import io
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    MAX_EXACT_FLOAT,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    color_coded,
    colors_shown,
    equal_channels,
    gray_colors,
    packed_colors,
    whole_numbers,
)
from statsvc_workers.kernels.tiles import Corner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "TIFF"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Values of the tags Compression, PhotometricInterpretation and PlanarConfiguration.
JPEG = (6, 7, 33007, 34892)
BLACK_IS_ZERO, RGB, PALETTE = 1, 2, 3
INTERLEAVED = 1

COLOR_DEPTHS = (1, 2, 4, 8)
"""Bits of gray values and palette indices that can be read as colors."""

VOID = -1
"""Id of pixels whose nodata value cannot be an id, such as NaN."""

NODATA_TAG = 42113
"""GDAL_NODATA: text of the value that marks pixels without data."""

SPARSE_TAGS = (42112, NODATA_TAG)
"""GDAL_METADATA, GDAL_NODATA: with one of them, a GeoTIFF may omit tiles."""

MAX_STRUCTURE_BYTES = 1 << 26
"""Largest tag: the offsets of eight million strips or tiles."""

FEWEST_READS, BYTES_PER_READ = 1000, 4
"""Reads of the structure of any file, and bytes for each further one; a page of 150 bytes takes about ten."""

LISTED_SHAPES = 3
"""Shapes of images that an error message lists."""

# tifffile logs what it repairs; without a handler, Python would print each line into the progress bar.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _Clipped:
    """A file for reading the structure: no tag allocates more than the size of the file, or than a limit.

    Directories that refer to each other, or share their bytes, end after as many reads as the file allows.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self._reads = FEWEST_READS + size // BYTES_PER_READ

    def read(self, count: int = -1) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise UnreadableSample(f"has directories that refer to each other; {COPY_AGAIN}")
        remaining = max(0, self.size - self.file.tell())
        length = remaining if count < 0 else min(count, remaining)
        if length > MAX_STRUCTURE_BYTES:
            raise UnreadableSample(f"has a tag of {length} bytes; {COPY_AGAIN}")
        return self.file.read(length)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Open the first series at full resolution; pixels are raw values, never inverted.

    Three equal bands are one. Raises `UnreadableSample` for fractions, and color, lossy and incomplete files.
    """
    series = _series(file, size)
    page = series.keyframe
    if page.samplesperpixel > 1:
        if page.photometric == RGB and page.planarconfig != INTERLEAVED:
            raise color_coded(f"{page.samplesperpixel} samples per pixel, in separate planes")
        if page.photometric != RGB or page.samplesperpixel > 4:
            raise _several_bands(page.samplesperpixel)
        label_map = _read(file, size, max_pixels, series, Mode.GRAY)
        text = f"{page.samplesperpixel} samples per pixel"
        label_map.chunks = (equal_channels(chunk, text) for chunk in label_map.chunks)
        return label_map
    mode = Mode.PALETTE if page.photometric == PALETTE else Mode.GRAY
    label_map = _read(file, size, max_pixels, series, mode)
    label_map.axes = len(series.shape)
    return label_map


def open_channels(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Open the bands of a file as channels; those of a palette are its colors, those of gray are equal."""
    series = _series(file, size)
    page = series.keyframe
    if page.samplesperpixel > 1 and page.planarconfig != INTERLEAVED:
        check_pixels(page.imagelength, page.imagewidth, max_pixels)
        bands = open_array(file, size, max_pixels * page.samplesperpixel)
        pixels = np.moveaxis(bands.reshape(page.samplesperpixel, -1, page.imagewidth), 0, -1)
        return LabelMap(Mode.GRAY, *pixels.shape[:2], [_ids(pixels, page)])
    label_map = _read(file, size, max_pixels, series, Mode.GRAY)
    if page.photometric == PALETTE:
        colors = _palette(page)
        table = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1)
        label_map.chunks = (table[chunk] for chunk in label_map.chunks)
    elif page.samplesperpixel == 1:
        label_map.chunks = (np.stack([chunk] * 3, -1) for chunk in label_map.chunks)
    return label_map


def open_array(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> NDArray[Any]:
    """Read all values of the first series, with fractions: (page or band, y, x) or (y, x, band)."""
    file.seek(0)
    series = _series(file, size)
    _read(file, size, max_pixels, series, Mode.GRAY)  # checks types, sizes and segments
    values: NDArray[Any] = series.asarray(maxworkers=1)
    return values


def _several_bands(bands: int) -> UnreadableSample:
    return UnreadableSample(
        f"has {bands} bands, but class ids are one number per pixel. If one band contains the ids, count it "
        f"with --rule channel:0 (to channel:{bands - 1}); if each band is a class, use --rule argmax:AXIS"
    )


def open_colors(file: BinaryIO, size: int, max_pixels: int) -> LabelMap:
    """Open the pixels as colors 0xRRGGBB: RGB, or the colors of palette indices and gray values.

    Transparency is ignored. Raises `UnreadableSample` as `open_label_map` does, and for colors that are not
    interleaved with 8 bits per channel.
    """
    series = _series(file, size)
    page = series.keyframe
    if (
        page.samplesperpixel == 1
        and page.bitspersample in COLOR_DEPTHS
        and page.photometric in (BLACK_IS_ZERO, PALETTE)
    ):
        indexed = page.photometric == PALETTE
        label_map = _read(file, size, max_pixels, series, Mode.PALETTE if indexed else Mode.GRAY)
        colors = _palette(page) if indexed else gray_colors(page.bitspersample)
        label_map.meaning = partial(colors_shown, colors)
        return label_map
    if page.photometric != RGB or page.bitspersample != 8 or page.planarconfig != INTERLEAVED:
        raise UnreadableSample(
            f"has {page.samplesperpixel} x {page.bitspersample} bits per pixel, not interleaved RGB of 8 "
            "bits per channel; export it in that form, or omit --rule if it contains class ids"
        )
    label_map = _read(file, size, max_pixels, series, Mode.GRAY)
    label_map.chunks = (packed_colors(chunk) for chunk in label_map.chunks)
    return label_map


def _read(file: BinaryIO, size: int, max_pixels: int, series: Any, mode: Mode) -> LabelMap:
    """Return the pixels of a series; the samples of a pixel are the last axis of the chunks."""
    page = series.keyframe
    samples = page.samplesperpixel
    dtype = page.dtype
    if dtype is None or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(
            f"contains {'unknown' if dtype is None else dtype.name} values, not class ids; "
            "if they are whole numbers, save them as an integer type"
        )
    if page.compression in JPEG:
        raise UnreadableSample(
            "is compressed with JPEG, which is lossy and cannot store labels; export it with deflate or LZW"
        )
    pixels, width = math.prod(series.shape) // samples, page.imagewidth
    height = pixels // max(1, width)
    check_pixels(height, width, max_pixels)
    slices = height // max(1, page.imagelength)
    # The pages of an array with more than three axes are not the slices of one volume.
    planar = sum(length != 1 for length in series.shape) - (samples > 1) <= 3
    volume = (slices, page.imagelength, width) if planar and slices > 1 else None
    if page.is_tiled and page.tiledepth * page.tilelength * page.tilewidth > max(max_pixels, CHUNK_PIXELS):
        raise UnreadableSample(
            f"has tiles of {page.tilewidth} x {page.tilelength} pixels, over the limit of {max_pixels} "
            "(max_pixels); export it with smaller tiles"
        )
    if series.dataoffset:
        # Uncompressed and contiguous: streamed, as it may be larger than memory. ImageJ does not describe
        # the pages of such a stack.
        for part in series.pages:
            if part is not None and not part.is_virtual and sum(part.databytecounts) < part.nbytes:
                raise UnreadableSample(
                    f"is damaged: its strips have {sum(part.databytecounts)} of {part.nbytes} bytes; "
                    f"{COPY_AGAIN}"
                )
        _check_extent(series.dataoffset, pixels * samples * dtype.itemsize, size)
        stored = np.dtype(dtype).newbyteorder(page.parent.byteorder)
        contiguous = _contiguous(file, series.dataoffset, pixels, stored, samples)
        layout: Literal["rows"] | None = "rows" if planar else None
        ids = (_ids(chunk, page) for chunk in contiguous)
        return LabelMap(mode, height, width, ids, layout=layout, volume=volume)
    pages = list(series.pages)
    if None in pages or sum(math.prod(part.keyframe.shaped) for part in pages) != pixels * samples:
        raise UnreadableSample(f"lacks some of the pages of its {series.shape} volume; {COPY_AGAIN}")
    for part in pages:
        _check_segments(part, size)
    corner = Corner()
    ids = (_ids(chunk, page) for chunk in _segments(pages, corner))
    return LabelMap(mode, height, width, ids, layout=corner if planar else None, volume=volume)


def _ids(chunk: NDArray[Any], page: Any) -> NDArray[Any]:
    """Return whole numbers as integers; nodata values that are not ids become `VOID`."""
    if chunk.dtype.kind != "f":
        return chunk
    if NODATA_TAG in page.tags:
        value = chunk.dtype.type(_declared_nodata(page))
        nodata_pixels = np.isnan(chunk) if np.isnan(value) else chunk == value
        if not (np.isfinite(value) and value == np.rint(value) and abs(value) < MAX_EXACT_FLOAT):
            chunk = np.where(nodata_pixels, chunk.dtype.type(VOID), chunk)
    return whole_numbers(chunk)


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header says."""
    page = _series(file, size).keyframe
    if page.samplesperpixel > 1:
        return Peek(f"color, {page.samplesperpixel} samples per pixel", color=True)
    kind = "palette" if page.photometric == PALETTE else "TIFF"
    return Peek(f"{page.bitspersample}-bit {kind}", page.dtype is None or page.dtype.kind not in "biu")


FORMAT = Format(NAME, MAGIC, open_label_map, peek, open_colors, open_channels, open_array)


def nodata(file: BinaryIO) -> int | None:
    """Return the nodata value that a GeoTIFF declares; None if it declares none that can be an id."""
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        value = _declared_nodata(_series(file, size).keyframe)
    except Exception:  # noqa: BLE001 - an unreadable file is reported when it is counted
        return None
    return int(value) if value.is_integer() and abs(value) < MAX_EXACT_FLOAT else None


def _declared_nodata(page: Any) -> float:
    """Return the nodata value that a page declares; NaN if it declares none.

    tifffile's own value is 0 for the highest value of a type, which it regards as out of range.
    """
    if NODATA_TAG not in page.tags:
        return math.nan
    try:
        return float(str(page.tags[NODATA_TAG].value).strip("\0 "))
    except ValueError:
        return math.nan


def _palette(page: Any) -> NDArray[np.int64]:
    """Return the colors of palette indices, int64 [n]: the high bytes of the entries, as in Pillow."""
    table = page.colormap
    if table is None or table.ndim != 2 or len(table) != 3:
        raise UnreadableSample(f"has palette indices but no palette; {COPY_AGAIN}")
    red, green, blue = (table >> 8).astype(np.int64)
    colors: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colors


def _series(file: BinaryIO, size: int) -> Any:
    """Return the first series of a file at full resolution. Raises `UnreadableSample` for several images."""
    import tifffile

    # OME metadata may refer to other files, which tifffile would read as parts of this one.
    series = tifffile.TiffFile(_Clipped(file, size), is_ome=False).series
    if not series:
        raise UnreadableSample(f"contains no image; {COPY_AGAIN}")
    # Overviews and transparency masks belong to the image next to them.
    images = [part for part in series if not (part.keyframe.is_reduced or part.keyframe.is_mask)]
    if len(images) > 1:
        shapes = " and ".join(str(image.shape) for image in images[:LISTED_SHAPES])
        raise UnreadableSample(
            f"contains {len(images)} images that do not form one volume ({shapes}); "
            "save each image in its own file"
        )
    return series[0].levels[0]


def _check_extent(offset: int, count: int, size: int) -> None:
    if offset <= 0 or offset + count > size:
        raise UnreadableSample(
            f"is truncated: its pixels end at byte {offset + count}, the file at byte {size}; {COPY_AGAIN}"
        )


def _check_segments(page: Any, size: int) -> None:
    """Raise `UnreadableSample` for a page whose strips or tiles are not all in the file."""
    keyframe = page.keyframe
    kind = "tiles" if keyframe.is_tiled else "strips"
    needed = math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) < needed or len(counts) < needed:
        raise UnreadableSample(f"lists {len(offsets)} of {needed} {kind}; {COPY_AGAIN}")
    missing = 0
    for offset, count in zip(offsets[:needed], counts[:needed], strict=True):
        if offset == 0 or count == 0:
            missing += 1
        else:
            _check_extent(offset, count, size)
    if missing and not any(tag in keyframe.tags for tag in SPARSE_TAGS):
        raise UnreadableSample(
            f"lacks {missing} of {needed} {kind}; {COPY_AGAIN}. If it is a sparse GeoTIFF, set its nodata "
            "value: gdal_edit.py -a_nodata ID FILE"
        )


def _contiguous(
    file: BinaryIO, start: int, pixels: int, dtype: np.dtype[Any], samples: int
) -> Iterator[NDArray[Any]]:
    file.seek(start)
    while pixels:
        count = min(pixels, CHUNK_PIXELS)
        length = count * samples * dtype.itemsize
        data = file.read(length)
        if len(data) < length:
            raise UnreadableSample(f"became shorter while it was being read; {COPY_AGAIN}")
        values = np.frombuffer(data, dtype)
        yield values.reshape(count, samples) if samples > 1 else values
        pixels -= count


def _segments(pages: list[Any], corner: Corner) -> Iterator[NDArray[Any]]:
    first = 0  # the page's first slice
    for page in pages:
        keyframe = page.keyframe
        _, depth, length, width, samples = keyframe.shaped
        for data, (_, z, y, x, _), shape in page.segments(maxworkers=1):
            # Tiles at the edge of the image are padded.
            inside = (min(shape[0], depth - z), min(shape[1], length - y), min(shape[2], width - x))
            if data is None:  # a segment that a sparse file omits
                nodata = np.array(_fill_value(keyframe)).astype(keyframe.dtype)
                segment = np.broadcast_to(nodata, (*inside, samples))
            else:
                segment = data[: inside[0], : inside[1], : inside[2]]
            segment = segment[..., 0] if samples == 1 else segment
            if segment.shape[:3] != inside:
                raise UnreadableSample(
                    f"has a segment of shape {segment.shape} instead of {inside}; {COPY_AGAIN}"
                )
            rows = max(1, CHUNK_PIXELS // inside[2])
            for front, plane in enumerate(segment, first + z):
                for top in range(0, len(plane), rows):
                    corner.front, corner.top, corner.left = front, y + top, x
                    yield plane[top : top + rows]
        first += depth


def _fill_value(page: Any) -> float:
    """Return the value of segments that a sparse file omits: nodata, or 0 if its type cannot store that."""
    value = _declared_nodata(page)
    if page.dtype.kind == "f":
        return value if NODATA_TAG in page.tags else 0.0
    low, high = (0, 1) if page.dtype.kind == "b" else (np.iinfo(page.dtype).min, np.iinfo(page.dtype).max)
    return value if low <= value <= high else 0.0
