"""Arrays of which one row of a version is a part: an index along the first axis, or a chunk.

A chunk of a Zarr array is a file, so a row's fingerprint is that of its own chunks: a chunk that changes
costs one chunk. A row of NPY or HDF5 has the fingerprint of its file.
"""

from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import extension, hdf5, npy, zarr_arrays
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import exists, located, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from statsvc.dataset.counting_rule import Counting

MOST_ROWS = 1 << 22
"""Most rows of one array."""

Region = tuple[slice, ...]


def listed(root: str, path: str, counting: Counting) -> list[Member]:
    """Return the rows of the array at `path`, named by index or by place in the grid of chunks.

    Raises `UnreadableSample` for other formats and for too many rows.
    """
    if extension(path) in (".h5", ".hdf5"):
        with reading(root, path) as file:
            shape, chunks, itemsize = hdf5.layout(file, counting.key)
        grid = shape if chunks is None else chunks
        return [
            Member(f"{path}/{name}", path, "hdf5 part", region, _size(region) * itemsize)
            for name, region in _regions(shape, grid, counting.rows)
        ]
    if extension(path) == ".npy":
        with reading(root, path) as file:
            return _npy(file, path, counting)
    if any(exists(root, f"{path}/{mark}") for mark in zarr_arrays.MARKS):
        return _zarr(root, path, counting)
    raise UnreadableSample(
        f"is no NPY, HDF5 or Zarr array, so it has no rows of its own by {counting.rows}; leave --rows out"
    )


def _zarr(root: str, path: str, counting: Counting) -> list[Member]:
    shape, grid, itemsize, inner, key_of = zarr_arrays.layout(located(root, path), counting.key)
    base = f"{path}/{inner}" if inner else path
    described = next(mark for mark in ("zarr.json", ".zarray") if exists(root, f"{base}/{mark}"))
    members = []
    for name, region in _regions(shape, grid, counting.rows):
        spans = (range(p.start // g, -(-p.stop // g)) for p, g in zip(region, grid, strict=True))
        chunks = tuple(f"{base}/{key_of(place)}" for place in itertools.product(*spans))
        files = (f"{base}/{described}", *chunks)
        members.append(Member(f"{path}/{name}", path, "zarr part", region, _size(region) * itemsize, files))
    return members


def _npy(file: BinaryIO, path: str, counting: Counting) -> list[Member]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(npy.MAGIC)) != npy.MAGIC:
        raise UnreadableSample(f"is no {npy.NAME}")
    file.seek(0)
    shape, dtype, start = npy.layout(file)
    needed = start + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise UnreadableSample(f"is truncated: {size} of {needed} bytes")
    members = []
    for number, (name, region) in enumerate(_regions(shape, shape, counting.rows)):
        part = tuple(place.stop - place.start for place in region)
        length = math.prod(part) * dtype.itemsize
        where = (start + number * length, length, dtype.str, part)
        members.append(Member(f"{path}/{name}", path, "npy part", where, length))
    return members


def _regions(shape: Sequence[int], grid: Sequence[int], rows: str) -> Iterator[tuple[str, Region]]:
    """Yield name and place of each row: `0012` of an index, `0.3.1` of a chunk."""
    if not shape or 0 in shape:
        raise UnreadableSample(f"holds no pixels (shape {tuple(shape)})")
    sides = [1, *shape[1:]] if rows == "index" else [max(1, side) for side in grid]
    counts = [-(-length // side) for length, side in zip(shape, sides, strict=True)]
    if math.prod(counts) > MOST_ROWS:
        raise UnreadableSample(
            f"has {math.prod(counts)} rows by {rows}, more than {MOST_ROWS}; take larger rows"
        )
    digits = len(str(counts[0] - 1))
    for place in itertools.product(*(range(count) for count in counts)):
        region = tuple(
            slice(at * side, min((at + 1) * side, length))
            for at, side, length in zip(place, sides, shape, strict=True)
        )
        name = f"{place[0]:0{digits}d}" if rows == "index" else ".".join(map(str, place))
        yield name, region


def _size(region: Region) -> int:
    return math.prod(place.stop - place.start for place in region)
