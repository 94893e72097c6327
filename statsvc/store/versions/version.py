"""Reading one published version, checked against what was written."""

from __future__ import annotations

import threading
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
    chunk_of,
    digest,
    dtype_of,
    open_group,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.versions.location import Location

READ_BYTES = 32 * 2**20
"""Rows of `counts` read at once, in bytes: several chunks, which Zarr asks for side by side."""


class Version(Table):
    """A version's table, read from its Zarr group when asked for and checked on the way.

    Every array but `counts` is compared with the digest the catalog keeps; each row of `counts`
    must add up to its `pixels`. Raises `DamagedVersion` naming the array where that fails, `StoreError`
    where the store does not let it be known.
    """

    def __init__(
        self,
        folder: Location,
        *,
        dataset: str,
        number: int,
        configuration: Configuration,
        digests: Mapping[str, str],
        failed: int,
    ) -> None:
        self.dataset, self.version, self.configuration = dataset, number, configuration
        self.has_rows = "path" in digests
        self._folder, self._digests, self._failed = folder, digests, failed
        self._lock = threading.Lock()
        self._zarr: zarr.Group | None = None
        self._loaded: dict[str, np.ndarray[Any, Any]] = {}
        self._open: dict[str, Any] = {}
        self._totals: Histogram | None = None

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array, checked; `counts` is read with `blocks` instead."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self.read(name)
            return self._loaded[name]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array as `array` does, without keeping it."""
        values = self._values(lambda: self._stored(name)[...], name)
        if values.dtype != dtype_of(name) or digest(values) != self._digests[name]:
            raise self._damaged(name, "does not hold what was written")
        values.setflags(write=False)
        return values

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, np.ndarray[Any, Any]]]]:
        """Yield (number of the first row, values by array) of per-sample arrays, in row order; keep none.

        That the arrays hold what was written is known at the end only: a caller that uses some of it
        before must throw that away where `DamagedVersion` is raised.
        """
        digests = {name: Digest() for name in names}
        samples = self._samples(names[0])
        for start in range(0, samples, VALUES_PER_CHUNK):
            values = {}
            for name in names:
                values[name] = self._part(name, slice(start, min(start + VALUES_PER_CHUNK, samples)))
                digests[name].add(values[name])
            yield start, values
        for name in names:
            if digests[name].hexdigest() != self._digests[name]:
                raise self._damaged(name, "does not hold what was written")

    def taken(self, name: str, rows: NDArray[np.int64]) -> np.ndarray[Any, Any]:
        """Return some ascending rows of a per-sample array.

        Only their chunks are read, so only the checksum of each tells whether it is what was written.
        """
        parts = [np.empty(0, dtype_of(name))]
        for chunk in np.unique(rows // VALUES_PER_CHUNK).tolist():
            start = chunk * VALUES_PER_CHUNK
            values = self._part(name, slice(start, start + VALUES_PER_CHUNK))
            parts.append(values[rows[rows // VALUES_PER_CHUNK == chunk] - start])
        return np.concatenate(parts)

    def _samples(self, name: str) -> int:
        return int(self._values(lambda: self._stored(name).shape, name)[0])

    def _part(self, name: str, part: slice) -> np.ndarray[Any, Any]:
        values = self._values(lambda: self._stored(name)[part], name)
        if values.dtype != dtype_of(name):
            raise self._damaged(name, f"is {values.dtype}")
        return values

    def _stored(self, name: str) -> Any:
        # Described once, not at every chunk: each look is a request to an object store.
        if self._zarr is None:
            self._zarr = open_group(self._folder)
        if name not in self._open:
            self._open[name] = self._zarr[name]
        return self._open[name]

    def _values(self, read: Callable[[], Any], name: str) -> np.ndarray[Any, Any]:
        try:
            with self._folder.answering():
                return np.asarray(read())
        except StoreError as error:
            raise type(error)(f"{self.dataset} version {self.version} cannot be read: {error}") from error
        except Exception as error:
            raise self._damaged(name, f"cannot be read ({type(error).__name__}: {error})") from error

    def _damaged(self, name: str, what: str) -> DamagedVersion:
        return DamagedVersion(
            f"{self.dataset} version {self.version}: array {name!r} {what}; "
            f"count it again with: statsvc scan --name {self.dataset} --full SOURCE"
        )

    def why_no_rows(self) -> str:
        """Return why there are no rows, where there are none, and what to do."""
        return (
            f"{self.dataset} version {self.version} was imported as totals, and this needs the counts "
            "of each image: scan the label maps"
        )

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        if self._totals is None:
            known = {name: self.array(name) for name in CLASS_ARRAYS if name in self._digests}
            class_id = known["class_id"]
            samples = len(self.array("status")) - self._failed if self.has_rows else None
            self._totals = Histogram(
                class_id,
                np.ones(len(class_id), bool),
                known["class_pixels"],
                known.get("class_images"),
                known.get("cooccurrence"),
                samples,
            )
        return self._totals

    def failed(self) -> int:
        """Return how many samples could not be read."""
        return self._failed

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return the unreadable samples as `Table.failures`, without reading any counts."""
        if self.failed() == 0:
            return 0, []
        path, error = self.array("path"), self.array("error")
        rows = np.flatnonzero(self.array("status")).tolist()
        if split is not None:
            chosen = self.split(split)
            rows = [row for row in rows if chosen.contains(str(path[row]))]
        return len(rows), [(str(path[row]), str(error[row])) for row in rows[:limit]]

    def counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return rows [start, stop) of `counts`, int64 [n, C], each checked against its pixels."""
        return self._counts(start, stop, self.array("pixels")[start:stop])

    def _counts(self, start: int, stop: int, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self._values(lambda: self._stored("counts")[start:stop], "counts")
        if rows.dtype != dtype_of("counts") or rows.shape[1:] != self.totals().class_id.shape:
            raise self._damaged("counts", f"is {rows.dtype} with columns {rows.shape[1:]}")
        if (rows < 0).any() or not np.array_equal(rows.sum(axis=1), pixels):
            raise self._damaged("counts", f"rows {start} to {stop - 1} do not add up to their pixels")
        return rows

    def chunk(self, number: int) -> Buffer:
        """Return a chunk of `counts` as it is stored, compressed: its checksum is not looked at here."""
        try:
            with self._folder.answering():
                chunk = chunk_of(self._stored("counts"), number)
        except StoreError as error:
            raise type(error)(f"{self.dataset} version {self.version} cannot be read: {error}") from error
        except Exception as error:
            raise self._damaged("counts", f"cannot be read ({type(error).__name__}: {error})") from error
        if chunk is None:
            raise self._damaged("counts", f"has lost its rows from {number * ROWS_PER_CHUNK} on")
        return chunk

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, one chunk at a time."""
        if not self.has_rows:
            return
        path, status, error = self.array("path"), self.array("status"), self.array("error")
        chunk_bytes = 8 * ROWS_PER_CHUNK * max(1, len(self.totals().class_id))
        at_once = ROWS_PER_CHUNK * max(1, READ_BYTES // chunk_bytes)
        for first in range(0, len(path), at_once):
            rows = self.counts(first, min(first + at_once, len(path)))
            for start in range(first, first + len(rows), ROWS_PER_CHUNK):
                stop = min(start + ROWS_PER_CHUNK, len(path))
                yield Block(
                    path[start:stop].tolist(),
                    status[start:stop],
                    error[start:stop].tolist(),
                    rows[start - first : stop - first],
                )

    def verify(self) -> None:
        """Read every array; raise `DamagedVersion` naming the first that is not as written.

        Rows are read chunk by chunk: however many there are, memory for one chunk is enough.
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
                own = pixels[start : start + ROWS_PER_CHUNK]
                total += self._counts(first + start, first + start + len(own), own).sum(axis=0)
        if not np.array_equal(total, self.totals().pixels):
            raise self._damaged("counts", "does not add up to class_pixels")
