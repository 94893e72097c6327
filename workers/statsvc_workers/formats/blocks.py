"""Blocks of chunked arrays: groups of whole chunks, of bounded size."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import CHUNK_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.kernels.tiles import Corner

Region = tuple[slice, ...]
"""A region of an array: one slice for each axis."""


def is_color(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array's shape and dtype are those of a color image."""
    return bool(dtype == np.uint8 and len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 1)


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the shape of a region."""
    return tuple(axis.stop - axis.start for axis in region)


def check_chunk_size(chunk: Sequence[int] | None, max_pixels: int) -> None:
    """Raise `UnreadableSample` for chunks of more than `max_pixels` pixels: a chunk is decoded as a whole."""
    limit = max(max_pixels, CHUNK_PIXELS)
    if chunk is not None and math.prod(chunk) > limit:
        raise UnreadableSample(
            f"has chunks of {' x '.join(map(str, chunk))} pixels, over the limit of {limit} (max_pixels); "
            "store it with smaller chunks"
        )


def blocks(shape: Sequence[int], chunk: Sequence[int] | None) -> Iterator[Region]:
    """Yield regions that together cover an array once: whole chunks, about `CHUNK_PIXELS` pixels each.

    Without chunks, the regions are slabs along the first axes.
    """
    if not shape:
        yield ()
        return
    sides = (
        [1] * len(shape) if chunk is None else [min(a, max(1, b)) for a, b in zip(chunk, shape, strict=True)]
    )
    # Growing the last axis first makes a block one contiguous range of an array in C order.
    for axis in reversed(range(len(shape))):
        factor = max(1, CHUNK_PIXELS // math.prod(sides))
        sides[axis] = min(sides[axis] * factor, max(1, shape[axis]))
    ranges = (range(0, length, side) for length, side in zip(shape, sides, strict=True))
    for corner in itertools.product(*ranges):
        yield tuple(
            slice(start, min(start + side, length))
            for start, side, length in zip(corner, sides, shape, strict=True)
        )


def blocks_of(region: Region, chunk: Sequence[int] | None) -> Iterator[Region]:
    """Yield regions of an array that together cover `region` once, as `blocks` does from its first corner."""
    for block in blocks(region_shape(region), chunk):
        yield tuple(
            slice(axis.start + part.start, axis.stop + part.start)
            for axis, part in zip(block, region, strict=True)
        )


def move_corner(corner: Corner, block: Region, region: Region, axes: Sequence[int]) -> None:
    """Move a corner to a block of a region, counted from the region's first pixel.

    axes  up to three axes of the array, those of depth, rows and columns; the others have length 1
    """
    starts = [block[axis].start - region[axis].start for axis in axes]
    corner.front, corner.top, corner.left = [0, 0, 0, *starts][-3:]


def as_volume(values: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    """Return a block with the axes depth, rows and columns; `axes` as in `move_corner`."""
    shape = [values.shape[axis] for axis in axes]
    return values.reshape([1, 1, 1, *shape][-3:])
