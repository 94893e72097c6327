"""The arrays of a version: their names, types and digests, as Zarr v3.

One immutable group a version, laid out as the table in `docs/how-it-works.md` says. Every array is
compressed with zstd *with its checksum*: without one, a flipped byte comes back as another count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

    from statsvc.store.versions.location import Location

ROWS_PER_CHUNK = 2048
"""Samples in one chunk of `counts`."""

VALUES_PER_CHUNK = 65536
"""Samples in one chunk of every other per-sample array."""

ATTRIBUTES = "statsvc"
"""The group attribute under which a version describes itself."""

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
"""Per-sample arrays: dtype and fill value. A lost chunk reads as the fill value, which no row holds."""

CLASS_ARRAYS: dict[str, tuple[str, ...]] = {
    "class_id": ("class",),
    "class_pixels": ("class",),
    "class_images": ("class",),
    # xarray refuses two axes of one name.
    "cooccurrence": ("present_class", "class"),
}
"""Per-class int64 arrays and their dimension names."""


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of an array; all but the per-sample ones are int64."""
    return SAMPLE_ARRAYS[name][0] if name in SAMPLE_ARRAYS else np.dtype("int64")


def create_group(place: Location, attributes: dict[str, Any]) -> zarr.Group:
    """Make a new Zarr group in a place that must not hold one yet. Raises `StoreError`."""
    with place.answering():
        return zarr.create_group(
            **place.zarr(read_only=False), zarr_format=3, attributes={ATTRIBUTES: attributes}
        )


def open_group(place: Location) -> zarr.Group:
    """Open a group for reading."""
    return zarr.open_group(**place.zarr(read_only=True), mode="r", zarr_format=3)


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
    fill_value: Any,
    dimensions: tuple[str, ...],
) -> zarr.Array[Any]:
    """Make one array as every version's are made."""
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype="string" if dtype == STRING else dtype,
        fill_value=fill_value,
        dimension_names=dimensions,
        compressors=[ZstdCodec(level=3, checksum=True)],
        # A chunk that happens to equal the fill value is written all the same: absent means lost.
        config={"write_empty_chunks": True},
    )


def chunk_of(array: zarr.Array[Any], number: int) -> Buffer | None:
    """Return a chunk of rows of a two-dimensional array as it is stored; None where it is lost."""
    place = array.store_path / array.metadata.encode_chunk_key((number, 0))
    return sync(place.get(default_buffer_prototype()))


def put_chunk(array: zarr.Array[Any], number: int, chunk: Buffer) -> None:
    """Store a chunk of rows that `chunk_of` returned for an array of the same type and columns."""
    sync((array.store_path / array.metadata.encode_chunk_key((number, 0))).set(chunk))


class Digest:
    """xxh3 (128 bits) of an array's values in order, the same however they arrive in pieces."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Add the next values: little-endian bytes of numbers, length-prefixed UTF-8 of strings."""
        if values.dtype == STRING:
            for start in range(0, len(values), VALUES_PER_CHUNK):
                self._add_texts(values[start : start + VALUES_PER_CHUNK])
        else:
            little = values.dtype.newbyteorder("<")
            self._hash.update(np.ascontiguousarray(values, little).tobytes())

    def _add_texts(self, values: np.ndarray[Any, Any]) -> None:
        if not values.astype(bool).any():
            self._hash.update(bytes(4 * len(values)))  # all are empty, as most errors are
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
