"""Histograms of the tiles of a grid over one label map."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct

from statsvc.dataset.grid import edges
from statsvc.dataset.table import MAX_IDS
from statsvc_workers.kernels.buffer_pool import borrowed_buffer
from statsvc_workers.kernels.histogram import check_ids, too_many_ids
from statsvc_workers.kernels.sizes import BYTE_COUNTERS, IDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid
    from statsvc_workers.kernels.device import Engine
    from statsvc_workers.kernels.histogram import Counter

    Int64 = NDArray[np.int64]
    Entries = tuple[Int64, Int64, Int64]
    """Tile, id and pixels of each entry, int64 [e] each, ascending by id, then by tile."""

    Layout: TypeAlias = "Literal['rows', 'columns'] | Corner"
    """Where the pixels of the chunks of a label map are: consecutive pixels, row by row (of a volume, slice
    by slice) or in the opposite order of the axes, or a block at a `Corner`, which is updated before each
    chunk is yielded."""


class Corner(Struct):
    """The position of the chunk that was yielded last: its first slice, row and column."""

    top: int = 0
    left: int = 0
    front: int = 0


class Bands(NamedTuple):
    """The tiles of a label map as it is stored: bands of rows of a tall image, divided into columns.

    shape    slices, rows and columns of the stored array
    rows     int64 [b + 1], where each band begins in the tall image, and its end
    band_of  int64 [b], the row of tiles of each band
    columns  int64 [c + 1], where each column begins, and the width
    tile     int64 [rows of tiles, c], the number of each tile: the order of storage may be another one
    """

    shape: tuple[int, int, int]
    rows: Int64
    band_of: Int64
    columns: Int64
    tile: Int64

    def inside(self, top: int, left: int, height: int, width: int) -> tuple[Int64, Int64, Int64]:
        """Return the rows, bands and columns of a rectangle whose first pixel is at (top, left)."""
        if (height, width) == (self.rows[-1], self.columns[-1]):
            return self.rows, self.band_of, self.columns
        # Bands without a row can share a border: the first one begins at or above the rectangle.
        first = int(np.searchsorted(self.rows, top, side="right")) - 1
        last = int(np.searchsorted(self.rows, top + height, side="left"))
        rows = np.clip(self.rows[first : last + 1] - top, 0, height)
        return rows, self.band_of[first:last], np.clip(self.columns - left, 0, width)


@functools.lru_cache(maxsize=64)
def bands_of(shape: tuple[int, int, int], parts: tuple[int, int, int], *, by_columns: bool = False) -> Bands:
    """Return the bands of a label map; most label maps of a dataset have the same size.

    shape       depth, height and width; the depth of an image is 1
    parts       parts of the grid along these axes
    by_columns  whether the axes are stored in the opposite order
    """
    numbers = np.arange(math.prod(parts)).reshape(parts)
    if by_columns:
        shape, numbers = shape[::-1], numbers.T
        if shape[2] == 1:  # an image: without the axis of length 1, so that rows are long
            shape, numbers = (1, *shape[:2]), numbers.transpose(2, 0, 1)
    slices, rows = edges(shape[0], numbers.shape[0]), edges(shape[1], numbers.shape[1])
    starts = (np.arange(shape[0])[:, None] * shape[1] + rows[:-1]).reshape(-1)
    part_of = np.repeat(np.arange(numbers.shape[0]), np.diff(slices))
    band_of = (part_of[:, None] * numbers.shape[1] + np.arange(numbers.shape[1])).reshape(-1)
    columns, tile = edges(shape[2], numbers.shape[2]), numbers.reshape(-1, numbers.shape[2])
    return Bands(shape, np.append(starts, shape[0] * shape[1]), band_of, columns, tile)


class TileCounter:
    """Histogram of each tile of one label map or volume, built chunk by chunk.

    Slices of a volume are counted as if they were below each other in one image: a band is the part of a
    slice in one row of tiles, and the bands of several slices can belong to the same tiles.

    depth, height, width  pixels of the axes; depth is 1 for an image
    """

    def __init__(self, depth: int, height: int, width: int, grid: Grid, layout: Layout) -> None:
        self._layout = layout
        parts = (grid.depth if depth > 1 else 1, grid.rows, grid.columns)
        self._bands = bands_of((depth, height, width), parts, by_columns=layout == "columns")
        columns = len(self._bands.columns) - 1
        self._counts = np.zeros((len(self._bands.tile), columns * IDS), np.int64)
        self._counters = np.zeros((columns, BYTE_COUNTERS), np.uint32)
        self._wide: dict[int, Counter] = {}

    def count(self, chunks: Iterable[NDArray[Any]], engine: Engine) -> Iterator[NDArray[Any]]:
        """Count the chunks and yield them. Raises `UnreadableSample` as `Counter.add` does."""
        done = 0
        for chunk in chunks:
            if isinstance(self._layout, Corner):
                corner, planes = self._layout, chunk.reshape(-1, *chunk.shape[-2:])
                for k, plane in enumerate(planes, corner.front):
                    self._add(plane, k * self._bands.shape[1] + corner.top, corner.left, engine)
            else:
                for (top, left), part in _whole_rows(chunk, done, self._bands.shape[2]):
                    self._add(part, top, left, engine)
            done += chunk.size
            yield chunk

    def _add(self, part: NDArray[Any], top: int, left: int, engine: Engine) -> None:
        """Count a rectangle of the tall image whose first pixel is at (top, left)."""
        rows, bands, columns = self._bands.inside(top, left, *part.shape)
        if engine.on_cpu() and self._add_bytes(part, rows, bands, columns):
            return
        for band, begin, end in zip(bands.tolist(), rows[:-1].tolist(), rows[1:].tolist(), strict=True):
            for column, tile in enumerate(self._bands.tile[band].tolist()):
                inside = part[begin:end, columns[column] : columns[column + 1]]
                if inside.size:
                    if tile not in self._wide:
                        self._wide[tile] = engine.counter()
                    engine.add(self._wide[tile], inside)

    def _add_bytes(self, part: NDArray[Any], rows: Int64, bands: Int64, columns: Int64) -> bool:
        """Count a rectangle with the arguments of `count_bands`; return False if an id is not a byte."""
        from statsvc_workers.kernels import loops  # listing does not need llvmlite

        if part.dtype.itemsize == 1 and part.dtype.kind in "bu":
            flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            loops.count_bands(flat, rows, bands, columns, self._counts, self._counters)
            return True
        check_ids(part)
        ids = np.require(part, part.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"]).reshape(-1)
        with borrowed_buffer(len(ids)) as narrow:
            if not loops.narrowed(ids, 0, narrow):
                return False
            loops.count_bands(narrow, rows, bands, columns, self._counts, self._counters)
        return True

    def result(self, engine: Engine) -> Entries:
        """Return the entries of all tiles. Raises `UnreadableSample` for too many ids."""
        counts = self._counts.reshape(-1, IDS)
        if self._layout == "columns":
            ordered = np.empty_like(counts)
            ordered[self._bands.tile.reshape(-1)] = counts
            counts = ordered
        entries = entries_of_tables(counts)
        if not self._wide:
            return entries
        parts = [entries]
        for tile, counter in self._wide.items():
            ids, pixels = engine.result(counter)
            parts.append((np.full(len(ids), tile), ids, pixels))
        tiles, ids, pixels = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
        distinct = np.unique(ids)
        if len(distinct) > MAX_IDS:
            raise too_many_ids(distinct)
        return merged_entries(tiles, ids, pixels)


def entries_of_tables(counts: Int64) -> Entries:
    """Return the entries of dense tables, int64 [tiles, ids], with one column for each id from 0 on."""
    ids = np.bitwise_or.reduce(counts, axis=0).nonzero()[0]  # several times as fast as `any`
    of_ids = counts.take(ids, axis=1).T.reshape(-1)  # few ids occur, so the rest is cheap
    entries = of_ids.nonzero()[0]
    position, tile = np.divmod(entries, len(counts))
    return tile, ids[position], of_ids[entries]


def merged_entries(tile: NDArray[Any], ids: NDArray[Any], pixels: NDArray[Any]) -> Entries:
    """Return entries in order, with the sum of the pixels of equal tiles and ids."""
    order = np.lexsort((tile, ids))
    tile, ids = tile[order].astype(np.int64), ids[order].astype(np.int64)
    first = np.ones(len(tile), bool)
    first[1:] = (tile[1:] != tile[:-1]) | (ids[1:] != ids[:-1])
    starts = np.flatnonzero(first)
    total = np.add.reduceat(pixels[order].astype(np.int64), starts) if len(starts) else pixels[order]
    return tile[starts], ids[starts], total


def _whole_rows(
    chunk: NDArray[Any], start: int, width: int
) -> Iterator[tuple[tuple[int, int], NDArray[Any]]]:
    """Yield consecutive pixels as rectangles: ((top, left), pixels [rows, columns]).

    chunk  pixels from number `start` of an image on, row by row, in any shape
    """
    flat = chunk.reshape(-1)
    while len(flat):
        top, left = divmod(start, width)
        length = min(width - left, len(flat)) if left or len(flat) < width else len(flat) // width * width
        yield (top, left), flat[:length].reshape(-1, min(length, width))
        flat, start = flat[length:], start + length
