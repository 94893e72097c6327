"""What one random crop of an image contains on average, from the histograms of the image's tiles.

On an axis of n pixels with crops of c ≤ n pixels, pixel x lies in (min(n−c, x) − max(0, x−c+1) + 1)/(n−c+1)
of all crops. A class has in a crop the expected pixels Σ pixels · (factor of the tile's rows) · (factor of
its columns), summed over the tiles. The factor is the mean over the pixels of the tile, corrected for a class
that becomes denser from tile to tile. What depends on the whole content of a crop, whether a class occurs in
it and whether it is drawn again, follows from a lattice of crop positions. docs/explanation/crops.md derives
the formulas.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.dataset.grid import edges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid

    Float64 = NDArray[np.float64]

SCALES = 32
"""Scales, evenly spaced in their range, over which expected pixels are averaged."""

LATTICE_SCALES, LATTICE = 8, 16
"""Scales, and positions on each axis, of the crops whose whole content is computed."""

TRIES = 10
"""Crops that MMSegmentation rejects, at most, for `cat_max_ratio` before it takes the next one as it is."""

LINEAR_PARTS = 8
"""Fewest parts of an axis for which the density within a part follows from the parts next to it."""

_CROP_VALUES = 1 << 20
"""Numbers that the lattice of one group of images holds at a time."""


class Crop(Struct, frozen=True):
    """How a trainer crops.

    height, width  pixels of a crop; an image that is smaller is used whole along that axis
    scale          range of the factor, uniformly drawn, by which an image is resized before
    cat_max_ratio  a crop is drawn again while one class has at least this share of its counted pixels; None
                   accepts every crop
    """

    height: int
    width: int
    scale: tuple[float, float] = (1.0, 1.0)
    cat_max_ratio: float | None = None


class Contents(Struct, frozen=True):
    """What one crop of each of n images contains on average, over K ids.

    pixels   float64 [n, K]
    present  float64 [n, K], probability that the id occurs in the crop
    counted  float64 [n, K], counted pixels of the crop where the id occurs in it, else 0
    all      float64 [n, K], the same with pixels of all ids
    redrawn  float64 [n], crops that are rejected
    """

    pixels: Float64
    present: Float64
    counted: Float64
    all: Float64
    redrawn: Float64


def contents(
    tiles: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    grid: Grid,
    counted: NDArray[np.bool_],
    crop: Crop,
) -> Contents:
    """Return what crops of images contain.

    tiles            int64 [n, tiles, K], pixels of each id in each tile
    heights, widths  int64 [n], sizes of the images
    counted          bool [K], True for the ids that are not ignored
    """
    n, _, ids = tiles.shape
    pixels, present, of_counted, of_all = np.zeros((4, n, ids))
    result = Contents(pixels, present, of_counted, of_all, np.zeros(n))
    sizes, group_of = np.unique(np.stack([heights, widths]), axis=1, return_inverse=True)
    group_of = group_of.reshape(-1)
    for group, (height, width) in enumerate(sizes.T.tolist()):
        rows = np.flatnonzero(group_of == group)
        expected = expected_factors(height, width, grid, crop)
        step = max(1, _CROP_VALUES // (LATTICE * LATTICE * ids))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            result.pixels[part] = np.tensordot(tiles[part].astype(np.float64), expected, axes=(1, 0))
            _add_contents(result, part, tiles[part], (height, width), grid, counted, crop)
    return result


def _add_contents(
    result: Contents,
    rows: NDArray[np.int64],
    tiles: NDArray[np.int64],
    size: tuple[int, int],
    grid: Grid,
    counted: NDArray[np.bool_],
    crop: Crop,
) -> None:
    """Add what follows from the lattice to the rows of images of one size; tiles is int64 [n, tiles, K]."""
    by_row = tiles.astype(np.float64).reshape(len(rows), grid.rows, grid.columns, -1)
    scales = _scales(crop.scale, LATTICE_SCALES)
    for scale in scales:
        in_rows, in_columns = lattice(*size, grid, crop, scale)
        # [n, vertical positions, horizontal positions, K]
        inside = np.einsum("pr,nrck,qc->npqk", in_rows, by_row, in_columns, optimize=True) * scale**2
        inside = inside.reshape(len(rows), -1, inside.shape[-1])
        of_counted = inside[:, :, counted]
        total = of_counted.sum(axis=2)
        drawn = np.full(total.shape, 1 / total.shape[1])
        if crop.cat_max_ratio is not None:
            accepted = of_counted.max(axis=2, initial=0) < crop.cat_max_ratio * total
            share = accepted.mean(axis=1, keepdims=True)
            exhausted = (1 - share) ** TRIES
            rejected = np.sum([(1 - share[:, 0]) ** k for k in range(1, TRIES + 1)], axis=0)
            result.redrawn[rows] += rejected / len(scales)
            uniform = drawn
            drawn = exhausted * drawn + (1 - exhausted) * accepted / np.maximum(
                accepted.sum(axis=1, keepdims=True), 1
            )
            # The lattice gives only the change that rejection makes.
            result.pixels[rows] += np.einsum("np,npk->nk", drawn - uniform, inside) / len(scales)
        drawn = drawn / len(scales)
        overlap = np.einsum("pr,nrck,qc->npqk", in_rows, by_row > 0, in_columns, optimize=True)
        # Where a class lies within a tile is unknown: it occurs in a part of the tile with the part's share.
        present = np.minimum(overlap, 1.0).reshape(inside.shape)
        result.present[rows] += np.einsum("np,npk->nk", drawn, present)
        result.counted[rows] += np.einsum("np,npk->nk", drawn * total, present)
        result.all[rows] += np.einsum("np,npk->nk", drawn * inside.sum(axis=2), present)
    np.maximum(result.pixels, 0, out=result.pixels)


def expected_factors(height: int, width: int, grid: Grid, crop: Crop) -> Float64:
    """Return the pixels of a crop that one pixel of each tile contributes on average, float64 [tiles]."""
    total = np.zeros((grid.rows, grid.columns))
    scales = _scales(crop.scale, SCALES)
    for scale in scales:
        rows = axis_factors(_scaled(height, scale), grid.rows, crop.height)
        columns = axis_factors(_scaled(width, scale), grid.columns, crop.width)
        total += scale**2 * np.outer(rows, columns)
    return (total / len(scales)).reshape(-1)


@lru_cache(maxsize=4096)
def axis_factors(length: int, parts: int, crop: int) -> Float64:
    """Return the share of crops that contain a pixel of a class in each part of an axis, float64 [parts].

    It is the mean over the pixels of the part and, from `LINEAR_PARTS` parts on, corrected for a density of
    the class that changes linearly within a part, at the rate between the parts next to it.
    """
    if crop >= length:
        return np.ones(parts)
    x = np.arange(length)
    share = (np.minimum(length - crop, x) - np.maximum(0, x - crop + 1) + 1) / (length - crop + 1)
    borders = edges(length, parts)
    lengths = np.diff(borders)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(share)])[borders])
    if parts >= LINEAR_PARTS and lengths.all():
        center = (borders[:-1] + borders[1:] - 1) / 2
        # A density of 1 per pixel from the center on adds this much.
        moments = np.diff(np.concatenate([[0.0], np.cumsum(share * x)])[borders]) - center * sums
        before, after = np.arange(parts) - 1, np.arange(parts) + 1
        before[0], after[-1] = 0, parts - 1
        slopes = moments / (center[after] - center[before])
        np.add.at(sums, after, slopes)
        np.add.at(sums, before, -slopes)
    factors: Float64 = np.maximum(sums, 0.0) / np.maximum(lengths, 1)
    return factors


def lattice(height: int, width: int, grid: Grid, crop: Crop, scale: float) -> Iterator[Float64]:
    """Yield the shares of tile rows, then of columns, in evenly spaced crops: float64 [positions, parts]."""
    for length, parts, size in ((height, grid.rows, crop.height), (width, grid.columns, crop.width)):
        yield _axis_lattice(_scaled(length, scale), parts, size)


@lru_cache(maxsize=4096)
def _axis_lattice(length: int, parts: int, crop: int) -> Float64:
    if crop >= length:
        return np.ones((1, parts))
    starts = (np.arange(LATTICE) * 2 + 1) * (length - crop + 1) // (2 * LATTICE)
    borders = edges(length, parts)
    inside = np.clip(borders[None, :], starts[:, None], starts[:, None] + crop)
    shares: Float64 = np.diff(inside, axis=1) / np.maximum(np.diff(borders), 1)
    return shares


def _scales(bounds: tuple[float, float], count: int) -> list[float]:
    """Return the midpoints of `count` equal parts of a range; its only value if both ends are equal."""
    low, high = bounds
    if low == high:
        return [low]
    return [low + (k + 0.5) * (high - low) / count for k in range(count)]


def _scaled(length: int, scale: float) -> int:
    """Return the pixels of a resized axis, rounded as MMSegmentation does."""
    return max(1, int(length * scale + 0.5))
