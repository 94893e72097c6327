"""Read one published version and verify it against the digests in the catalog."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import EXAMPLES, Block, Histogram, Table
from statsvc.errors import DamagedVersion, StoreError
from statsvc.store.versions.arrays import (
    CLASS_ARRAYS,
    ROWS_PER_CHUNK,
    SAMPLE_ARRAYS,
    VALUES_PER_CHUNK,
    Digest,
    digest,
    dtype_of,
    open_group,
    read_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import EllipsisType

    import zarr
    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.versions.location import Location

READ_BYTES = 32 * 2**20
"""Bytes of `counts` per read: several chunks, which Zarr requests concurrently."""


class Version(Table):
    """A version's table, read lazily from its Zarr group and verified.

    Every array except `counts` must match its digest in the catalog; each row of `counts` must add up to
    its `pixels`. Otherwise `DamagedVersion` is raised, which names the array. `StoreError` is raised if the
    version store cannot be read.

    arrays   location of the group that contains the arrays
    digests  digest of each array, from the catalog
    failed   number of samples that could not be read
    """

    def __init__(
        self,
        arrays: Location,
        *,
        dataset: str,
        number: int,
        configuration: Configuration,
        digests: Mapping[str, str],
        failed: int,
    ) -> None:
        self.dataset, self.version, self.configuration = dataset, number, configuration
        self.has_rows = "path" in digests
        self._location, self._digests, self._failed = arrays, digests, failed
        self._lock = threading.Lock()
        self._group: zarr.Group | None = None
        self._cache: dict[str, np.ndarray[Any, Any]] = {}
        self._zarr_arrays: dict[str, Any] = {}
        self._totals: Histogram | None = None

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array, verified and cached; read `counts` with `blocks` instead."""
        with self._lock:
            if name not in self._cache:
                self._cache[name] = self.read(name)
            return self._cache[name]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array, verified, as `array` does, but do not cache it."""
        values = self._read(name, ...)
        if values.dtype != dtype_of(name) or digest(values) != self._digests[name]:
            raise self._damaged(name, "does not match its digest")
        values.setflags(write=False)
        return values

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, np.ndarray[Any, Any]]]]:
        """Yield (number of the first row, values by array) of per-sample arrays, in row order, uncached.

        The digests can only be verified after the last chunk: if `DamagedVersion` is raised, the caller must
        discard everything it has derived from earlier chunks.
        """
        digests = {name: Digest() for name in names}
        with self._reading(names[0]):
            samples = int(self._zarr_array(names[0]).shape[0])
        for start in range(0, samples, VALUES_PER_CHUNK):
            values = {}
            for name in names:
                values[name] = self._slice(name, slice(start, min(start + VALUES_PER_CHUNK, samples)))
                digests[name].add(values[name])
            yield start, values
        for name in names:
            if digests[name].hexdigest() != self._digests[name]:
                raise self._damaged(name, "does not match its digest")

    def take(self, name: str, rows: NDArray[np.int64]) -> np.ndarray[Any, Any]:
        """Return the values of a per-sample array at some ascending row numbers.

        Only the chunks of these rows are read, so they are verified by their zstd checksums alone.
        """
        values_by_chunk = [np.empty(0, dtype_of(name))]
        for chunk in np.unique(rows // VALUES_PER_CHUNK).tolist():
            start = chunk * VALUES_PER_CHUNK
            values = self._slice(name, slice(start, start + VALUES_PER_CHUNK))
            values_by_chunk.append(values[rows[rows // VALUES_PER_CHUNK == chunk] - start])
        return np.concatenate(values_by_chunk)

    def _slice(self, name: str, rows: slice) -> np.ndarray[Any, Any]:
        values = self._read(name, rows)
        if values.dtype != dtype_of(name):
            raise self._damaged(name, f"has dtype {values.dtype}, not {dtype_of(name)}")
        return values

    def _zarr_array(self, name: str) -> Any:
        # The metadata is read once, not for every chunk: each read is a request to an object store.
        if self._group is None:
            self._group = open_group(self._location)
        if name not in self._zarr_arrays:
            self._zarr_arrays[name] = self._group[name]
        return self._zarr_arrays[name]

    def _read(self, name: str, rows: slice | EllipsisType) -> np.ndarray[Any, Any]:
        with self._reading(name):
            return np.asarray(self._zarr_array(name)[rows])

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Translate errors while reading an array: `StoreError` stays, everything else is damage."""
        try:
            with self._location.translated_errors():
                yield
        except StoreError as error:
            raise type(error)(f"{self.dataset} version {self.version} cannot be read: {error}") from error
        except Exception as error:
            raise self._damaged(name, f"cannot be read ({type(error).__name__}: {error})") from error

    def _damaged(self, name: str, what: str) -> DamagedVersion:
        return DamagedVersion(
            f"{self.dataset} version {self.version}: array {name!r} {what}; "
            f"recount the dataset with: statsvc scan --name {self.dataset} --full SOURCE"
        )

    def why_no_rows(self) -> str:
        """Return why the version has no rows, and what to do."""
        return (
            f"{self.dataset} version {self.version} was imported as totals, but this request needs "
            "the counts of each image; scan the label maps"
        )

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        if self._totals is None:
            arrays = {name: self.array(name) for name in CLASS_ARRAYS if name in self._digests}
            class_id = arrays["class_id"]
            samples = len(self.array("status")) - self._failed if self.has_rows else None
            self._totals = Histogram(
                class_id,
                np.ones(len(class_id), bool),
                arrays["class_pixels"],
                arrays.get("class_images"),
                arrays.get("cooccurrence"),
                samples,
            )
        return self._totals

    def failed(self) -> int:
        """Return how many samples could not be read."""
        return self._failed

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return the unreadable samples as `Table.failures` does, without reading `counts`."""
        if self.failed() == 0:
            return 0, []
        path, error = self.array("path"), self.array("error")
        rows = np.flatnonzero(self.array("status")).tolist()
        if split is not None:
            chosen = self.find_split(split)
            rows = [row for row in rows if chosen.contains(str(path[row]))]
        return len(rows), [(str(path[row]), str(error[row])) for row in rows[:limit]]

    def counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return rows [start, stop) of `counts`, int64 [n, C], each verified against its `pixels`."""
        return self._counts(start, stop, self.array("pixels")[start:stop])

    def _counts(self, start: int, stop: int, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self._read("counts", slice(start, stop))
        if rows.dtype != dtype_of("counts") or rows.shape[1:] != self.totals().class_id.shape:
            raise self._damaged("counts", f"has dtype {rows.dtype} and columns {rows.shape[1:]}")
        if (rows < 0).any() or not np.array_equal(rows.sum(axis=1), pixels):
            raise self._damaged("counts", f"rows {start} to {stop - 1} do not add up to their pixels")
        return rows

    def chunk(self, number: int) -> Buffer:
        """Return a chunk of `counts` in compressed form; its checksum is not verified here."""
        with self._reading("counts"):
            chunk = read_chunk(self._zarr_array("counts"), number)
        if chunk is None:
            raise self._damaged("counts", f"lacks the chunk of the rows from {number * ROWS_PER_CHUNK} on")
        return chunk

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, one chunk at a time."""
        if not self.has_rows:
            return
        path, status, error = self.array("path"), self.array("status"), self.array("error")
        chunk_bytes = 8 * ROWS_PER_CHUNK * max(1, len(self.totals().class_id))
        rows_per_read = ROWS_PER_CHUNK * max(1, READ_BYTES // chunk_bytes)
        for first in range(0, len(path), rows_per_read):
            rows = self.counts(first, min(first + rows_per_read, len(path)))
            for start in range(first, first + len(rows), ROWS_PER_CHUNK):
                stop = min(start + ROWS_PER_CHUNK, len(path))
                yield Block(
                    path[start:stop].tolist(),
                    status[start:stop],
                    error[start:stop].tolist(),
                    rows[start - first : stop - first],
                )

    def verify(self) -> None:
        """Read every array; raise `DamagedVersion`, which names the first damaged one.

        Rows are read chunk by chunk, so memory use does not depend on the number of samples.
        """
        for name in CLASS_ARRAYS:
            if name in self._digests:
                self.array(name)
        if not self.has_rows:
            return
        total = np.zeros_like(self.totals().pixels)
        for first, columns in self.chunks(tuple(SAMPLE_ARRAYS)):
            pixels = columns["pixels"]
            for start in range(0, len(pixels), ROWS_PER_CHUNK):
                chunk_pixels = pixels[start : start + ROWS_PER_CHUNK]
                stop = start + len(chunk_pixels)
                total += self._counts(first + start, first + stop, chunk_pixels).sum(axis=0)
        if not np.array_equal(total, self.totals().pixels):
            raise self._damaged("counts", "does not add up to class_pixels")
