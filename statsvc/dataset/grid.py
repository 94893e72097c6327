"""A grid of tiles over each label map, and the histograms of the tiles.

Tile row r of R covers the pixel rows ⌊r·H/R⌋ to ⌊(r+1)·H/R⌋−1 of a label map with H rows, columns likewise,
so a grid does not depend on the size of the images. Tiles are numbered row by row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

MAX_SIDE = 16
"""Most rows and most columns of a grid."""

NONE = "none"
"""The text form of no grid."""


class Grid(NamedTuple):
    """Rows and columns of tiles."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns


def parse(text: str) -> Grid | None:
    """Return the grid of its text form, such as `8x8`; None for `none`. Raises `InvalidParameter`."""
    value = text.strip().lower()
    if value == NONE:
        return None
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value)
    grid = Grid(int(match[1]), int(match[2])) if match else None
    if grid is None or not all(1 <= side <= MAX_SIDE for side in grid):
        raise InvalidParameter(
            (
                "grid",
                f"{text!r} is not a grid; use rows and columns from 1x1 to {MAX_SIDE}x{MAX_SIDE}, or none",
            )
        )
    return grid


def edges(length: int, parts: int) -> Int64:
    """Return where the parts of an axis begin, and its end: int64 [parts + 1]."""
    return np.arange(parts + 1, dtype=np.int64) * length // parts


@dataclass(frozen=True, slots=True)
class Cells:
    """The histograms of the tiles of consecutive samples, sparse.

    lengths   int64 [n], number of entries of each sample; 0 for a sample without a grid
    tile      int64 [e], tile of each entry; entries are in the order of samples, ids and tiles
    class_id  int64 [e], raw id
    pixels    int64 [e], pixels of the raw id in the tile, at least 1
    """

    lengths: Int64
    tile: Int64
    class_id: Int64
    pixels: Int64

    @property
    def row(self) -> Int64:
        """The sample of each entry, int64 [e]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def take(self, rows: NDArray[Any]) -> Cells:
        """Return the entries of some samples, in this order."""
        entries = entries_of(self.lengths, rows)
        columns = (values[entries] for values in (self.tile, self.class_id, self.pixels))
        return Cells(self.lengths[rows], *columns)


def entries_of(lengths: Int64, rows: NDArray[Any]) -> Int64:
    """Return the positions of the entries of some samples, given the number of entries of every sample."""
    first, chosen = np.cumsum(lengths) - lengths, lengths[rows]
    before = np.cumsum(chosen) - chosen
    return np.repeat(first[rows] - before, chosen) + np.arange(chosen.sum())


def concatenate(parts: Sequence[Cells]) -> Cells:
    """Return the entries of all parts, in order."""
    empty = np.zeros(0, np.int64)
    return Cells(
        *(
            np.concatenate([empty, *(getattr(part, name) for part in parts)])
            for name in ("lengths", "tile", "class_id", "pixels")
        )
    )
