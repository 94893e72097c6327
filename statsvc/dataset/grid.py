"""A grid of tiles over each label map, and the histograms of the tiles.

Tile row r of R covers the pixel rows ⌊r·H/R⌋ to ⌊(r+1)·H/R⌋−1 of a label map with H rows, columns and the
slices of a volume likewise, so a grid does not depend on the size of the images. Tiles are numbered row by
row, those of a volume layer by layer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct

from statsvc.errors import Inapplicable, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

MAX_SIDE, MAX_TILES = 128, 1 << 14
"""Most parts of an axis, and most tiles of a label map."""

NONE = "none"
"""The text form of no grid."""


class Grid(NamedTuple):
    """Rows and columns of tiles, and layers of tiles of a volume; 0 where volumes are not counted on it."""

    rows: int
    columns: int
    depth: int = 0

    def __str__(self) -> str:
        return f"{self.depth}x{self.rows}x{self.columns}" if self.depth else f"{self.rows}x{self.columns}"

    @property
    def tiles(self) -> int:
        """Number of tiles of an image, and of each layer of a volume."""
        return self.rows * self.columns


def parse(text: str) -> Grid | None:
    """Return the grid of its text form, such as `8x8` or `4x8x8`; None for `none`.

    Raises `InvalidParameter`.
    """
    value = text.strip().lower()
    if value == NONE:
        return None
    match = re.fullmatch(r"(?:([0-9]{1,4})x)?([0-9]{1,4})x([0-9]{1,4})", value)
    if match is None or not all(1 <= int(side) <= MAX_SIDE for side in match.groups(default=1)):
        raise InvalidParameter(("grid", _not_a_grid(text)))
    grid = Grid(int(match[2]), int(match[3]), int(match[1] or 0))
    if grid.tiles * max(1, grid.depth) > MAX_TILES:
        raise Inapplicable(("grid", _not_a_grid(text)))
    return grid


def _not_a_grid(text: str) -> str:
    return (
        f"{text!r} is not a grid; use rows and columns such as 8x8, with a depth such as 8x8x8 for volumes, "
        f"or none; at most {MAX_SIDE} per axis and {MAX_TILES} tiles"
    )


def edges(length: int, parts: int) -> Int64:
    """Return where the parts of an axis begin, and its end: int64 [parts + 1]."""
    return np.arange(parts + 1, dtype=np.int64) * length // parts


class Place(NamedTuple):
    """Where a sample is in its array: depth, rows and columns of each; an image has a depth of 1.

    start  the sample's first pixel
    shape  the sample's shape
    whole  shape of the array, which equals `shape` unless the sample is a part of an array
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    whole: tuple[int, int, int]

    def __setstate__(self, state: object) -> None:
        """Refuse: a pickle of another process must not set attributes of this class."""
        raise TypeError("a place has no state")


NO_PLACE = Place((0, 0, 0), (0, 0, 0), (0, 0, 0))
"""The place of a sample that is unreadable, or has more than three axes."""


class Cells(Struct, frozen=True):
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


def no_cells(samples: int) -> Cells:
    """Return the cells of samples without a grid."""
    empty = np.zeros(0, np.int64)
    return Cells(np.zeros(samples, np.int64), empty, empty, empty)


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
