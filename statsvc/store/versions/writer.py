"""Write a version's arrays row by row in path order, and compute aggregates and digests on the way."""

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
    class_arrays,
    create_array,
    create_group,
    digest,
    write_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

    from statsvc.store.versions.location import Location


class VersionWriter:
    """Writes the arrays of one new group, which no reader sees before it is published.

    group     location of the new group
    class_id  int64 [C], the raw id of each column, ascending
    samples   number of rows that will be appended
    """

    def __init__(
        self, group: Location, class_id: NDArray[np.int64], samples: int, attributes: dict[str, Any]
    ) -> None:
        self._location = group
        self._group = create_group(group, attributes)
        self._class_id, self._samples, self._written = class_id, samples, 0
        self._total = Aggregator(len(class_id))
        self._digests = {name: Digest() for name in SAMPLE_ARRAYS}
        self._buffered: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in SAMPLE_ARRAYS}
        self._flushed = 0
        self.failed = 0
        shape, chunks = (samples, len(class_id)), (ROWS_PER_CHUNK, max(1, len(class_id)))
        with group.translated_errors():
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
        """Write the next rows: exactly one chunk of `ROWS_PER_CHUNK` rows, or fewer in the last call.

        columns  every array of `SAMPLE_ARRAYS`, each [n]
        counts   int64 [n, C], pixels; zeros for an unreadable sample
        """
        with self._location.translated_errors():
            self._counts[self._written : self._written + len(counts)] = counts
        self._total.add(counts[columns["status"] == 0])
        self._append(columns, len(counts))

    def append_chunk(
        self, columns: Mapping[str, np.ndarray[Any, Any]], chunk: Buffer, totals: Histogram | None = None
    ) -> None:
        """Write the next chunk of rows, whose counts are copied in compressed form from another version.

        chunk   from `Version.chunk`, of a version with the same raw ids
        totals  totals of these rows; None if a call of `add` includes them
        """
        if self._written % ROWS_PER_CHUNK:
            raise AssertionError("a compressed chunk can only follow complete chunks")
        with self._location.translated_errors():
            write_chunk(self._counts, self._written // ROWS_PER_CHUNK, chunk)
        if totals is not None:
            self.add(totals)
        self._append(columns, len(columns["status"]))

    def add(self, totals: Histogram, sign: int = 1) -> None:
        """Add the totals of rows whose counts were not passed to `append`; subtract them with sign −1."""
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
            self._buffered[name].append(values)
        if self._written - self._flushed >= VALUES_PER_CHUNK:
            self._flush()

    def _flush(self) -> None:
        for name, buffered in self._buffered.items():
            if buffered:
                with self._location.translated_errors():
                    self._arrays[name][self._flushed : self._written] = np.concatenate(buffered)
                buffered.clear()
        self._flushed = self._written

    def finish(self) -> tuple[Histogram, dict[str, str]]:
        """Write what is buffered; return the totals and the digest of every array except `counts`."""
        if self._written != self._samples:
            raise AssertionError(f"{self._written} of {self._samples} rows were appended")
        self._flush()
        totals = self._total.histogram(self._class_id)
        digests = {name: values.hexdigest() for name, values in self._digests.items()}
        with self._location.translated_errors():
            digests |= write_totals(self._group, totals)
        return totals, digests


def write_totals(group: Any, totals: Histogram) -> dict[str, str]:
    """Write the per-class arrays that are known to a Zarr group; return their digests."""
    digests = {}
    for name, array in class_arrays(totals).items():
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
    """Return strings as a NumPy array of variable-width `StringDType`."""
    return np.array(values, STRING)
