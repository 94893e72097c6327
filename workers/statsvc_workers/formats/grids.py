"""Raster files that GDAL reads through rasterio: ERDAS Imagine `.img` and Arc/Info ASCII grids `.asc`.

Each extension has one driver, and GDAL gets the bytes of the file, not its path: a format whose files name
other files, such as VRT, is not read.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import partial
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
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

IMAGINE, ASCII_GRID = "HFA", "AAIGrid"
"""GDAL's names of the drivers."""


def open_label_map(
    file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None, *, driver: str
) -> LabelMap:
    """Read the header of a file with one band.

    Raises `UnreadableSample` for several bands, and for values that are not whole numbers.
    """
    height, width, bands = _shape(file, driver, max_pixels)
    if bands != 1:
        raise UnreadableSample(f"has {bands} bands; count one with --rule channel:0 or a higher number")
    chunks = (chunk[..., 0] for chunk in _chunks(file, driver))
    return LabelMap(Mode.GRAY, height, width, chunks, layout="rows")


def open_channels(
    file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None, *, driver: str
) -> LabelMap:
    """Open the bands [rows, width, band]."""
    height, width, _ = _shape(file, driver, max_pixels)
    return LabelMap(Mode.GRAY, height, width, _chunks(file, driver), layout="rows")


def peek(file: BinaryIO, _size: int, *, driver: str) -> Peek:
    """Return what the header says."""
    with _dataset(file, driver) as dataset:
        return Peek(f"{driver} raster of {dataset.count} x {dataset.dtypes[0]}", dataset.count > 1)


def _format(name: str, magic: tuple[bytes, ...], driver: str) -> Format:
    opened = partial(open_label_map, driver=driver)
    channels = partial(open_channels, driver=driver)
    return Format(name, magic, opened, partial(peek, driver=driver), open_channels=channels)


FORMAT = _format("ERDAS Imagine image", (b"EHFA_HEADER_TAG",), IMAGINE)

ASCII_FORMAT = _format(
    "Arc/Info ASCII grid", (b"ncols", b"NCOLS", b"Ncols", b"nCols", b"nrows", b"NROWS"), ASCII_GRID
)


@contextmanager
def _dataset(file: BinaryIO, driver: str) -> Iterator[Any]:
    """Open the bytes of a file with one driver of GDAL."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    file.seek(0)
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"),
        MemoryFile(file.read()) as memory,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with memory.open(driver=driver) as dataset:
                yield dataset
        except RasterioError:  # its text quotes addresses and temporary names
            raise UnreadableSample(f"is damaged or truncated: GDAL cannot read it; {COPY_AGAIN}") from None


def _shape(file: BinaryIO, driver: str, max_pixels: int) -> tuple[int, int, int]:
    """Return (height, width, bands)."""
    with _dataset(file, driver) as dataset:
        check_pixels(dataset.height, dataset.width, max_pixels)
        if any(np.dtype(kind).kind not in "iuf" for kind in dataset.dtypes):
            raise UnreadableSample(f"contains {dataset.dtypes[0]} values, not class ids; export integers")
        block_rows, block_columns = dataset.block_shapes[0]
        check_pixels(block_rows, block_columns, max(max_pixels, CHUNK_PIXELS))
        return dataset.height, dataset.width, dataset.count


def _chunks(file: BinaryIO, driver: str) -> Iterator[NDArray[Any]]:
    """Yield whole rows of blocks, [rows, width, band]."""
    from rasterio.windows import Window

    with _dataset(file, driver) as dataset:
        block_rows = dataset.block_shapes[0][0]
        rows = block_rows * max(1, CHUNK_PIXELS // (block_rows * dataset.width * dataset.count))
        for top in range(0, dataset.height, rows):
            window = Window(0, top, dataset.width, min(rows, dataset.height - top))
            chunk = np.moveaxis(dataset.read(window=window), 0, -1)
            yield whole_numbers(chunk) if chunk.dtype.kind == "f" else chunk
