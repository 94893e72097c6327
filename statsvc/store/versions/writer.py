"""Write a version's arrays row by row in path order, and compute aggregates and digests on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from msgspec.structs import replace

from statsvc.dataset import objects as object_entries
from statsvc.dataset.grid import Cells, concatenate
from statsvc.dataset.histogram import Aggregator, Histogram
from statsvc.dataset.objects import ObjectAggregator, Objects
from statsvc.store.versions import zarr_files
from statsvc.store.versions.arrays import (
    ATTRIBUTES,
    CLASS_ARRAYS,
    ENTRIES_PER_CHUNK,
    GRID_ARRAYS,
    OBJECT_ARRAYS,
    PLACE,
    ROWS_PER_CHUNK,
    SAMPLE_ARRAYS,
    VALUES_PER_CHUNK,
    Digest,
    class_arrays,
    digest,
    dtype_of,
)
from statsvc.store.versions.zarr_files import STRING, StoredChunk, create_array, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.zarr_files import StoredArray


Columns: TypeAlias = "Mapping[str, np.ndarray[Any, Any] | StoredChunk]"


class VersionWriter:
    """Writes the arrays of one new group, which no reader sees before it is published.

    group     location of the new group
    class_id  int64 [C], the raw id of each column, ascending
    samples   number of rows that will be appended
    grid      the grid, and the number of entries of each sample, int64 [samples]; None without a grid
    objects   number of objects of each sample, int64 [samples]; None where they are unknown
    places    int64 [samples, 9], the `Place` of each sample; None to omit it
    """

    def __init__(
        self,
        group: Location,
        class_id: NDArray[np.int64],
        samples: int,
        attributes: dict[str, Any],
        grid: tuple[Grid, NDArray[np.int64]] | None = None,
        objects: NDArray[np.int64] | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self._group = group
        self._class_id, self._samples = class_id, samples
        self._total = Aggregator(len(class_id))
        self._digests = {name: Digest() for name in SAMPLE_ARRAYS}
        self._buffered: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in SAMPLE_ARRAYS}
        self._written = self._appended = self._flushed = 0  # rows of counts; of columns; and those written
        self.failed = 0
        zarr_files.create_group(group, {ATTRIBUTES: attributes})
        shape = (samples, len(class_id))
        self._counts = create_array(
            group, "counts", shape, ROWS_PER_CHUNK, np.dtype("int64"), -1, ("sample", "class")
        )
        self._arrays = {
            name: create_array(group, name, (samples,), VALUES_PER_CHUNK, dtype, fill, ("sample",))
            for name, (dtype, fill) in SAMPLE_ARRAYS.items()
        }
        self._grid = None if grid is None else _GridWriter(group, *grid)
        self._objects = None if objects is None else _ObjectWriter(group, class_id, objects)
        self._place_digest = {}
        if places is not None:
            place = create_array(
                group, PLACE, places.shape, VALUES_PER_CHUNK, np.dtype("int64"), -1, ("sample", "axis")
            )
            place.write(0, places)
            self._place_digest = {PLACE: digest(places)}

    def append_cells(self, cells: Cells) -> None:
        """Write the histograms on the grid of the next samples; may be called before or after `append`."""
        assert self._grid is not None
        self._grid.append(cells)

    def append_objects(self, objects: Objects) -> None:
        """Write the objects of the next chunk of samples; may be called before or after `append`."""
        assert self._objects is not None
        self._objects.append(objects)

    def append(self, columns: Mapping[str, np.ndarray[Any, Any]], counts: NDArray[np.int64]) -> None:
        """Write the next rows: exactly one chunk of `ROWS_PER_CHUNK` rows, or fewer in the last call.

        columns  every array of `SAMPLE_ARRAYS`, each [n]
        counts   int64 [n, C], pixels; zeros for an unreadable sample
        """
        self.append_counts(counts, columns["status"])
        self.append_columns(columns, len(counts))

    def append_counts(self, counts: NDArray[np.int64], status: NDArray[np.uint8]) -> None:
        """Write the counts of the next rows, as `append` does."""
        self._counts.write(self._written, counts)
        self._total.add(counts[status == 0])
        self._written += len(counts)

    def append_chunk(self, chunk: bytes) -> None:
        """Write the next chunk of counts, which `Version.chunk` of a version with the same raw ids returned.

        A call of `add` must include its totals.
        """
        number, rest = divmod(self._written, ROWS_PER_CHUNK)
        if rest:
            raise AssertionError("a compressed chunk can only follow complete chunks")
        self._counts.write_compressed(number, chunk)
        self._written += self._counts.length(number)

    def add(self, totals: Histogram, sign: int = 1) -> None:
        """Add the totals of rows whose counts were not passed to `append`; subtract them with sign −1."""
        assert totals.images is not None
        assert totals.cooccurrence is not None
        assert totals.samples is not None
        self._total.pixels += sign * totals.pixels
        self._total.images += sign * totals.images
        self._total.cooccurrence += sign * totals.cooccurrence
        self._total.samples += sign * totals.samples

    def append_columns(self, columns: Columns, n: int) -> None:
        """Write the columns of the next n rows.

        A `StoredChunk` has all rows of a chunk; it can only follow complete chunks, as can the other columns
        of the same call.
        """
        self._appended += n
        for name, (dtype, _fill) in SAMPLE_ARRAYS.items():
            column = columns[name]
            if isinstance(column, StoredChunk):
                assert not self._buffered[name]
                self._digests[name].add(column.data)
                self._arrays[name].write_compressed(self._flushed // VALUES_PER_CHUNK, column.compressed)
                if name == "status":
                    self.failed += n - column.data.count(0)
            else:
                self._buffered[name].append(np.asarray(column, dtype))
        if self._appended - self._flushed >= VALUES_PER_CHUNK:
            self._flush()

    def _flush(self) -> None:
        for name, buffered in self._buffered.items():
            if buffered:
                values = buffered[0] if len(buffered) == 1 else np.concatenate(buffered)
                data = encoded(values)
                self._digests[name].add(data)
                self._arrays[name].write(self._flushed, data if values.dtype == STRING else values)
                if name == "status":
                    self.failed += int(np.count_nonzero(values))
                buffered.clear()
        self._flushed = self._appended

    def finish(self) -> tuple[Histogram, dict[str, str]]:
        """Write what is buffered; return the totals and the digest of every array except `counts`."""
        if not self._written == self._appended == self._samples:
            raise AssertionError(
                f"{self._written} and {self._appended} of {self._samples} rows were appended"
            )
        self._flush()
        totals = self._total.histogram(self._class_id)
        if self._objects is not None:
            totals = replace(totals, objects=self._objects.totals.totals())
        digests = {name: values.hexdigest() for name, values in self._digests.items()}
        digests |= write_totals(self._group, totals) | self._place_digest
        if self._grid is not None:
            digests |= self._grid.finish()
        if self._objects is not None:
            digests |= self._objects.finish()
        return totals, digests


class _GridWriter:
    """Writes the arrays of `GRID_ARRAYS`.

    lengths  int64 [samples], number of entries of each sample
    """

    def __init__(self, group: Location, grid: Grid, lengths: NDArray[np.int64]) -> None:
        whole = {"grid_shape": np.array(grid, np.int64), "grid_entries": lengths}
        self._digests = {name: Digest() for name in GRID_ARRAYS}
        self._entries = int(lengths.sum())
        self._dtypes = {name: dtype for name, (dtype, _) in GRID_ARRAYS.items()}
        if grid.tiles * max(1, grid.depth) <= 1 << 8:
            self._dtypes["grid_tile"] = np.dtype("uint8")
        self._arrays: dict[str, StoredArray] = {}
        for name, dtype in self._dtypes.items():
            length = len(whole[name]) if name in whole else self._entries
            chunk = VALUES_PER_CHUNK if name in whole else ENTRIES_PER_CHUNK
            fill = int(np.iinfo(dtype).max) if dtype.kind == "u" else -1
            array = create_array(group, name, (length,), chunk, dtype, fill, (GRID_ARRAYS[name][1],))
            if name in whole:
                array.write(0, whole[name])
                self._digests[name].add(whole[name])
            else:
                self._arrays[name] = array
        self._buffered: list[Cells] = []
        self._written = self._waiting = 0

    def append(self, cells: Cells) -> None:
        """Buffer the entries of the next samples, and write the chunks that are complete."""
        self._buffered.append(cells)
        self._waiting += len(cells.tile)
        if self._waiting >= ENTRIES_PER_CHUNK:
            self._write(self._waiting // ENTRIES_PER_CHUNK * ENTRIES_PER_CHUNK)

    def finish(self) -> dict[str, str]:
        """Write what is buffered; return the digest of every array."""
        self._write(self._waiting)
        if self._written != self._entries:
            raise AssertionError(f"{self._written} of {self._entries} entries were appended")
        return {name: values.hexdigest() for name, values in self._digests.items()}

    def _write(self, count: int) -> None:
        cells = concatenate(self._buffered)
        columns = {"grid_tile": cells.tile, "grid_class_id": cells.class_id, "grid_pixels": cells.pixels}
        for name, values in columns.items():
            if count:
                stored = values[:count].astype(self._dtypes[name])
                self._arrays[name].write(self._written, stored)
                self._digests[name].add(stored)
        rest = slice(count, None)
        self._buffered = [
            Cells(np.zeros(0, np.int64), cells.tile[rest], cells.class_id[rest], cells.pixels[rest])
        ]
        self._written, self._waiting = self._written + count, self._waiting - count


class _ObjectWriter:
    """Writes the arrays of `OBJECT_ARRAYS`, and aggregates them in `totals`.

    class_id  int64 [C], the raw id of each column, ascending
    lengths   int64 [samples], number of objects of each sample
    """

    def __init__(self, group: Location, class_id: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        samples, entries = len(lengths), int(lengths.sum())
        layout = {
            "objects": ((samples, len(class_id)), ROWS_PER_CHUNK),
            "object_entries": ((samples,), VALUES_PER_CHUNK),
            "object_class_id": ((entries,), ENTRIES_PER_CHUNK),
            "object_pixels": ((entries,), ENTRIES_PER_CHUNK),
        }
        self._arrays = {
            name: create_array(group, name, shape, rows, np.dtype("int64"), -1, OBJECT_ARRAYS[name])
            for name, (shape, rows) in layout.items()
        }
        self._arrays["object_entries"].write(0, lengths)
        self._digests = {name: Digest() for name in OBJECT_ARRAYS}
        self._digests["object_entries"].add(lengths)
        self.totals = ObjectAggregator(len(class_id))
        self._class_id, self._entries = class_id, entries
        self._samples = self._written = 0
        self._buffered: list[Objects] = []

    def append(self, objects: Objects) -> None:
        """Write the objects of the next samples, and buffer them until a chunk is complete."""
        dense, stop = objects.dense(self._class_id), self._samples + len(objects.lengths)
        self._arrays["objects"].write(self._samples, dense)
        self._digests["objects"].add(dense)
        self._samples = stop
        self.totals.add(np.searchsorted(self._class_id, objects.class_id), objects.pixels)
        self._buffered.append(objects)
        waiting = sum(len(each.pixels) for each in self._buffered)
        if waiting >= ENTRIES_PER_CHUNK:
            self._write(waiting // ENTRIES_PER_CHUNK * ENTRIES_PER_CHUNK)

    def finish(self) -> dict[str, str]:
        """Write what is buffered; return the digest of every array."""
        self._write(self._entries - self._written)
        return {name: values.hexdigest() for name, values in self._digests.items()}

    def _write(self, count: int) -> None:
        waiting = object_entries.concatenate(self._buffered)
        for name, values in (("object_class_id", waiting.class_id), ("object_pixels", waiting.pixels)):
            if count:
                self._arrays[name].write(self._written, values[:count])
                self._digests[name].add(values[:count])
        self._written += count
        rest = slice(count, None)
        self._buffered = [Objects(np.zeros(0, np.int64), waiting.class_id[rest], waiting.pixels[rest])]


def write_totals(group: Location, totals: Histogram) -> dict[str, str]:
    """Write the per-class arrays that are known to a group; return their digests."""
    digests = {}
    for name, array in class_arrays(totals).items():
        stored = create_array(
            group, name, array.shape, max(1, len(array)), dtype_of(name), -1, CLASS_ARRAYS[name]
        )
        stored.write(0, array)
        digests[name] = digest(array)
    return digests


def strings(values: Sequence[str] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return strings as a NumPy array of variable-width `StringDType`."""
    return np.array(values, STRING)
