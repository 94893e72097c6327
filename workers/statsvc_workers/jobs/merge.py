"""Merge reused and fresh rows into the arrays of a new version, chunk by chunk in path order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.distinct import distinct
from statsvc.dataset import objects as object_entries
from statsvc.dataset.grid import concatenate
from statsvc.dataset.histogram import Aggregator
from statsvc.store.versions.arrays import ROWS_PER_CHUNK, SAMPLE_ARRAYS, VALUES_PER_CHUNK
from statsvc.store.versions.writer import VersionWriter, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting
    from statsvc.dataset.grid import Cells
    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.objects import Objects
    from statsvc.store.versions.cell_file import CellFile
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.version import Version
    from statsvc.store.versions.writer import Columns
    from statsvc.store.versions.zarr_files import StoredChunk
    from statsvc_workers.sources.diff import Comparison
    from statsvc_workers.sources.listing import Listing


class WrittenArrays(Struct, frozen=True):
    """The arrays that were written.

    totals   aggregates over all samples
    digests  name of each small array → its digest
    failed   number of unreadable samples
    """

    totals: Histogram
    digests: dict[str, str]
    failed: int


def merge_rows(
    folder: Location,
    listing: Listing,
    comparison: Comparison,
    rows: CountedRows,
    fresh_row: NDArray[np.int64],
    check: Callable[[], None],
    counting: Counting,
    cell_file: CellFile | None = None,
) -> WrittenArrays:
    """Write the arrays of a new version.

    rows       counted rows
    fresh_row  int64 [n], row of each sample in `rows`; −1 where the row of the base is reused
    counting   counting rule of the rows, those of the base included
    cell_file  the tiles of `rows`, if the rule has a grid

    Raises `DamagedVersion` where the base cannot be read.
    """
    objects = _object_entries(comparison, rows, fresh_row)
    class_id = _class_ids(comparison, rows, fresh_row, with_objects=objects is not None)
    on_grid = None
    if counting.grid is not None and cell_file is not None:
        on_grid = counting.grid, _grid_entries(comparison, rows, fresh_row, cell_file)
    places = _places(comparison, rows, fresh_row, counting)
    writer = VersionWriter(folder, class_id, len(listing.path), {}, on_grid, objects, places)
    base_counts = base_columns = None
    if comparison.base is not None and comparison.reused.any():
        base_counts = _BaseCounts(comparison.base, class_id)
        base_columns = _BaseColumns(comparison.base)
    merge = _Merge(listing, comparison, rows, fresh_row, class_id, base_counts, base_columns)
    same = _same_chunks(comparison, fresh_row, class_id)
    if same.any() and comparison.base is not None:
        _add_totals(writer, comparison.base, np.flatnonzero(same))
    for start in range(0, len(listing.path), VALUES_PER_CHUNK):
        stop = min(start + VALUES_PER_CHUNK, len(listing.path))
        writer.append_columns(merge.columns(start, stop), stop - start)
    for start in range(0, len(listing.path), ROWS_PER_CHUNK):
        check()
        stop = min(start + ROWS_PER_CHUNK, len(listing.path))
        if same[start // ROWS_PER_CHUNK] and comparison.base is not None:
            writer.append_chunk(comparison.base.chunk(start // ROWS_PER_CHUNK))
        else:
            merge.write_counts(writer, start, stop)
        if cell_file is not None:
            writer.append_cells(merge.cells(start, stop, cell_file))
        if objects is not None:
            writer.append_objects(merge.objects(start, stop))
    if base_columns is not None:
        base_columns.finish()
    totals, digests = writer.finish()
    return WrittenArrays(totals, digests, writer.failed)


class _Merge(Struct, frozen=True):
    """The inputs of `merge_rows`, and readers of the base's arrays (None where no row is reused)."""

    listing: Listing
    comparison: Comparison
    rows: CountedRows
    fresh_row: NDArray[np.int64]
    class_id: NDArray[np.int64]
    base_counts: _BaseCounts | None
    base_columns: _BaseColumns | None

    def columns(self, start: int, stop: int) -> Columns:
        """Return the columns of a chunk of samples; what does not change stays as the base stores it."""
        fresh_row = self.fresh_row[start:stop]
        fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
        base_row, counted = self.comparison.base_row[start:stop], fresh_row[fresh]
        stored: Mapping[str, StoredChunk] | None = None
        if self.base_columns is not None and np.array_equal(base_row, np.arange(start, stop)):
            stored = self.base_columns.chunk(start, stop)
        base_values: Mapping[str, np.ndarray[Any, Any]] = {}
        if stored is None and self.base_columns is not None and len(reused):
            base_values = self.base_columns.rows(base_row[reused])
        columns: dict[str, np.ndarray[Any, Any] | StoredChunk] = {}
        for name, (dtype, fill) in SAMPLE_ARRAYS.items():
            if name == "path":
                columns[name] = stored[name] if stored else strings(self.listing.path[start:stop])
                continue
            values = self.rows.columns[name][counted].astype(dtype)
            if stored is None:
                column = np.full(stop - start, fill, dtype)
                if base_values:
                    column[reused] = base_values[name]
            else:
                assert self.base_columns is not None
                if not len(fresh) or np.array_equal(self.base_columns.values(name)[fresh], values):
                    columns[name] = stored[name]
                    continue
                column = self.base_columns.values(name).copy()
            column[fresh] = values
            columns[name] = column
        return columns

    def cells(self, start: int, stop: int, cell_file: CellFile) -> Cells:
        """Return the histograms on the grid of a chunk of samples."""
        fresh_row = self.fresh_row[start:stop]
        fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
        columns, counted = self.rows.columns, fresh_row[fresh]
        parts = [cell_file.cells(columns["block"][counted], columns["block_row"][counted])]
        if len(reused):
            parts.append(self._base_cells(self.comparison.base_row[start:stop][reused]))
        return concatenate(parts).take(np.argsort(np.concatenate([fresh, reused])))

    def _base_cells(self, base_rows: NDArray[np.int64]) -> Cells:
        """Return the histograms on the grid of ascending base rows."""
        base = self.comparison.base
        assert base is not None
        return concatenate(
            [base.cells(start, stop).take(rows) for start, stop, rows in self._base_chunks(base_rows)]
        )

    def objects(self, start: int, stop: int) -> Objects:
        """Return the objects of a chunk of samples."""
        fresh_row = self.fresh_row[start:stop]
        fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
        parts = [self.rows.objects.take(fresh_row[fresh])]
        if len(reused):
            base = self.comparison.base
            assert base is not None
            chunks = self._base_chunks(self.comparison.base_row[start:stop][reused])
            parts += [base.objects(first, end).take(rows) for first, end, rows in chunks]
        return object_entries.concatenate(parts).take(np.argsort(np.concatenate([fresh, reused])))

    def _base_chunks(self, base_rows: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """Yield the chunks of ascending base rows: first row, end, and the rows counted from the first."""
        for chunk in distinct(base_rows // ROWS_PER_CHUNK).tolist():
            first = chunk * ROWS_PER_CHUNK
            in_chunk = base_rows[base_rows // ROWS_PER_CHUNK == chunk] - first
            yield first, min(first + ROWS_PER_CHUNK, self.comparison.base_samples), in_chunk

    def write_counts(self, writer: VersionWriter, start: int, stop: int) -> None:
        """Write the counts of samples, of which some rows are fresh and the others come from the base."""
        fresh_row = self.fresh_row[start:stop]
        fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
        counts = np.zeros((stop - start, len(self.class_id)), np.int64)
        counts[fresh] = self.rows.dense(fresh_row[fresh], self.class_id)
        status = np.zeros(stop - start, np.uint8)
        status[fresh] = self.rows.columns["status"][fresh_row[fresh]]
        if self.base_counts is not None:
            base_rows = self.comparison.base_row[start:stop][reused]
            counts[reused] = self.base_counts.rows(base_rows)
            assert self.comparison.base is not None
            status[reused] = self.comparison.base.array("status")[base_rows]
        writer.append_counts(counts, status)


def all_counts(
    comparison: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the raw ids, int64 [K], and the counts of all samples, int64 [n, K], of few samples only."""
    class_id = _class_ids(comparison, rows, fresh_row, with_objects=False)
    counts = np.zeros((len(fresh_row), len(class_id)), np.int64)
    fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
    counts[fresh] = rows.dense(fresh_row[fresh], class_id)
    if comparison.base is not None and len(reused):
        counts[reused] = _BaseCounts(comparison.base, class_id).rows(comparison.base_row[reused])
    return class_id, counts


def _grid_entries(
    comparison: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64], cell_file: CellFile
) -> NDArray[np.int64]:
    """Return the number of entries on the grid of each sample, int64 [n]."""
    lengths = np.zeros(len(fresh_row), np.int64)
    fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
    block, row = (rows.columns[name][fresh_row[fresh]] for name in ("block", "block_row"))
    lengths[fresh] = cell_file.lengths(block, row)
    if comparison.base is not None and len(reused):
        lengths[reused] = comparison.base.array("grid_entries")[comparison.base_row[reused]]
    return lengths


def _object_entries(
    comparison: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return the number of objects of each sample, int64 [n]; None if it is unknown for one of them."""
    lengths = np.full(len(fresh_row), object_entries.UNKNOWN)
    fresh, reused = np.flatnonzero(fresh_row >= 0), np.flatnonzero(fresh_row < 0)
    lengths[fresh] = rows.objects.lengths[fresh_row[fresh]]
    if comparison.base is not None and len(reused) and comparison.base.has_objects:
        lengths[reused] = comparison.base.array("object_entries")[comparison.base_row[reused]]
    return None if (lengths == object_entries.UNKNOWN).any() else lengths


def _places(
    comparison: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64], counting: Counting
) -> NDArray[np.int64] | None:
    """Return the places of all samples, int64 [n, 9]; None if nothing needs them or all are whole images."""
    if counting.grid is None and counting.rows == "array":
        return None
    fresh = rows.columns["place"]
    base = comparison.base if comparison.reused.any() else None
    # An image starts at zero, has a depth of at most 1, and is as large as its array.
    images = not fresh[:, :3].any() and (fresh[:, 3] <= 1).all() and (fresh[:, 3:6] == fresh[:, 6:]).all()
    if images and counting.rows == "array" and (base is None or not base.stores_places):
        return None
    places = np.zeros((len(fresh_row), 9), np.int64)
    places[fresh_row >= 0] = fresh[fresh_row[fresh_row >= 0]]
    if base is not None:
        of_base = base.places(0, comparison.base_samples)
        places[fresh_row < 0] = of_base[comparison.base_row[fresh_row < 0]]
    return places


def _same_chunks(
    comparison: Comparison, fresh_row: NDArray[np.int64], class_id: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return for each chunk whether its compressed counts can be copied from the base, bool [chunks]."""
    chunks = -(-len(fresh_row) // ROWS_PER_CHUNK)
    none = np.zeros(chunks, bool)
    if comparison.base is None or not np.array_equal(comparison.base.totals().class_id, class_id):
        return none
    in_place = (fresh_row < 0) & (comparison.base_row == np.arange(len(fresh_row)))
    same: NDArray[np.bool_] = np.logical_and.reduceat(in_place, np.arange(chunks) * ROWS_PER_CHUNK)
    if len(fresh_row) != comparison.base_samples:
        same[min(len(fresh_row), comparison.base_samples) // ROWS_PER_CHUNK :] = False  # of another length
    # Copying pays off only for most chunks, because the totals of all others are computed twice:
    # `_add_totals` subtracts their old rows.
    return same if 2 * np.count_nonzero(same) > chunks else none


def _add_totals(writer: VersionWriter, base: Version, same: NDArray[np.int64]) -> None:
    """Add the totals of the copied chunks `same`: the base's totals minus those of its other chunks."""
    totals, status = base.totals(), base.array("status")
    writer.add(totals)
    chunks = np.arange(-(-len(status) // ROWS_PER_CHUNK))
    for chunk in np.setdiff1d(chunks, same, assume_unique=True).tolist():
        start = chunk * ROWS_PER_CHUNK
        stop = min(start + ROWS_PER_CHUNK, len(status))
        chunk_totals = Aggregator(len(totals.class_id))
        chunk_totals.add(base.counts(start, stop)[status[start:stop] == 0])
        writer.add(chunk_totals.histogram(totals.class_id), -1)


def _class_ids(
    comparison: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64], *, with_objects: bool
) -> NDArray[np.int64]:
    """Return the raw ids that occur, ascending: equal label maps have equal arrays, whatever the base had.

    with_objects  whether the objects of all samples are known; else those of some must not add ids
    """
    lengths = np.diff(rows.offsets)
    used = np.zeros(len(lengths), bool)
    used[fresh_row[fresh_row >= 0]] = True
    present = distinct(rows.ids[np.repeat(used, lengths)]).astype(np.int64)
    if with_objects:
        # An object that others cover may have an id of which no pixel is left.
        present = distinct(present, rows.objects.take(np.flatnonzero(used)).class_id)
    if comparison.base is None or not comparison.reused.any():
        return present
    totals = comparison.base.totals()
    remaining = totals.pixels.copy()
    kept = np.zeros(comparison.base_samples, bool)
    kept[comparison.base_row[comparison.reused]] = True
    leaving = np.flatnonzero(~kept)
    if totals.objects is not None and with_objects:
        remaining += totals.objects.count
    reader = _BaseCounts(comparison.base, totals.class_id)
    for chunk in distinct(leaving // ROWS_PER_CHUNK).tolist():
        in_chunk = leaving[leaving // ROWS_PER_CHUNK == chunk]
        remaining -= reader.rows(in_chunk).sum(axis=0)
        if totals.objects is not None and with_objects:
            first = chunk * ROWS_PER_CHUNK
            objects = comparison.base.objects(first, min(first + ROWS_PER_CHUNK, comparison.base_samples))
            remaining -= objects.take(in_chunk - first).dense(totals.class_id).sum(axis=0)
    return distinct(present, totals.class_id[remaining > 0]).astype(np.int64)


class _BaseColumns:
    """The base's per-sample arrays, read once in row order; `finish` verifies their digests."""

    def __init__(self, base: Version) -> None:
        self._base = base
        self._chunks = base.stored_chunks(tuple(SAMPLE_ARRAYS))
        self._next()

    def _next(self) -> None:
        self._first, self._stored = next(self._chunks)
        self._values: dict[str, np.ndarray[Any, Any]] = {}
        self._stop = self._first + len(self.values("status"))

    def values(self, name: str) -> np.ndarray[Any, Any]:
        """Return the values of the chunk that was read last."""
        if name not in self._values:
            self._values[name] = self._base.decoded(name, self._stored[name].data)
        return self._values[name]

    def chunk(self, start: int, stop: int) -> Mapping[str, StoredChunk] | None:
        """Return the chunk of the base that consists of these rows, which must not have been passed.

        None if its last chunk has other rows than these.
        """
        while self._first < start:
            self._next()
        return self._stored if self._stop == stop else None

    def rows(self, rows: NDArray[np.int64]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the values of ascending base rows; later calls must ask for later rows."""
        names = [name for name in SAMPLE_ARRAYS if name != "path"]
        parts: list[dict[str, np.ndarray[Any, Any]]] = []
        while True:
            in_chunk = rows[rows < self._stop] - self._first
            parts.append({name: self.values(name)[in_chunk] for name in names})
            rows = rows[len(in_chunk) :]
            if not len(rows):
                break
            self._next()
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def finish(self) -> None:
        """Read the remaining rows. Raises `DamagedVersion` where an array is not as it was written."""
        for _ in self._chunks:
            pass


class _BaseCounts:
    """The base's counts in the columns of the new version; caches the last chunk."""

    def __init__(self, base: Version, class_id: NDArray[np.int64]) -> None:
        self._base = base
        self._samples = len(base.array("status"))
        base_class_id = base.totals().class_id
        self._from = np.flatnonzero(np.isin(base_class_id, class_id))
        self._to = np.searchsorted(class_id, base_class_id[self._from])
        self._width = len(class_id)
        self._chunk, self._chunk_counts = -1, np.zeros((0, 0), np.int64)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of ascending base rows, int64 [len(rows), classes]."""
        counts = np.zeros((len(rows), self._width), np.int64)
        for chunk in distinct(rows // ROWS_PER_CHUNK):
            start = int(chunk) * ROWS_PER_CHUNK
            if chunk != self._chunk:
                stop = min(start + ROWS_PER_CHUNK, self._samples)
                self._chunk, self._chunk_counts = int(chunk), self._base.counts(start, stop)
            in_chunk = np.flatnonzero(rows // ROWS_PER_CHUNK == chunk)
            chunk_rows = rows[in_chunk] - start
            counts[np.ix_(in_chunk, self._to)] = self._chunk_counts[np.ix_(chunk_rows, self._from)]
        return counts
