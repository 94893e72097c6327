"""Merging reused and fresh rows into a new version, chunk by chunk in path order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.store.arrays import ROWS_PER_CHUNK, SAMPLE_ARRAYS
from statsvc.store.writer import VersionWriter, strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.statistics import Histogram
    from statsvc.store.parts import Rows
    from statsvc.store.places import Place
    from statsvc.store.version import Version
    from workers.comparison import Comparison
    from workers.sources import Listing


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: aggregates, the digest of every small array, and how many samples failed."""

    totals: Histogram
    digests: dict[str, str]
    failed: int


def assemble(
    folder: Place,
    listing: Listing,
    found: Comparison,
    rows: Rows,
    fresh_row: NDArray[np.int64],
    check: Callable[[], None],
) -> Written:
    """Write the arrays of a new version. Raises `DamagedVersion` where the base cannot be read."""
    class_id = _class_ids(found, rows, fresh_row)
    writer = VersionWriter(folder, class_id, len(listing.path), {})
    base = None if found.base is None else _BaseRows(found.base, class_id)
    for start in range(0, len(listing.path), ROWS_PER_CHUNK):
        check()
        stop = min(start + ROWS_PER_CHUNK, len(listing.path))
        fresh_at = np.flatnonzero(fresh_row[start:stop] >= 0)
        base_at = np.flatnonzero(fresh_row[start:stop] < 0)
        own = fresh_row[start:stop][fresh_at]
        counts = np.zeros((stop - start, len(class_id)), np.int64)
        counts[fresh_at] = rows.dense(own, class_id)
        kept = found.base_row[start:stop][base_at]
        if base is not None:
            counts[base_at] = base.counts(kept)
        columns: dict[str, np.ndarray[Any, Any]] = {"path": strings(listing.path[start:stop])}
        for name, (dtype, fill) in SAMPLE_ARRAYS.items():
            if name == "path":
                continue
            column = np.full(stop - start, fill, dtype)
            column[fresh_at] = rows.columns[name][own].astype(dtype)
            if found.base is not None and len(kept):
                column[base_at] = found.base.array(name)[kept]
            columns[name] = column
        writer.append(columns, counts)
    totals, digests = writer.finish()
    return Written(totals, digests, writer.failed)


def _class_ids(found: Comparison, rows: Rows, fresh_row: NDArray[np.int64]) -> NDArray[np.int64]:
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
