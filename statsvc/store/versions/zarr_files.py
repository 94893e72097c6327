"""Read and write the arrays of versions with NumPy, in the format that `stored_bytes` describes.

The zarr package reads and writes the same files, but importing it takes longer than scanning a small dataset.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard
from msgspec import Struct

from statsvc.store.versions import stored_bytes
from statsvc.store.versions.stored_bytes import LENGTH_BYTES, METADATA, TEXT, StoredBytes, encoded_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statsvc.store.versions.location import Location

STRING = np.dtypes.StringDType()

LEVEL = 3
"""Level of zstd."""

_BYTE_ORDER = {"name": "bytes", "configuration": {"endian": "little"}}
_STRINGS = {"name": "vlen-utf8", "configuration": {}}
_COMPRESSION = {"name": "zstd", "configuration": {"level": LEVEL, "checksum": True}}


def create_group(location: Location, attributes: dict[str, Any]) -> None:
    """Create a group at a location that must not contain one yet. Raises `FileExistsError`, `StoreError`."""
    values = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (location / METADATA).write_new(text.encode(), exclusive=True)


class StoredChunk(Struct, frozen=True):
    """A chunk of an array that is copied from another version.

    data        its rows as `encoded` returns them
    compressed  the chunk as it is stored
    """

    data: bytes
    compressed: bytes


class StoredArray(StoredBytes, frozen=True):
    """An array of a group, of NumPy's values."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return STRING if self.data_type == TEXT else np.dtype(self.data_type)

    def write(self, first: int, values: np.ndarray[Any, Any] | bytes) -> None:
        """Write rows from a row on that begins a chunk: an array, or what `encoded` returned for them."""
        if first % self.rows:
            raise AssertionError(f"row {first} does not begin a chunk of {self.rows} rows")
        if isinstance(values, bytes):  # strings: one chunk at most, because their positions are unknown
            self._write_chunk(first // self.rows, values, self.length(first // self.rows))
            return
        for start in range(0, len(values) if all(self.shape) else 0, self.rows):
            rows = values[start : start + self.rows]
            self._write_chunk((first + start) // self.rows, encoded(rows), len(rows))

    def _write_chunk(self, number: int, data: bytes, length: int) -> None:
        parts = [data]
        if self.data_type == TEXT:
            parts = [self.rows.to_bytes(LENGTH_BYTES, "little"), data]
        if length < self.rows:
            parts.append(self._padding(self.rows - length))
        compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)
        self.write_compressed(number, compressor.compress(b"".join(parts) if len(parts) > 1 else data))

    def _padding(self, rows: int) -> bytes:
        return encoded(np.full((1, *self.shape[1:]), self.fill, self.dtype)) * rows

    def write_compressed(self, number: int, chunk: bytes) -> None:
        """Write a chunk in compressed form."""
        (self.location / self.chunk_name(number)).write_new(chunk)

    def decode(self, data: bytes) -> np.ndarray[Any, Any]:
        """Return encoded rows as an array [rows, …]. Raises `ValueError`."""
        if self.data_type == TEXT:
            return decoded_strings(data)
        values = np.frombuffer(data, self.dtype.newbyteorder("<")).astype(self.dtype, copy=False)
        return values.reshape((-1, *self.shape[1:]))

    def read(
        self, start: int = 0, stop: int | None = None, seen: Callable[[bytes], None] = lambda _data: None
    ) -> np.ndarray[Any, Any]:
        """Return the rows [start, stop). Raises `OSError`, `ValueError`, `StoreError`.

        seen  called with the encoded rows of each chunk that is read
        """
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        if start >= stop or not self.chunks:
            return np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        first, last = start // self.rows, -(-stop // self.rows)
        parts = []
        for number, chunk in enumerate(self.compressed(first, last), first):
            data = self.data(number, chunk)
            seen(data)
            parts.append(self.decode(data))
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole[start - first * self.rows : stop - first * self.rows]


def create_array(
    group: Location,
    name: str,
    shape: tuple[int, ...],
    rows: int,
    dtype: np.dtype[Any],
    fill: Any,
    dimensions: tuple[str, ...],
) -> StoredArray:
    """Create an array in a group: one or two dimensions, in chunks of `rows` rows. Raises `StoreError`."""
    data_type = TEXT if dtype == STRING else dtype.name
    codec = _STRINGS if dtype == STRING else _BYTE_ORDER if dtype.itemsize > 1 else {"name": "bytes"}
    metadata = {
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": (rows, *(max(1, size) for size in shape[1:]))},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [codec, _COMPRESSION],
        "attributes": {},
        "dimension_names": dimensions,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    location = group / name
    (location / METADATA).write_new(json.dumps(metadata, indent=2).encode())
    return StoredArray(location, shape, rows, data_type, fill)


def open_array(group: Location, name: str) -> StoredArray:
    """Read the metadata of an array. Raises as `stored_bytes.open_array` does."""
    return stored_bytes.open_array(group, name, StoredArray)


def encoded(values: np.ndarray[Any, Any] | Sequence[str]) -> bytes:
    """Return numbers as little-endian bytes, strings as length-prefixed UTF-8."""
    if isinstance(values, np.ndarray) and values.dtype != STRING:
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return encoded_strings(values.tolist() if isinstance(values, np.ndarray) else values)


def decoded_strings(data: bytes) -> np.ndarray[Any, Any]:
    """Return length-prefixed strings as a `StringDType` array. Raises `ValueError`."""
    if data.count(0) == len(data):
        return np.full(len(data) // LENGTH_BYTES, "", STRING)
    texts = []
    at, end, from_bytes = 0, len(data), int.from_bytes
    while at < end:
        start = at + LENGTH_BYTES
        at = start + from_bytes(data[at:start], "little")
        texts.append(data[start:at])
    if at != end:
        raise ValueError(f"the last string ends at byte {at} of {end}")
    return np.array([text.decode() for text in texts], STRING)
