"""Checkpoints: files with the rows counted so far, so that a job that dies loses only seconds of work.

A checkpoint is a `checked_npz` file of columns and a CSR histogram, with the suffix `.part`. It is written
atomically. A damaged checkpoint is ignored, and its samples are counted again.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.dataset import objects as object_entries
from statsvc.dataset.grid import Cells
from statsvc.dataset.objects import Objects
from statsvc.store.versions import checked_npz
from statsvc.store.versions.arrays import PLACE, SAMPLE_ARRAYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from statsvc.store.versions.location import Location

log = logging.getLogger(__name__)

SUFFIX = ".part"
"""Suffix of the files of checkpoints, part of the on-disk format."""

READ_THREADS = 8
"""Checkpoints read in parallel."""

COLUMNS = ("size", "mtime_ns", "ctime_ns", "content", "height", "width", "pixels", "mode", "status", "place")
TEXTS = ("path", "etag", "error")


class CountedRows(Struct):
    """Counted samples with their histograms over raw ids as CSR.

    columns  the arrays of `COLUMNS` and `TEXTS`, each [n]; `place` is [n, 9]
    offsets  int64 [n + 1]; the entries of row i are offsets[i] to offsets[i + 1] of the arrays below
    ids      integers [nnz], raw id of each entry; an id has one entry, or one for each of its tiles
    counts   integers [nnz], pixels of the id, in the tile
    tile     integers [nnz], tile of a grid; −1 in a row without a grid
    objects  objects of the samples
    """

    columns: dict[str, np.ndarray[Any, Any]]
    offsets: NDArray[np.int64]
    ids: NDArray[Any]
    counts: NDArray[Any]
    tile: NDArray[Any]
    objects: Objects

    @classmethod
    def without_grid(
        cls,
        columns: dict[str, np.ndarray[Any, Any]],
        offsets: NDArray[np.int64],
        ids: NDArray[Any],
        counts: NDArray[Any],
    ) -> CountedRows:
        """Return rows that have no grid, and whose objects are unknown."""
        no_tile = np.full(len(ids), -1, np.int16)
        return cls(columns, offsets, ids, counts, no_tile, object_entries.unknown(len(offsets) - 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> CountedRows:
        """Return the rows with these numbers, in this order."""
        lengths = np.diff(self.offsets)[rows]
        entries = self._entries(rows, lengths)
        return CountedRows(
            {name: values[rows] for name, values in self.columns.items()},
            np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            self.ids[entries],
            self.counts[entries],
            self.tile[entries],
            self.objects.take(rows),
        )

    def _entries(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices into `ids` and `counts` of the rows' histograms, which are `lengths` long."""
        before = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(rows) else lengths
        return np.repeat(self.offsets[rows] - before, lengths) + np.arange(lengths.sum())

    def dense(self, rows: NDArray[np.int64], class_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of some rows over ascending `class_id`, int64 [len(rows), C]."""
        dense = np.zeros((len(rows), len(class_id)), np.int64)
        lengths = np.diff(self.offsets)[rows]
        entries = self._entries(rows, lengths)
        row_of_entry = np.repeat(np.arange(len(rows)), lengths)
        column = np.searchsorted(class_id, self.ids[entries])
        np.add.at(dense.reshape(-1), row_of_entry * len(class_id) + column, self.counts[entries])
        return dense

    def summed(self) -> CountedRows:
        """Return the rows without a grid: with one entry for each id."""
        if not (self.tile >= 0).any():
            return self
        lengths = np.diff(self.offsets)
        row = np.repeat(np.arange(len(lengths)), lengths)
        first = np.ones(len(row), bool)
        first[1:] = (row[1:] != row[:-1]) | (self.ids[1:] != self.ids[:-1])
        starts = np.flatnonzero(first)
        return CountedRows(
            self.columns,
            np.concatenate([[0], np.cumsum(np.bincount(row[starts], minlength=len(lengths)))]),
            self.ids[starts],
            narrowed(np.add.reduceat(self.counts, starts, dtype=np.int64)),
            np.full(len(starts), -1, np.int16),
            self.objects,
        )

    def cell_lengths(self) -> NDArray[np.int64]:
        """Return the number of entries on a grid of every row, int64 [n]."""
        before = np.concatenate(([0], np.cumsum(self.tile >= 0)))
        return np.diff(before[self.offsets])

    def cells(self, rows: NDArray[np.int64]) -> Cells:
        """Return the histograms on the grid of some rows; a row without a grid has no entry."""
        lengths = np.diff(self.offsets)[rows]
        entries = self._entries(rows, lengths)
        in_grid = self.tile[entries] >= 0
        row = np.repeat(np.arange(len(rows)), lengths)[in_grid]
        entries = entries[in_grid]
        columns = (values[entries].astype(np.int64) for values in (self.tile, self.ids, self.counts))
        return Cells(np.bincount(row, minlength=len(rows)), *columns)


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers as int16 or int32 if they fit."""
    for dtype in (np.int16, np.int32):
        limits = np.iinfo(dtype)
        if not len(values) or (values.min() >= limits.min and values.max() <= limits.max):
            return values.astype(dtype)
    return values


def blank(n: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of n rows: zeros and empty strings, in the dtypes in which they are stored.

    The dtypes matter: NumPy promotes int64 with uint64 to float64.
    """
    columns: dict[str, np.ndarray[Any, Any]] = {
        name: np.zeros(n, SAMPLE_ARRAYS[name][0]) for name in COLUMNS if name != PLACE
    }
    columns[PLACE] = np.zeros((n, 9), np.int32)
    return columns | {name: np.full(n, "", object) for name in TEXTS}


def concatenate(blocks: list[CountedRows]) -> CountedRows:
    """Return the rows of all blocks, in order."""
    if not blocks:
        empty = np.zeros(0, np.int64)
        return CountedRows.without_grid(blank(0), np.zeros(1, np.int64), empty, empty)
    lengths = [np.diff(block.offsets) for block in blocks]
    return CountedRows(
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns},
        np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64),
        np.concatenate([block.ids for block in blocks]),
        np.concatenate([block.counts for block in blocks]),
        np.concatenate([block.tile for block in blocks]),
        object_entries.concatenate([block.objects for block in blocks]),
    )


def write_checkpoint(folder: Location, name: str, reader: str, rows: CountedRows) -> None:
    """Write one checkpoint; `reader` is the reader digest under which the rows were counted."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "reader": np.frombuffer(reader.encode(), np.uint8),
        "offsets": rows.offsets,
        "ids": rows.ids,
        "counts": rows.counts,
        "tile": rows.tile,
        "object_entries": rows.objects.lengths,
        "object_class_id": rows.objects.class_id,
        "object_pixels": rows.objects.pixels,
    }
    arrays |= {column: rows.columns[column] for column in COLUMNS}
    for column in TEXTS:
        arrays[column] = np.frombuffer("\0".join(rows.columns[column].tolist()).encode(), np.uint8)
    # Not flushed to disk: losing a checkpoint in a power failure only costs a recount, and the checksum
    # detects an incomplete one.
    (folder / f"{name}{SUFFIX}").write(checked_npz.encode(arrays), lasting=False)


def read_checkpoints(folder: Location, reader: str) -> Iterator[CountedRows]:
    """Yield the rows of each valid checkpoint below a folder that was written with this reader digest."""
    files = folder.files(SUFFIX)
    with ThreadPoolExecutor(READ_THREADS) as threads:
        for start in range(0, len(files), READ_THREADS):
            some = files[start : start + READ_THREADS]
            for file, data in zip(some, threads.map(lambda file: file.read(), some), strict=True):
                try:
                    arrays = checked_npz.decode(data)
                    if arrays["reader"].tobytes().decode() == reader:
                        yield _rows(arrays)
                except (ValueError, KeyError) as error:
                    log.warning(
                        "ignoring the damaged checkpoint %s (%s); its samples are counted again",
                        file.name,
                        error,
                    )


def _rows(arrays: Mapping[str, np.ndarray[Any, Any]]) -> CountedRows:
    n = len(arrays["offsets"]) - 1
    columns = {name: arrays[name] for name in COLUMNS if name != PLACE}
    # A release without places wrote the other arrays.
    columns[PLACE] = arrays[PLACE] if PLACE in arrays else np.zeros((n, 9), np.int32)
    for name in TEXTS:
        if name == "etag" and name not in arrays:  # written by a release that did not store ETags
            columns[name] = np.full(n, "", object)
            continue
        values = arrays[name].tobytes().decode().split("\0")
        columns[name] = np.array(values if n else [], object)
        if len(columns[name]) != n:
            raise ValueError(f"{len(columns[name])} values of {name!r} for {n} rows")
    histograms = arrays["offsets"], arrays["ids"], arrays["counts"]
    if "tile" not in arrays:  # written by a release without grids
        return CountedRows.without_grid(columns, *histograms)
    objects = object_entries.unknown(n)
    if "object_entries" in arrays:  # written by a release that counts objects
        objects = Objects(*(arrays[f"object_{name}"] for name in ("entries", "class_id", "pixels")))
    return CountedRows(columns, *histograms, arrays["tile"], objects)
