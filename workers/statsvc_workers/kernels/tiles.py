"""Histograms of the tiles of a grid over one label map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from msgspec import Struct

from statsvc.dataset.grid import edges
from statsvc.dataset.table import MAX_IDS
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


class TileCounter:
    """Histogram of each tile of one label map or volume, built chunk by chunk.

    Slices of a volume are counted as if they were below each other in one image: a band is the part of a
    slice in one row of tiles, and the bands of several slices can belong to the same tiles.

    depth, height, width  pixels of the axes; depth is 1 for an image
    """

    def __init__(self, depth: int, height: int, width: int, grid: Grid, layout: Layout) -> None:
        self._layout = layout
        shape, parts = (depth, height, width), (grid.depth if depth > 1 else 1, grid.rows, grid.columns)
        numbers = np.arange(math.prod(parts)).reshape(parts)
        if layout == "columns":
            shape, numbers = shape[::-1], numbers.T
            if depth == 1:  # without the axis of length 1, so that rows are long
                shape, numbers = (1, *shape[:2]), numbers.transpose(2, 0, 1)
        self._shape = shape
        slices, rows = edges(shape[0], numbers.shape[0]), edges(shape[1], numbers.shape[1])
        # Where each band begins in the tall image, and its row of tiles.
        self._rows = np.append(
            (np.arange(shape[0])[:, None] * shape[1] + rows[:-1]).reshape(-1), shape[0] * shape[1]
        )
        part_of = np.repeat(np.arange(numbers.shape[0]), np.diff(slices))
        self._band_of = (part_of[:, None] * numbers.shape[1] + np.arange(numbers.shape[1])).reshape(-1)
        self._columns = edges(shape[2], numbers.shape[2])
        # The number of the tile of each band and column: the order of storage is not that of the tiles.
        self._tile = numbers.reshape(-1, numbers.shape[2])
        self._counts = np.zeros((len(self._tile), numbers.shape[2] * IDS), np.int64)
        self._counters = np.zeros((numbers.shape[2], BYTE_COUNTERS), np.uint32)
        self._wide: dict[int, Counter] = {}

    def count(self, chunks: Iterable[NDArray[Any]], engine: Engine) -> Iterator[NDArray[Any]]:
        """Count the chunks and yield them. Raises `UnreadableSample` as `Counter.add` does."""
        done = 0
        for chunk in chunks:
            if isinstance(self._layout, Corner):
                corner, planes = self._layout, chunk.reshape(-1, *chunk.shape[-2:])
                for k, plane in enumerate(planes, corner.front):
                    self._add(plane, k * self._shape[1] + corner.top, corner.left, engine)
            else:
                for (top, left), part in _whole_rows(chunk, done, self._shape[2]):
                    self._add(part, top, left, engine)
            done += chunk.size
            yield chunk

    def _add(self, part: NDArray[Any], top: int, left: int, engine: Engine) -> None:
        """Count a rectangle of the tall image whose first pixel is at (top, left)."""
        height, width = part.shape
        # Bands without a row can share a border: the first one begins at or above the rectangle.
        first = int(np.searchsorted(self._rows, top, side="right")) - 1
        last = int(np.searchsorted(self._rows, top + height, side="left"))
        rows = np.clip(self._rows[first : last + 1] - top, 0, height)
        columns = np.clip(self._columns - left, 0, width)
        bands = self._band_of[first:last]
        flat = _as_bytes(part) if engine.on_cpu() else None
        if flat is not None:
            from statsvc_workers.kernels import loops  # listing does not need llvmlite

            loops.count_bands(flat, rows, bands, columns, self._counts, self._counters)
            return
        for band, begin, end in zip(bands.tolist(), rows[:-1].tolist(), rows[1:].tolist(), strict=True):
            for column, tile in enumerate(self._tile[band].tolist()):
                inside = part[begin:end, columns[column] : columns[column + 1]]
                if inside.size:
                    if tile not in self._wide:
                        self._wide[tile] = engine.counter()
                    engine.add(self._wide[tile], inside)

    def result(self, engine: Engine) -> Entries:
        """Return the entries of all tiles. Raises `UnreadableSample` for too many ids."""
        counts = np.empty((self._tile.size, IDS), np.int64)
        counts[self._tile.reshape(-1)] = self._counts.reshape(-1, IDS)
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


def _as_bytes(part: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return the pixels of a rectangle in C order as uint8; None if one does not fit."""
    if part.dtype.itemsize == 1 and part.dtype.kind in "bu":
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    check_ids(part)
    from statsvc_workers.kernels import loops

    flat = np.require(part, part.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"]).reshape(-1)
    narrow = np.empty(len(flat), np.uint8)
    return narrow if loops.narrowed(flat, 0, narrow) else None


def entries_of_tables(counts: Int64) -> Entries:
    """Return the entries of dense tables, int64 [tiles, ids], with one column for each id from 0 on."""
    ids = np.flatnonzero(np.bitwise_or.reduce(counts, axis=0))  # several times as fast as `any`
    of_ids = np.ascontiguousarray(counts[:, ids].T)  # few ids occur, so the rest is cheap
    position, tile = np.nonzero(of_ids)
    return tile, ids[position], of_ids[position, tile]


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
