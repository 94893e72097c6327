"""The arrays of a version: their names, types and digests, as Zarr v3.

Each version is one immutable group, laid out as in the table of `docs/explanation/architecture.md`. Every
array is compressed with zstd *and its checksum*: without the checksum, a flipped bit silently becomes a
wrong count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from statsvc.dataset.objects import ObjectTotals
from statsvc.store.versions.intact import SAMPLE_TYPES
from statsvc.store.versions.stored_bytes import TEXT
from statsvc.store.versions.zarr_files import STRING, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.histogram import Histogram

ROWS_PER_CHUNK = 2048
"""Samples in one chunk of `counts`."""

VALUES_PER_CHUNK = 65536
"""Samples in one chunk of every other per-sample array."""

ATTRIBUTES = "statsvc"
"""The group attribute that holds a version's description."""

SAMPLE_ARRAYS: dict[str, tuple[np.dtype[Any], Any]] = {
    name: (STRING if data_type == TEXT else np.dtype(data_type), fill)
    for name, (data_type, fill) in SAMPLE_TYPES.items()
}
"""The per-sample arrays of `SAMPLE_TYPES` with their dtypes and fill values."""

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
    "grid_tile": (np.dtype("uint16"), "entry"),
    "grid_class_id": (np.dtype("int64"), "entry"),
    "grid_pixels": (np.dtype("int64"), "entry"),
}
"""Arrays of a version with histograms on a grid: dtype and dimension name.

`grid_shape` has the rows, columns and depth of the grid, `grid_entries` the number of entries of each sample.
The other arrays have one value per entry, in the order of samples, ids and tiles. `grid_tile` is uint8 where
that is enough.
"""

PLACE = "place"
"""int64 [sample, 9], the `Place` of each sample. Only in versions with samples that are volumes or parts of
arrays, if they were counted on a grid or by `rows`."""

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


class Digest:
    """xxh3 (128 bits) of an array's values in order, however they are split into calls of `add`."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, values: np.ndarray[Any, Any] | bytes) -> None:
        """Add the next values, or what `zarr_files.encoded` returns for them."""
        self._hash.update(values if isinstance(values, bytes) else encoded(values))

    def hexdigest(self) -> str:
        """Return the digest as 32 hexadecimal digits."""
        return self._hash.hexdigest()


def digest(values: np.ndarray[Any, Any]) -> str:
    """Return the digest of a whole array."""
    whole = Digest()
    whole.add(values)
    return whole.hexdigest()
