"""A table in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.dataset.mapped_columns import MappedColumns
from statsvc.dataset.table import Table, aggregate
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.grid import Cells, Grid
    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.objects import Objects
    from statsvc.dataset.table import Block

    Int64 = NDArray[np.int64]


class Tiles(Struct, frozen=True):
    """The histograms on a grid of all samples of a table, and their places, int64 [n, 9].

    grid  None where rows are parts of arrays that were not counted on a grid
    """

    grid: Grid | None
    places: Int64
    cells: Cells


class MemoryTable(Table):
    """A table in memory, for counts that are not stored.

    raw_id        int64 [K], raw ids, ascending
    rows          all samples, with `counts` int64 [n, K]
    sampled_from  see `Table`
    tiles         places of these samples and their histograms on a grid; None for whole images alone
    objects       objects of these samples; None where the source does not number them
    """

    def __init__(
        self,
        dataset: str,
        configuration: Configuration,
        raw_id: Int64,
        rows: Block,
        sampled_from: int | None = None,
        tiles: Tiles | None = None,
        objects: Objects | None = None,
    ) -> None:
        self._tiles, self._objects = tiles, objects
        self.dataset, self.version = dataset, None
        self.configuration, self.sampled_from = configuration, sampled_from
        self.rows = rows
        self._totals = aggregate([(rows, objects)], MappedColumns.unchanged(raw_id), None, raw_id)

    def totals(self) -> Histogram:
        """Return the histogram of all counted samples over raw ids."""
        return self._totals

    def blocks(self) -> Iterator[Block]:
        """Yield all rows as one block."""
        yield self.rows

    @property
    def grid(self) -> Grid | None:
        """The grid on which the samples were counted; None where only whole images were counted."""
        return None if self._tiles is None else self._tiles.grid

    @property
    def has_places(self) -> bool:
        """Whether it is known where classes are, as `Table.has_places`."""
        return self._tiles is not None

    def placed_blocks(self) -> Iterator[tuple[Block, Int64, Cells]]:
        """Yield all rows as one block, with their places and their histograms on the grid."""
        if self._tiles is None:
            raise Unanswerable(self.why_no_grid())
        yield self.rows, self._tiles.places, self._tiles.cells

    @property
    def has_objects(self) -> bool:
        """Whether the objects of the samples are known."""
        return self._objects is not None

    def object_blocks(self) -> Iterator[tuple[Block, Objects | None]]:
        """Yield all rows as one block, with their objects."""
        yield self.rows, self._objects

    def why_no_grid(self) -> str:
        """Return an error message for a request that needs a grid."""
        return f"{self.dataset} was counted without a grid; count it with statsvc.scan(…, grid='8x8')"

    def failed(self) -> int:
        """Return the number of unreadable samples."""
        return int(np.count_nonzero(self.rows.status))
