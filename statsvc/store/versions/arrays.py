"""The arrays of a version: their names, types and digests, as Zarr v3.

Each version is one immutable group, laid out as in the table of `docs/explanation/architecture.md`. Every
array is compressed with zstd *and its checksum*: without the checksum, a flipped bit silently becomes a
wrong count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from statsvc.dataset.objects import ObjectTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.core.buffer import Buffer

    from statsvc.dataset.table import Histogram
    from statsvc.store.versions.location import Location

ROWS_PER_CHUNK = 2048
"""Samples in one chunk of `counts`."""

VALUES_PER_CHUNK = 65536
"""Samples in one chunk of every other per-sample array."""

ATTRIBUTES = "statsvc"
"""The group attribute that holds a version's description."""

STRING = np.dtypes.StringDType()

SAMPLE_ARRAYS: dict[str, tuple[np.dtype[Any], Any]] = {
    "path": (STRING, "\0"),
    "size": (np.dtype("int64"), -1),
    "mtime_ns": (np.dtype("int64"), -1),
    "ctime_ns": (np.dtype("int64"), -1),
    "etag": (STRING, "\0"),
    "content": (np.dtype("uint64"), 0),
    "height": (np.dtype("int64"), -1),
    "width": (np.dtype("int64"), -1),
    "pixels": (np.dtype("int64"), -1),
    "mode": (np.dtype("uint8"), 255),
    "status": (np.dtype("uint8"), 255),
    "error": (STRING, "\0"),
}
"""Per-sample arrays: dtype and fill value. A lost chunk reads as the fill value, which is never valid."""

CLASS_ARRAYS: dict[str, tuple[str, ...]] = {
    "class_id": ("class",),
    "class_pixels": ("class",),
    "class_images": ("class",),
    # xarray rejects an array with two dimensions of the same name.
    "cooccurrence": ("present_class", "class"),
    "object_sizes": ("class", "object_size"),
    "object_smallest": ("class",),
    "object_median": ("class",),
}
"""Per-class arrays and their dimension names. Those of objects exist where the source numbers them."""


GRID_ARRAYS: dict[str, tuple[np.dtype[Any], str]] = {
    "grid_shape": (np.dtype("int64"), "side"),
    "grid_entries": (np.dtype("int64"), "sample"),
    "grid_tile": (np.dtype("uint8"), "entry"),
    "grid_class_id": (np.dtype("int64"), "entry"),
    "grid_pixels": (np.dtype("int64"), "entry"),
}
"""Arrays of a version with histograms on a grid: dtype and dimension name.

`grid_shape` has the rows and columns of the grid, `grid_entries` the number of entries of each sample. The
other arrays have one value per entry, in the order of samples, ids and tiles.
"""

OBJECT_ARRAYS = {
    "objects": ("sample", "class"),
    "object_entries": ("sample",),
    "object_class_id": ("object",),
    "object_pixels": ("object",),
}
"""Per-sample int64 arrays of a version with objects and their dimension names.

`objects` is the number of objects of each raw id in each sample, `object_entries` that of all ids. The others
have one value per object, in the order of samples, ids and sizes.
"""

ENTRIES_PER_CHUNK = 1 << 18
"""Entries in one chunk of each array of entries."""


OBJECT_TOTALS = ("sizes", "smallest", "median")
"""Fields of `ObjectTotals`, which are stored as `object_sizes` and so on."""


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of an array; every array that is in no table is int64."""
    if name == "object_median":
        return np.dtype("float64")
    tables = (SAMPLE_ARRAYS, GRID_ARRAYS)
    return next((table[name][0] for table in tables if name in table), np.dtype("int64"))


def class_arrays(totals: Histogram) -> dict[str, np.ndarray[Any, Any]]:
    """Return the per-class arrays that are known, by the names of `CLASS_ARRAYS`."""
    arrays: dict[str, np.ndarray[Any, Any] | None] = {
        "class_id": totals.class_id,
        "class_pixels": totals.pixels,
        "class_images": totals.images,
        "cooccurrence": totals.cooccurrence,
    }
    if totals.objects is not None:
        arrays |= {f"object_{name}": getattr(totals.objects, name) for name in OBJECT_TOTALS}
    return {name: values for name, values in arrays.items() if values is not None}


def object_totals(arrays: Mapping[str, np.ndarray[Any, Any]]) -> ObjectTotals | None:
    """Return the totals of objects from the arrays that `class_arrays` returns; None without them."""
    if "object_sizes" not in arrays:
        return None
    return ObjectTotals(*(arrays[f"object_{name}"] for name in OBJECT_TOTALS))


def create_group(location: Location, attributes: dict[str, Any]) -> zarr.Group:
    """Create a new Zarr group at a location that must not contain one yet. Raises `StoreError`."""
    with location.translated_errors():
        return zarr.create_group(
            **location.zarr(read_only=False), zarr_format=3, attributes={ATTRIBUTES: attributes}
        )


def open_group(location: Location) -> zarr.Group:
    """Open a group for reading."""
    return zarr.open_group(**location.zarr(read_only=True), mode="r", zarr_format=3)


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
    fill_value: Any,
    dimensions: tuple[str, ...],
) -> zarr.Array[Any]:
    """Create one array with the codecs and settings of every version."""
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype="string" if dtype == STRING else dtype,
        fill_value=fill_value,
        dimension_names=dimensions,
        compressors=[ZstdCodec(level=3, checksum=True)],
        # Write a chunk even if it equals the fill value, so that a missing chunk always means lost data.
        config={"write_empty_chunks": True},
    )


def read_chunk(array: zarr.Array[Any], number: int) -> Buffer | None:
    """Return a chunk of rows of a two-dimensional array, compressed; None if it is missing."""
    path = array.store_path / array.metadata.encode_chunk_key((number, 0))
    return sync(path.get(default_buffer_prototype()))


def write_chunk(array: zarr.Array[Any], number: int, chunk: Buffer) -> None:
    """Write a compressed chunk that `read_chunk` returned for an array of the same dtype and columns."""
    sync((array.store_path / array.metadata.encode_chunk_key((number, 0))).set(chunk))


class Digest:
    """xxh3 (128 bits) of an array's values in order, however they are split into calls of `add`."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Add the next values: little-endian bytes of numbers, length-prefixed UTF-8 of strings."""
        if values.dtype == STRING:
            for start in range(0, len(values), VALUES_PER_CHUNK):
                self._add_strings(values[start : start + VALUES_PER_CHUNK])
        else:
            little = values.dtype.newbyteorder("<")
            self._hash.update(np.ascontiguousarray(values, little).tobytes())

    def _add_strings(self, values: np.ndarray[Any, Any]) -> None:
        if not values.astype(bool).any():
            self._hash.update(bytes(4 * len(values)))  # fast path: most `error` arrays are empty
            return
        for text in values.tolist():
            data = text.encode()
            self._hash.update(len(data).to_bytes(4, "little") + data)

    def hexdigest(self) -> str:
        """Return the digest as 32 hexadecimal digits."""
        return self._hash.hexdigest()


def digest(values: np.ndarray[Any, Any]) -> str:
    """Return the digest of a whole array."""
    whole = Digest()
    whole.add(values)
    return whole.hexdigest()
