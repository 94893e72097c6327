"""The part of the Zarr v3 format in which versions are stored, on any `Location`.

Arrays are divided into chunks along their first axis only. A chunk is encoded as plain bytes, or as strings
with their lengths, and then compressed with zstd and its checksum. The zarr package reads and writes the same
files, but importing it takes longer than scanning a small dataset.
Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html,
https://github.com/zarr-developers/zarr-extensions/tree/main/codecs/vlen-utf8 and /zstd.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from statsvc.store.versions.location import Location

METADATA = "zarr.json"

STRING = np.dtypes.StringDType()

LEVEL = 3
"""Level of zstd."""

MAX_CHUNK_BYTES = 1 << 30
"""Largest decompressed chunk of strings: the size that a damaged chunk declares is allocated."""

READ_BYTES = 32 << 20
"""Approximate bytes of chunks that are requested together."""

_LENGTH_BYTES = 4
_BYTE_ORDER = {"name": "bytes", "configuration": {"endian": "little"}}
_STRINGS = {"name": "vlen-utf8", "configuration": {}}
_COMPRESSION = {"name": "zstd", "configuration": {"level": LEVEL, "checksum": True}}


def create_group(location: Location, attributes: dict[str, Any]) -> None:
    """Create a group at a location that must not contain one yet. Raises `FileExistsError`, `StoreError`."""
    values = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (location / METADATA).write_new(text.encode(), exclusive=True)


def check_group(location: Location) -> None:
    """Read the metadata of a group. Raises `ValueError` where it is not one, `OSError`, `StoreError`."""
    metadata = json.loads((location / METADATA).read())
    if not isinstance(metadata, dict) or metadata.get("node_type") != "group":
        raise ValueError(f"{METADATA} does not describe a group")


class StoredChunk(Struct, frozen=True):
    """A chunk of an array that is copied from another version.

    data        its rows as `encoded` returns them
    compressed  the chunk as it is stored
    """

    data: bytes
    compressed: bytes


class StoredArray(Struct, frozen=True):
    """An array of a group.

    shape  number of rows, and of columns if it has two dimensions
    rows   rows of a chunk
    fill   value of the rows after the last one in the last chunk
    """

    location: Location
    shape: tuple[int, ...]
    rows: int
    dtype: np.dtype[Any]
    fill: Any

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // self.rows) if all(self.shape) else 0

    def length(self, number: int) -> int:
        """Return the number of rows of a chunk, without those after the last row of the array."""
        return min(self.rows, self.shape[0] - number * self.rows)

    def chunk_name(self, number: int) -> str:
        """Return the path of a chunk below the array."""
        return "/".join(("c", str(number), *("0" for _ in self.shape[1:])))

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
        if self.dtype == STRING:
            parts = [self.rows.to_bytes(_LENGTH_BYTES, "little"), data]
        if length < self.rows:
            parts.append(self._padding(self.rows - length))
        compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)
        self.write_compressed(number, compressor.compress(b"".join(parts) if len(parts) > 1 else data))

    def _padding(self, rows: int) -> bytes:
        return encoded(np.full((1, *self.shape[1:]), self.fill, self.dtype)) * rows

    def write_compressed(self, number: int, chunk: bytes) -> None:
        """Write a chunk in compressed form."""
        (self.location / self.chunk_name(number)).write_new(chunk)

    def compressed(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the chunks [start, stop) in compressed form. Raises `FileNotFoundError` for a missing one."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        together = max(1, READ_BYTES // (self.rows * row_bytes))
        for first in range(start, stop, together):
            names = [self.chunk_name(number) for number in range(first, min(first + together, stop))]
            yield from self.location.read_all(names)

    def data(self, number: int, chunk: bytes) -> bytes:
        """Return the encoded rows of a compressed chunk, as `encoded` would, without its padding.

        Raises `ValueError` for a damaged chunk.
        """
        length = self.length(number)
        try:
            size = zstandard.frame_content_size(chunk)
            self._check_size(size)
            # A context for each call: it must not be shared among threads.
            data = zstandard.ZstdDecompressor().decompress(
                chunk, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise ValueError(f"chunk {number} is damaged: {error}") from None
        if self.dtype != STRING:
            return data if length == self.rows else data[: len(data) // self.rows * length]
        if int.from_bytes(data[:_LENGTH_BYTES], "little") != self.rows:
            raise ValueError(f"chunk {number} does not have {self.rows} strings")
        padding = self._padding(self.rows - length)
        if not data.endswith(padding):
            raise ValueError(f"chunk {number} does not end in its fill value")
        return data[_LENGTH_BYTES : len(data) - len(padding)]

    def _check_size(self, size: int) -> None:
        """Check the decompressed size that a chunk declares, before it is allocated."""
        if self.dtype == STRING:
            expected = _LENGTH_BYTES * (1 + self.rows) <= size <= MAX_CHUNK_BYTES
        else:
            expected = size == self.rows * self.dtype.itemsize * int(np.prod(self.shape[1:]))
        if not expected:
            raise ValueError(f"a chunk has {size} bytes, which is not its size")

    def decode(self, data: bytes) -> np.ndarray[Any, Any]:
        """Return encoded rows as an array [rows, …]. Raises `ValueError`."""
        if self.dtype == STRING:
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
    codec = _STRINGS if dtype == STRING else _BYTE_ORDER if dtype.itemsize > 1 else {"name": "bytes"}
    metadata = {
        "shape": shape,
        "data_type": "string" if dtype == STRING else dtype.name,
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
    return StoredArray(location, shape, rows, dtype, fill)


def open_array(group: Location, name: str) -> StoredArray:
    """Read the metadata of an array.

    Raises `ValueError` where it is not an array as `create_array` creates it, `OSError`, and `StoreError`.
    """
    location = group / name
    metadata = json.loads((location / METADATA).read())
    try:
        shape = tuple(map(int, metadata["shape"]))
        rows, *columns = map(int, metadata["chunk_grid"]["configuration"]["chunk_shape"])
        is_text = metadata["data_type"] == "string"
        dtype = STRING if is_text else np.dtype(metadata["data_type"])
        codecs = [codec["name"] for codec in metadata["codecs"]]
        as_written = (
            metadata["zarr_format"] == 3
            and metadata["node_type"] == "array"
            and metadata["chunk_grid"]["name"] == "regular"
            and columns == [max(1, size) for size in shape[1:]]
            and min(shape) >= 0
            and rows > 0
            and codecs == ["vlen-utf8" if is_text else "bytes", "zstd"]
            and dtype.kind in "iufT"
        )
        fill = metadata["fill_value"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{METADATA} is damaged ({type(error).__name__}: {error})") from None
    if not as_written:
        raise ValueError(f"{METADATA} describes another kind of array")
    return StoredArray(location, shape, rows, dtype, fill)


def encoded(values: np.ndarray[Any, Any] | Sequence[str]) -> bytes:
    """Return numbers as little-endian bytes, strings as length-prefixed UTF-8."""
    if isinstance(values, np.ndarray) and values.dtype != STRING:
        return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    texts = values.tolist() if isinstance(values, np.ndarray) else values
    if not any(texts):  # most `error` arrays are empty
        return bytes(_LENGTH_BYTES * len(texts))
    data = [text.encode() for text in texts]
    lengths = list(map(len, data))
    prefix = {length: length.to_bytes(_LENGTH_BYTES, "little") for length in set(lengths)}
    return b"".join(chain.from_iterable(zip(map(prefix.__getitem__, lengths), data, strict=True)))


def decoded_strings(data: bytes) -> np.ndarray[Any, Any]:
    """Return length-prefixed strings as a `StringDType` array. Raises `ValueError`."""
    if data.count(0) == len(data):
        return np.full(len(data) // _LENGTH_BYTES, "", STRING)
    texts = []
    at, end, from_bytes = 0, len(data), int.from_bytes
    while at < end:
        start = at + _LENGTH_BYTES
        at = start + from_bytes(data[at:start], "little")
        texts.append(data[start:at])
    if at != end:
        raise ValueError(f"the last string ends at byte {at} of {end}")
    return np.array([text.decode() for text in texts], STRING)
