"""Arrays whose rows are samples: a row is an index along the first axis, or a chunk.

A chunk of a Zarr array is a file, and the fingerprint of a row is that of its own chunks: only rows whose
chunks changed are counted again. A row of an NPY or HDF5 array has the fingerprint of the whole file.
"""

from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING, BinaryIO

from statsvc.dataset.grid import Place
from statsvc.errors import UnreadableSample
from statsvc_workers.formats import extension, hdf5, npy, zarr_arrays
from statsvc_workers.formats.base import long_axes
from statsvc_workers.formats.blocks import region_shape
from statsvc_workers.samples.kinds import MARKS
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import exists, located, open_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.formats.blocks import Region

MAX_ROWS = 1 << 22
"""Most rows, and most chunk files, of one array."""


def list_rows(root: str, path: str, counting: Counting) -> list[Member]:
    """Return the rows of the array at `path`, named by index or by position in the grid of chunks.

    Raises `UnreadableSample` for other formats and for too many rows.
    """
    if extension(path) in (".h5", ".hdf5"):
        with open_bytes(root, path) as file:
            return _list_hdf5(file, path, counting)
    if extension(path) == ".npy":
        with open_bytes(root, path) as file:
            return _list_npy(file, path, counting)
    if any(exists(root, f"{path}/{mark}") for mark in MARKS):
        return _list_zarr(root, path, counting)
    raise UnreadableSample(
        f"is not an NPY, HDF5 or Zarr array, so it cannot be counted by {counting.rows}; omit --rows"
    )


def _list_hdf5(file: BinaryIO, path: str, counting: Counting) -> list[Member]:
    shape, chunk, itemsize = hdf5.layout(file, counting.key)
    grid = shape if chunk is None else chunk
    return [
        Member(
            f"{path}/{name}",
            path,
            "hdf5 part",
            region,
            _pixels(region) * itemsize,
            place=_place(region, shape),
        )
        for name, region in _regions(shape, grid, counting.rows)
    ]


def _list_zarr(root: str, path: str, counting: Counting) -> list[Member]:
    shape, grid, itemsize, array_path, chunk_file = zarr_arrays.layout(located(root, path), counting.key)
    base = f"{path}/{array_path}" if array_path else path
    metadata = next(mark for mark in ("zarr.json", ".zarray") if exists(root, f"{base}/{mark}"))
    members: list[Member] = []
    for name, region in _regions(shape, grid, counting.rows):
        if not members:  # `_regions` has checked the number of rows
            _check_chunk_files(shape, grid)
        spans = (
            range(axis.start // side, -(-axis.stop // side)) for axis, side in zip(region, grid, strict=True)
        )
        chunks = tuple(f"{base}/{chunk_file(position)}" for position in itertools.product(*spans))
        files = (f"{base}/{metadata}", *chunks)
        length = _pixels(region) * itemsize
        members.append(
            Member(f"{path}/{name}", path, "zarr part", region, length, files, place=_place(region, shape))
        )
    return members


def _check_chunk_files(shape: Sequence[int], grid: Sequence[int]) -> None:
    """Raise `UnreadableSample` for an array of too many chunk files, which are all listed."""
    files = math.prod(-(-length // max(1, side)) for length, side in zip(shape, grid, strict=True))
    if files > MAX_ROWS:
        raise UnreadableSample(f"has {files} chunks, more than the limit of {MAX_ROWS}; use larger chunks")


def _list_npy(file: BinaryIO, path: str, counting: Counting) -> list[Member]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(npy.MAGIC)) != npy.MAGIC:
        raise UnreadableSample(f"is not a valid {npy.NAME}")
    file.seek(0)
    shape, dtype, start = npy.layout(file)
    needed = start + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise UnreadableSample(f"is truncated: {size} of {needed} bytes")
    members = []
    for number, (name, region) in enumerate(_regions(shape, shape, counting.rows)):
        row_shape = region_shape(region)
        length = math.prod(row_shape) * dtype.itemsize
        where = (start + number * length, length, dtype.str, row_shape)
        members.append(Member(f"{path}/{name}", path, "npy part", where, length, place=_place(region, shape)))
    return members


def _regions(shape: Sequence[int], grid: Sequence[int], rows: str) -> Iterator[tuple[str, Region]]:
    """Yield the name and region of each row.

    A name is the index, such as `0012`, or the position in the grid of chunks, such as `0.3.1`.
    """
    if not shape or 0 in shape:
        raise UnreadableSample(f"contains no pixels (shape {tuple(shape)})")
    sides = [1, *shape[1:]] if rows == "index" else [max(1, side) for side in grid]
    counts = [-(-length // side) for length, side in zip(shape, sides, strict=True)]
    if math.prod(counts) > MAX_ROWS:
        raise UnreadableSample(
            f"has {math.prod(counts)} rows by {rows}, more than the limit of {MAX_ROWS}; use larger rows"
        )
    digits = len(str(counts[0] - 1))
    for position in itertools.product(*(range(count) for count in counts)):
        region = tuple(
            slice(k * side, min((k + 1) * side, length))
            for k, side, length in zip(position, sides, shape, strict=True)
        )
        name = f"{position[0]:0{digits}d}" if rows == "index" else ".".join(map(str, position))
        yield name, region


def _place(region: Region, shape: Sequence[int]) -> Place | None:
    """Return where a region is in an array; None for an array of more than three axes longer than 1."""
    axes = long_axes(shape)
    if axes is None:
        return None
    start, lengths, whole = (
        tuple([first, first, first, *values][-3:])
        for first, values in (
            (0, [region[axis].start for axis in axes]),
            (1, [region[axis].stop - region[axis].start for axis in axes]),
            (1, [shape[axis] for axis in axes]),
        )
    )
    return Place(start, lengths, whole)


def _pixels(region: Region) -> int:
    return math.prod(region_shape(region))
