"""Writing a version's arrays: row by row in path order, aggregates and digests on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import Aggregator, Histogram
from statsvc.store.versions.arrays import (
    CLASS_ARRAYS,
    ROWS_PER_CHUNK,
    SAMPLE_ARRAYS,
    STRING,
    VALUES_PER_CHUNK,
    Digest,
    create_array,
    create_group,
    digest,
    put_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

    from statsvc.store.versions.location import Location


class VersionWriter:
    """Writes the arrays of one new group; nothing reads it before it is published.

    class_id  int64 [C], the raw id of each column, ascending
    samples   number of rows that will be appended
    """

    def __init__(
        self, folder: Location, class_id: NDArray[np.int64], samples: int, attributes: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._group = create_group(folder, attributes)
        self._class_id, self._samples, self._written = class_id, samples, 0
        self._total = Aggregator(len(class_id))
        self._digests = {name: Digest() for name in SAMPLE_ARRAYS}
        self._waiting: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in SAMPLE_ARRAYS}
        self._flushed = 0
        self.failed = 0
        shape, chunks = (samples, len(class_id)), (ROWS_PER_CHUNK, max(1, len(class_id)))
        with folder.answering():
            self._counts = create_array(
                self._group, "counts", shape, chunks, np.dtype("int64"), -1, ("sample", "class")
            )
            self._arrays = {
                name: create_array(
                    self._group, name, (samples,), (VALUES_PER_CHUNK,), dtype, fill, ("sample",)
                )
                for name, (dtype, fill) in SAMPLE_ARRAYS.items()
            }

    def append(self, columns: Mapping[str, np.ndarray[Any, Any]], counts: NDArray[np.int64]) -> None:
        """Write the next rows: at most one chunk of them, all but the last call exactly one.

        columns  every array of `SAMPLE_ARRAYS`, [n]
        counts   int64 [n, C]; zeros for an unreadable sample
        """
        with self._folder.answering():
            self._counts[self._written : self._written + len(counts)] = counts
        self._total.add(counts[columns["status"] == 0])
        self._append(columns, len(counts))

    def take_over(
        self, columns: Mapping[str, np.ndarray[Any, Any]], chunk: Buffer, totals: Histogram | None = None
    ) -> None:
        """Write the next chunk of rows, its counts as another version has them compressed.

        chunk   from `Version.chunk`, of a version with the same ids
        totals  of these rows; None where `add` tells of them with others
        """
        if self._written % ROWS_PER_CHUNK:
            raise AssertionError("a chunk begins where a chunk begins")
        with self._folder.answering():
            put_chunk(self._counts, self._written // ROWS_PER_CHUNK, chunk)
        if totals is not None:
            self.add(totals)
        self._append(columns, len(columns["status"]))

    def add(self, totals: Histogram, sign: int = 1) -> None:
        """Add, or with −1 take away, the totals of rows whose counts were not appended."""
        assert totals.images is not None
        assert totals.cooccurrence is not None
        assert totals.samples is not None
        self._total.pixels += sign * totals.pixels
        self._total.images += sign * totals.images
        self._total.cooccurrence += sign * totals.cooccurrence
        self._total.samples += sign * totals.samples

    def _append(self, columns: Mapping[str, np.ndarray[Any, Any]], n: int) -> None:
        self._written += n
        self.failed += int(np.count_nonzero(columns["status"]))
        for name, (dtype, _fill) in SAMPLE_ARRAYS.items():
            values = np.asarray(columns[name], dtype)
            self._digests[name].add(values)
            self._waiting[name].append(values)
        if self._written - self._flushed >= VALUES_PER_CHUNK:
            self._flush()

    def _flush(self) -> None:
        for name, waiting in self._waiting.items():
            if waiting:
                with self._folder.answering():
                    self._arrays[name][self._flushed : self._written] = np.concatenate(waiting)
                waiting.clear()
        self._flushed = self._written

    def finish(self) -> tuple[Histogram, dict[str, str]]:
        """Write what is left; return the aggregates and the digest of every array but `counts`."""
        if self._written != self._samples:
            raise AssertionError(f"{self._written} of {self._samples} rows were appended")
        self._flush()
        totals = self._total.histogram(self._class_id)
        digests = {name: one.hexdigest() for name, one in self._digests.items()}
        with self._folder.answering():
            digests |= write_totals(self._group, totals)
        return totals, digests


def write_totals(group: Any, totals: Histogram) -> dict[str, str]:
    """Write the per-class arrays that are known; return their digests."""
    values = {
        "class_id": totals.class_id,
        "class_pixels": totals.pixels,
        "class_images": totals.images,
        "cooccurrence": totals.cooccurrence,
    }
    digests = {}
    for name, array in values.items():
        if array is None:
            continue
        stored = create_array(
            group,
            name,
            array.shape,
            tuple(max(1, size) for size in array.shape),
            np.dtype("int64"),
            -1,
            CLASS_ARRAYS[name],
        )
        stored[...] = array
        digests[name] = digest(array)
    return digests


def strings(values: Sequence[str] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return variable-width strings as NumPy holds them."""
    return np.array(values, STRING)
