"""Merging reused and fresh rows into a new version, chunk by chunk in path order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import Aggregator
from statsvc.store.versions.arrays import ROWS_PER_CHUNK, SAMPLE_ARRAYS
from statsvc.store.versions.writer import VersionWriter, strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.dataset.table import Histogram
    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.version import Version
    from statsvc_workers.sources.diff import Comparison
    from statsvc_workers.sources.sources import Listing


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: aggregates, the digest of every small array, and how many samples failed."""

    totals: Histogram
    digests: dict[str, str]
    failed: int


def assemble(
    folder: Location,
    listing: Listing,
    found: Comparison,
    rows: CountedRows,
    fresh_row: NDArray[np.int64],
    check: Callable[[], None],
) -> Written:
    """Write the arrays of a new version. Raises `DamagedVersion` where the base cannot be read."""
    class_id = _class_ids(found, rows, fresh_row)
    writer = VersionWriter(folder, class_id, len(listing.path), {})
    base = columns_of_base = None
    if found.base is not None and found.reused.any():
        base, columns_of_base = _BaseRows(found.base, class_id), _BaseColumns(found.base)
    same = _same_chunks(found, fresh_row, class_id)
    if same.any() and found.base is not None:
        _add_totals(writer, found.base, np.flatnonzero(same))
    for start in range(0, len(listing.path), ROWS_PER_CHUNK):
        check()
        stop = min(start + ROWS_PER_CHUNK, len(listing.path))
        if same[start // ROWS_PER_CHUNK]:
            assert found.base is not None
            assert columns_of_base is not None
            taken = columns_of_base.rows(np.arange(start, stop))
            taken["path"] = strings(listing.path[start:stop])
            writer.append_chunk(taken, found.base.chunk(start // ROWS_PER_CHUNK))
            continue
        fresh_at = np.flatnonzero(fresh_row[start:stop] >= 0)
        base_at = np.flatnonzero(fresh_row[start:stop] < 0)
        own = fresh_row[start:stop][fresh_at]
        counts = np.zeros((stop - start, len(class_id)), np.int64)
        counts[fresh_at] = rows.dense(own, class_id)
        kept = found.base_row[start:stop][base_at]
        if base is not None:
            counts[base_at] = base.counts(kept)
        taken_over = {} if columns_of_base is None else columns_of_base.rows(kept)
        columns: dict[str, np.ndarray[Any, Any]] = {"path": strings(listing.path[start:stop])}
        for name, (dtype, fill) in SAMPLE_ARRAYS.items():
            if name == "path":
                continue
            column = np.full(stop - start, fill, dtype)
            column[fresh_at] = rows.columns[name][own].astype(dtype)
            if taken_over:
                column[base_at] = taken_over[name]
            columns[name] = column
        writer.append(columns, counts)
    if columns_of_base is not None:
        columns_of_base.finish()
    totals, digests = writer.finish()
    return Written(totals, digests, writer.failed)


def _same_chunks(
    found: Comparison, fresh_row: NDArray[np.int64], class_id: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return for each chunk of rows whether it is the base's, compressed bytes and all."""
    chunks = -(-len(fresh_row) // ROWS_PER_CHUNK)
    none = np.zeros(chunks, bool)
    if found.base is None or not np.array_equal(found.base.totals().class_id, class_id):
        return none
    in_place = (fresh_row < 0) & (found.base_row == np.arange(len(fresh_row)))
    same: NDArray[np.bool_] = np.logical_and.reduceat(in_place, np.arange(chunks) * ROWS_PER_CHUNK)
    if len(fresh_row) != found.base_samples:
        same[min(len(fresh_row), found.base_samples) // ROWS_PER_CHUNK :] = False  # not as long
    # The totals of the others are computed twice, of the old rows and of the new ones.
    return same if 2 * np.count_nonzero(same) > chunks else none


def _add_totals(writer: VersionWriter, base: Version, same: NDArray[np.int64]) -> None:
    """Tell the writer of the totals of the base's chunks `same`: those of all without those of the rest."""
    totals, status = base.totals(), base.array("status")
    writer.add(totals)
    for chunk in np.setdiff1d(np.arange(-(-len(status) // ROWS_PER_CHUNK)), same).tolist():
        start = chunk * ROWS_PER_CHUNK
        stop = min(start + ROWS_PER_CHUNK, len(status))
        rest = Aggregator(len(totals.class_id))
        rest.add(base.counts(start, stop)[status[start:stop] == 0])
        writer.add(rest.histogram(totals.class_id), -1)


def _class_ids(found: Comparison, rows: CountedRows, fresh_row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the raw ids that occur, so that equal label maps give equal arrays whatever came before."""
    own = np.sort(fresh_row[fresh_row >= 0])
    lengths = np.diff(rows.offsets)
    used = np.zeros(len(lengths), bool)
    used[own] = True
    present = np.unique(rows.ids[np.repeat(used, lengths)])
    if found.base is None or not found.reused.any():
        return present
    totals = found.base.totals()
    left = totals.pixels.copy()
    kept = np.zeros(found.base_samples, bool)
    kept[found.base_row[found.reused]] = True
    leaving = np.flatnonzero(~kept)
    reader = _BaseRows(found.base, totals.class_id)
    for chunk in np.unique(leaving // ROWS_PER_CHUNK):
        left -= reader.counts(leaving[leaving // ROWS_PER_CHUNK == chunk]).sum(axis=0)
    return np.union1d(present, totals.class_id[left > 0]).astype(np.int64)


class _BaseColumns:
    """The base's per-sample arrays, read once through in row order, and checked as a whole by `finish`."""

    def __init__(self, base: Version) -> None:
        self._chunks = base.chunks([name for name in SAMPLE_ARRAYS if name != "path"])
        self._first, self._columns = next(self._chunks)

    def rows(self, rows: NDArray[np.int64]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the values of ascending base rows, none of them before those of an earlier call."""
        parts: list[dict[str, np.ndarray[Any, Any]]] = []
        while True:
            stop = self._first + len(self._columns["status"])
            here = rows[rows < stop] - self._first
            parts.append({name: values[here] for name, values in self._columns.items()})
            rows = rows[len(here) :]
            if not len(rows):
                break
            self._first, self._columns = next(self._chunks)
        return {name: np.concatenate([part[name] for part in parts]) for name in self._columns}

    def finish(self) -> None:
        """Read what is left. Raises `DamagedVersion` where the arrays are not what was written."""
        for _ in self._chunks:
            pass


class _BaseRows:
    """Rows of the base's counts over the new version's columns; remembers the last chunk it read."""

    def __init__(self, base: Version, class_id: NDArray[np.int64]) -> None:
        self._base = base
        self._samples = len(base.array("status"))
        own = base.totals().class_id
        self._from = np.flatnonzero(np.isin(own, class_id))
        self._to = np.searchsorted(class_id, own[self._from])
        self._width = len(class_id)
        self._chunk, self._rows = -1, np.zeros((0, 0), np.int64)

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64 [len(rows), C] of ascending base rows."""
        out = np.zeros((len(rows), self._width), np.int64)
        for chunk in np.unique(rows // ROWS_PER_CHUNK):
            start = int(chunk) * ROWS_PER_CHUNK
            if chunk != self._chunk:
                stop = min(start + ROWS_PER_CHUNK, self._samples)
                self._chunk, self._rows = int(chunk), self._base.counts(start, stop)
            at = np.flatnonzero(rows // ROWS_PER_CHUNK == chunk)
            out[np.ix_(at, self._to)] = self._rows[np.ix_(rows[at] - start, self._from)]
        return out
