"""Blocks of chunked arrays: pieces of whole chunks, of bounded size."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import CHUNK_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Place = tuple[slice, ...]


def is_colour(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array's shape and type are those of a colour image."""
    return bool(dtype == np.uint8 and len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 1)


def check_block(chunk: Sequence[int] | None, max_pixels: int) -> None:
    """Refuse chunks larger than `max_pixels`: each is decoded whole. Raises `UnreadableSample`."""
    limit = max(max_pixels, CHUNK_PIXELS)
    if chunk is not None and math.prod(chunk) > limit:
        raise UnreadableSample(
            f"has chunks of {' x '.join(map(str, chunk))} pixels, over the limit of {limit} (max_pixels); "
            "store it with smaller chunks"
        )


def blocks(shape: Sequence[int], chunk: Sequence[int] | None) -> Iterator[Place]:
    """Yield the places of blocks that hold every element once: whole chunks, about `CHUNK_PIXELS` each.

    Without chunks, blocks are slabs along the first axes.
    """
    if not shape:
        yield ()
        return
    sides = (
        [1] * len(shape) if chunk is None else [min(a, max(1, b)) for a, b in zip(chunk, shape, strict=True)]
    )
    # Growing the last axis first keeps a block one run of bytes, where the array is in C order.
    for axis in reversed(range(len(shape))):
        room = max(1, CHUNK_PIXELS // math.prod(sides))
        sides[axis] = min(sides[axis] * room, max(1, shape[axis]))
    ranges = (range(0, length, side) for length, side in zip(shape, sides, strict=True))
    for corner in itertools.product(*ranges):
        yield tuple(
            slice(at, min(at + side, length)) for at, side, length in zip(corner, sides, shape, strict=True)
        )


def blocks_of(region: Sequence[slice], chunk: Sequence[int] | None) -> Iterator[Place]:
    """Yield the places of blocks that hold every element of a region once, counted from its begin."""
    for place in blocks([part.stop - part.start for part in region], chunk):
        yield tuple(
            slice(own.start + part.start, own.stop + part.start)
            for own, part in zip(place, region, strict=True)
        )
