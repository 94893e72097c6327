"""Write a version's arrays row by row in path order, and compute aggregates and digests on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import objects as object_entries
from statsvc.dataset.grid import Cells, concatenate
from statsvc.dataset.objects import ObjectAggregator, Objects
from statsvc.dataset.table import Aggregator, Histogram
from statsvc.store.versions.arrays import (
    CLASS_ARRAYS,
    ENTRIES_PER_CHUNK,
    GRID_ARRAYS,
    OBJECT_ARRAYS,
    ROWS_PER_CHUNK,
    SAMPLE_ARRAYS,
    STRING,
    VALUES_PER_CHUNK,
    Digest,
    class_arrays,
    create_array,
    create_group,
    digest,
    dtype_of,
    write_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr
    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

    from statsvc.dataset.grid import Grid
    from statsvc.store.versions.location import Location


class VersionWriter:
    """Writes the arrays of one new group, which no reader sees before it is published.

    group     location of the new group
    class_id  int64 [C], the raw id of each column, ascending
    samples   number of rows that will be appended
    grid      the grid, and the number of entries of each sample, int64 [samples]; None without a grid
    objects   number of objects of each sample, int64 [samples]; None where they are unknown
    """

    def __init__(
        self,
        group: Location,
        class_id: NDArray[np.int64],
        samples: int,
        attributes: dict[str, Any],
        grid: tuple[Grid, NDArray[np.int64]] | None = None,
        objects: NDArray[np.int64] | None = None,
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
            self._grid = None if grid is None else _GridWriter(self._group, *grid)
            self._objects = None if objects is None else _ObjectWriter(self._group, class_id, objects)

    def append_cells(self, cells: Cells) -> None:
        """Write the histograms on the grid of the next samples; may be called before or after `append`."""
        assert self._grid is not None
        with self._location.translated_errors():
            self._grid.append(cells)

    def append_objects(self, objects: Objects) -> None:
        """Write the objects of the next chunk of samples; may be called before or after `append`."""
        assert self._objects is not None
        with self._location.translated_errors():
            self._objects.append(objects)

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
        if self._objects is not None:
            totals = replace(totals, objects=self._objects.totals.totals())
        digests = {name: values.hexdigest() for name, values in self._digests.items()}
        with self._location.translated_errors():
            digests |= write_totals(self._group, totals)
            if self._grid is not None:
                digests |= self._grid.finish()
            if self._objects is not None:
                digests |= self._objects.finish()
        return totals, digests


class _GridWriter:
    """Writes the arrays of `GRID_ARRAYS`.

    lengths  int64 [samples], number of entries of each sample
    """

    def __init__(self, group: zarr.Group, grid: Grid, lengths: NDArray[np.int64]) -> None:
        whole = {"grid_shape": np.array(grid, np.int64), "grid_entries": lengths}
        self._digests = {name: Digest() for name in GRID_ARRAYS}
        self._entries = int(lengths.sum())
        self._arrays: dict[str, Any] = {}
        for name, (dtype, dimension) in GRID_ARRAYS.items():
            length = len(whole[name]) if name in whole else self._entries
            chunk = VALUES_PER_CHUNK if name in whole else ENTRIES_PER_CHUNK
            fill = np.iinfo(dtype).max if dtype.kind == "u" else -1
            array = create_array(group, name, (length,), (chunk,), dtype, fill, (dimension,))
            if name in whole:
                array[...] = whole[name]
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
                stored = values[:count].astype(GRID_ARRAYS[name][0])
                self._arrays[name][self._written : self._written + count] = stored
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

    def __init__(self, group: zarr.Group, class_id: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        samples, entries = len(lengths), int(lengths.sum())
        columns = max(1, len(class_id))
        layout = {
            "objects": ((samples, len(class_id)), (ROWS_PER_CHUNK, columns)),
            "object_entries": ((samples,), (VALUES_PER_CHUNK,)),
            "object_class_id": ((entries,), (ENTRIES_PER_CHUNK,)),
            "object_pixels": ((entries,), (ENTRIES_PER_CHUNK,)),
        }
        self._arrays = {
            name: create_array(group, name, shape, chunks, np.dtype("int64"), -1, OBJECT_ARRAYS[name])
            for name, (shape, chunks) in layout.items()
        }
        self._arrays["object_entries"][...] = lengths
        self._digests = {name: Digest() for name in OBJECT_ARRAYS}
        self._digests["object_entries"].add(lengths)
        self.totals = ObjectAggregator(len(class_id))
        self._class_id, self._entries = class_id, entries
        self._samples = self._written = 0
        self._buffered: list[Objects] = []

    def append(self, objects: Objects) -> None:
        """Write the objects of the next samples, and buffer them until a chunk is complete."""
        dense, stop = objects.dense(self._class_id), self._samples + len(objects.lengths)
        self._arrays["objects"][self._samples : stop] = dense
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
                self._arrays[name][self._written : self._written + count] = values[:count]
                self._digests[name].add(values[:count])
        self._written += count
        rest = slice(count, None)
        self._buffered = [Objects(np.zeros(0, np.int64), waiting.class_id[rest], waiting.pixels[rest])]


def write_totals(group: Any, totals: Histogram) -> dict[str, str]:
    """Write the per-class arrays that are known to a Zarr group; return their digests."""
    digests = {}
    for name, array in class_arrays(totals).items():
        stored = create_array(
            group,
            name,
            array.shape,
            tuple(max(1, size) for size in array.shape),
            dtype_of(name),
            -1,
            CLASS_ARRAYS[name],
        )
        stored[...] = array
        digests[name] = digest(array)
    return digests


def strings(values: Sequence[str] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return strings as a NumPy array of variable-width `StringDType`."""
    return np.array(values, STRING)
