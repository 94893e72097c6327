"""The table of one published version, verified where it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.dataset.grid import Cells, Grid, no_cells
from statsvc.dataset.histogram import Histogram
from statsvc.dataset.objects import Objects
from statsvc.dataset.table import EXAMPLES, Block, Table
from statsvc.errors import Unanswerable
from statsvc.store.versions.arrays import (
    CLASS_ARRAYS,
    ENTRIES_PER_CHUNK,
    PLACE,
    ROWS_PER_CHUNK,
    SAMPLE_ARRAYS,
    Digest,
    dtype_of,
    object_totals,
)
from statsvc.store.versions.row_access import check_may_read_rows
from statsvc.store.versions.verified_arrays import VerifiedArrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.table import Int64
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.verified_arrays import ArrayCache

READ_BYTES = 32 * 2**20
"""Bytes of `counts` per read: several chunks, which Zarr requests concurrently."""


class Version(VerifiedArrays, Table):
    """A version's table, read lazily from its Zarr group and verified.

    Every array except `counts` must match its digest in the catalog; each row of `counts` must add up to its
    `pixels`. The tiles of a sample must add up to its row of `counts`; the digests of the entries of a grid
    and of the objects are compared by `verify` alone. Otherwise
    `DamagedVersion` is raised, which names the array. `StoreError` is raised if the version store cannot be
    read.

    arrays   location of the group that contains the arrays
    digests  digest of each array, from the catalog
    failed   number of samples that could not be read
    cache    verified arrays, shared by versions with the same arrays; by default this version keeps all
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
        cache: ArrayCache | None = None,
    ) -> None:
        self.dataset, self.version, self.configuration = dataset, number, configuration
        self.has_rows, self.sampled_from = "path" in digests, configuration.sampled_from
        super().__init__(arrays, digests, cache)
        self._failed = failed
        self._totals: Histogram | None = None

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
                object_totals(arrays),
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
        check_may_read_rows()
        path, error = self.array("path"), self.array("error")
        rows = np.flatnonzero(self.array("status")).tolist()
        if split is not None:
            chosen = self.find_split(split)
            is_chosen = chosen.matcher()
            rows = [row for row in rows if is_chosen(str(path[row]))]
        return len(rows), [(str(path[row]), str(error[row])) for row in rows[:limit]]

    def counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return rows [start, stop) of `counts`, int64 [n, C], each verified against its `pixels`."""
        return self._counts(start, stop, self.array("pixels")[start:stop])

    def _counts(self, start: int, stop: int, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        check_may_read_rows()
        rows = self._read("counts", start, stop)
        if rows.dtype != dtype_of("counts") or rows.shape[1:] != self.totals().class_id.shape:
            raise self._damaged("counts", f"has dtype {rows.dtype} and columns {rows.shape[1:]}")
        if (rows < 0).any() or not np.array_equal(rows.sum(axis=1), pixels):
            raise self._damaged("counts", f"rows {start} to {stop - 1} do not add up to their pixels")
        return rows

    @property
    def grid(self) -> Grid | None:
        """The grid of the version's arrays; None where only whole images were counted."""
        return Grid(*self.array("grid_shape").tolist()) if "grid_shape" in self._digests else None

    def cells(self, start: int, stop: int, counts: NDArray[np.int64] | None = None) -> Cells:
        """Return the histograms on the grid of rows [start, stop), each verified against its row of `counts`.

        counts  rows [start, stop) of `counts`, where the caller has read them
        """
        counts = self.counts(start, stop) if counts is None else counts
        first = self._first_entries("grid_entries")
        entries = slice(int(first[start]), int(first[stop]))
        lengths = self.array("grid_entries")[start:stop]
        names = ("grid_tile", "grid_class_id", "grid_pixels")
        cells = Cells(lengths, *(self._slice(name, entries).astype(np.int64) for name in names))
        class_id = self.totals().class_id
        column = np.searchsorted(class_id, cells.class_id)
        sums = np.zeros_like(counts)
        grid = self.grid
        assert grid is not None
        tiles = grid.tiles * max(1, grid.depth)
        valid = (cells.tile < tiles).all() and (cells.pixels > 0).all() and (column < len(class_id)).all()
        if valid:
            np.add.at(sums.reshape(-1), cells.row * len(class_id) + column, cells.pixels)
        in_grid = lengths > 0
        if not (valid and np.array_equal(sums[in_grid], counts[in_grid])):
            raise self._damaged("grid_pixels", f"rows {start} to {stop - 1} do not add up to their counts")
        return cells

    @property
    def has_objects(self) -> bool:
        """Whether the objects of each counted sample are known."""
        return "object_entries" in self._digests

    def objects(self, start: int, stop: int) -> Objects:
        """Return the objects of rows [start, stop)."""
        check_may_read_rows()
        first = self._first_entries("object_entries")
        entries = slice(int(first[start]), int(first[stop]))
        names = ("object_class_id", "object_pixels")
        objects = Objects(
            self.array("object_entries")[start:stop], *(self._slice(name, entries) for name in names)
        )
        if not np.isin(objects.class_id, self.totals().class_id).all():
            raise self._damaged("object_class_id", "contains ids that are not in class_id")
        if (objects.pixels < 1).any():
            raise self._damaged("object_pixels", "contains numbers below 1")
        return objects

    def _first_entries(self, lengths: str) -> NDArray[np.int64]:
        """Return the position of the first entry of each sample, and the number of entries, int64 [n + 1].

        lengths  array of the number of entries of each sample
        """
        key = (str(self._location), f"first of {lengths}", self._digests[lengths])
        first = self._cache.get(key)
        if first is None:
            first = np.concatenate([[0], np.cumsum(self.array(lengths))])
            self._cache.put(key, first)
        return first

    def chunk(self, number: int) -> bytes:
        """Return a chunk of `counts` in compressed form; its checksum is not verified here."""
        with self._reading("counts"):
            [chunk] = self._stored_array("counts").compressed(number, number + 1)
            return chunk

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, one chunk at a time."""
        if not self.has_rows:
            return
        check_may_read_rows()
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

    @property
    def stores_places(self) -> bool:
        """Whether the version has places that do not follow from the sizes of its samples."""
        return PLACE in self._digests

    def places(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the `Place` of rows [start, stop), int64 [n, 9]; zeros where it is unknown."""
        if self.stores_places:
            return np.asarray(self.array(PLACE)[start:stop])
        places = np.zeros((stop - start, 9), np.int64)
        if self.configuration.counting.rows == "array":
            height, width = self.array("height")[start:stop], self.array("width")[start:stop]
            places[:, 3:] = np.stack([(height > 0).astype(np.int64), height, width] * 2, axis=1)
        return places

    def placed_blocks(self) -> Iterator[tuple[Block, Int64, Cells]]:
        """Yield all rows in path order with their places and their histograms on the grid."""
        if not self.has_places:
            raise Unanswerable(self.why_no_grid())
        start, gridded = 0, self.grid is not None
        for block in self.blocks():
            stop = start + len(block.path)
            cells = self.cells(start, stop, block.counts) if gridded else no_cells(stop - start)
            yield block, self.places(start, stop), cells
            start = stop

    def object_blocks(self) -> Iterator[tuple[Block, Objects | None]]:
        """Yield all rows in path order with their objects; with None unless `has_objects`."""
        start = 0
        for block in self.blocks():
            stop = start + len(block.path)
            yield block, self.objects(start, stop) if self.has_objects else None
            start = stop

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
        for first, columns in self.stored_chunks(tuple(SAMPLE_ARRAYS)):
            pixels = self.decoded("pixels", columns["pixels"].data)
            for start in range(0, len(pixels), ROWS_PER_CHUNK):
                chunk_pixels = pixels[start : start + ROWS_PER_CHUNK]
                stop = start + len(chunk_pixels)
                counts = self._counts(first + start, first + stop, chunk_pixels)
                if self.grid is not None:
                    self.cells(first + start, first + stop, counts)
                total += counts.sum(axis=0)
        if not np.array_equal(total, self.totals().pixels):
            raise self._damaged("counts", "does not add up to class_pixels")
        if self.grid is not None:
            self._verify_entries("grid_entries", "grid_tile", "grid_class_id", "grid_pixels")
        if self.has_objects:
            self._verify_entries("object_entries", "object_class_id", "object_pixels")
            self._verify_objects()
        if self.stores_places:
            self.array(PLACE)

    def _verify_objects(self) -> None:
        """Compare `objects` with the objects of each sample, and their sum with the totals."""
        class_id, count = self.totals().class_id, np.zeros(len(self.totals().class_id), np.int64)
        samples = len(self.array("object_entries"))
        for start in range(0, samples, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, samples)
            rows = self._slice("objects", slice(start, stop))
            if not np.array_equal(rows, self.objects(start, stop).dense(class_id)):
                raise self._damaged("objects", f"rows {start} to {stop - 1} differ from the objects")
            count += rows.sum(axis=0)
        objects = self.totals().objects
        if objects is None or not np.array_equal(objects.count, count):
            raise self._damaged("object_sizes", "does not add up to the objects")

    def _verify_entries(self, lengths: str, *names: str) -> None:
        """Compare arrays of entries with their digests, chunk by chunk."""
        entries = int(self._first_entries(lengths)[-1])
        for name in names:
            values = Digest()
            for start in range(0, entries, ENTRIES_PER_CHUNK):
                values.add(self._slice(name, slice(start, min(start + ENTRIES_PER_CHUNK, entries))))
            if values.hexdigest() != self._digests[name]:
                raise self._damaged(name, "does not match its digest")
