"""Histograms of the tiles of a grid over one label map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from statsvc.dataset.grid import edges
from statsvc.dataset.table import MAX_IDS
from statsvc_workers.kernels.histogram import COUNTERS, Counter, too_many_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid

    Int64 = NDArray[np.int64]
    Entries = tuple[Int64, Int64, Int64]
    """Tile, id and pixels of each entry, int64 [e] each, ascending by id, then by tile."""

    Layout: TypeAlias = "Literal['rows', 'columns'] | Corner"
    """Where the pixels of the chunks of a label map are: consecutive pixels, row by row or column by column,
    or a rectangle at a `Corner`, which is updated before each chunk is yielded."""

_IDS = 256
"""Ids of the dense table of a tile; ids outside 0 … 255 are hashed."""


@dataclass(slots=True)
class Corner:
    """The position of the chunk that was yielded last: its first row and column."""

    top: int = 0
    left: int = 0


class TileCounter:
    """Histogram of each tile of one label map, built chunk by chunk.

    counters  one `Counter` for each tile
    """

    def __init__(self, height: int, width: int, grid: Grid) -> None:
        self._shape, self._grid = (height, width), grid
        self._rows, self._columns = edges(height, grid.rows), edges(width, grid.columns)
        # One array, so that all tables are summed in one step.
        self._tables = np.zeros((grid.tiles, _IDS, COUNTERS), np.int64)
        self.counters = [Counter(table) for table in self._tables]

    def count(
        self,
        chunks: Iterable[NDArray[Any]],
        layout: Layout,
        add: Callable[[Counter, NDArray[Any]], None],
    ) -> Iterator[NDArray[Any]]:
        """Pass the part of each chunk in each tile to `add`, with the tile's counter, and yield the chunk."""
        height, width = self._shape
        done = 0
        for chunk in chunks:
            if layout == "rows":
                for (top, left), part in _whole_rows(chunk, done, width):
                    self._add(part, top, left, add)
            elif layout == "columns":
                for (left, top), part in _whole_rows(chunk, done, height):
                    self._add(part.T, top, left, add)
            else:
                self._add(chunk, layout.top, layout.left, add)
            done += chunk.size
            yield chunk

    def _add(
        self, part: NDArray[Any], top: int, left: int, add: Callable[[Counter, NDArray[Any]], None]
    ) -> None:
        """Count a rectangle whose first pixel is at (top, left)."""
        bottom, right = top + part.shape[0], left + part.shape[1]
        for row in _overlapping(self._rows, top, bottom):
            rows = slice(max(self._rows[row] - top, 0), self._rows[row + 1] - top)
            for column in _overlapping(self._columns, left, right):
                columns = slice(max(self._columns[column] - left, 0), self._columns[column + 1] - left)
                add(self.counters[row * self._grid.columns + column], part[rows, columns])

    def result(self) -> Entries:
        """Return the entries of all tiles. Raises `UnreadableSample` for too many ids."""
        entries = entries_of_tables(self._tables.sum(axis=2))
        parts = [entries]
        for number, counter in enumerate(self.counters):
            sparse_ids, sparse_counts = counter.sparse()
            if len(sparse_ids):
                parts.append((np.full(len(sparse_ids), number), sparse_ids, sparse_counts))
        if len(parts) == 1:
            return entries
        tile, ids, pixels = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
        distinct = np.unique(ids)
        if len(distinct) > MAX_IDS:
            raise too_many_ids(distinct)
        return merged_entries(tile, ids, pixels)


def entries_of_tables(counts: Int64) -> Entries:
    """Return the entries of dense tables, int64 [tiles, ids], with one column for each id from 0 on."""
    ids = np.flatnonzero(counts.any(axis=0))
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


def _overlapping(borders: Int64, start: int, stop: int) -> range:
    """Return the numbers of the parts of an axis that contain one of the pixels start … stop−1."""
    first = int(np.searchsorted(borders, start, side="right")) - 1
    return range(first, int(np.searchsorted(borders, stop, side="left")))
