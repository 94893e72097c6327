"""The part of the Zarr v3 format in which versions are stored, read as bytes without NumPy.

Arrays are divided into chunks along their first axis only. A chunk is encoded as plain bytes, or as strings
with their lengths, and then compressed with zstd and its checksum.
Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html,
https://github.com/zarr-developers/zarr-extensions/tree/main/codecs/vlen-utf8 and /zstd.
"""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import zstandard
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from statsvc.store.versions.location import Location

METADATA = "zarr.json"

TEXT = "string"
"""The data type of strings."""

LENGTH_BYTES = 4
"""Bytes of the length before each string, and of the number of strings before the first."""

MAX_CHUNK_BYTES = 1 << 30
"""Largest decompressed chunk of strings: the size that a damaged chunk declares is allocated."""

READ_BYTES = 32 << 20
"""Approximate bytes of chunks that are requested together."""

_STRING_BYTES = 16
"""Assumed size of a string, for `READ_BYTES`."""

_NUMBER = re.compile(r"(?:u?int|float)(8|16|32|64)")

Array = TypeVar("Array", bound="StoredBytes")


def check_group(location: Location) -> None:
    """Read the metadata of a group. Raises `ValueError` where it is not one, `OSError`, `StoreError`."""
    metadata = json.loads((location / METADATA).read())
    if not isinstance(metadata, dict) or metadata.get("node_type") != "group":
        raise ValueError(f"{METADATA} does not describe a group")


class StoredBytes(Struct, frozen=True):
    """An array of a group.

    shape      number of rows, and of columns if it has two dimensions
    rows       rows of a chunk
    data_type  Zarr's name of the type of its values: "string", "int64" …
    fill       value of the rows after the last one in the last chunk
    """

    location: Location
    shape: tuple[int, ...]
    rows: int
    data_type: str
    fill: Any

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // self.rows) if all(self.shape) else 0

    @property
    def row_bytes(self) -> int:
        """Size of a row of numbers, and approximate size of a row of strings."""
        match = _NUMBER.fullmatch(self.data_type)
        return (int(match[1]) // 8 if match else _STRING_BYTES) * math.prod(self.shape[1:])

    def length(self, number: int) -> int:
        """Return the number of rows of a chunk, without those after the last row of the array."""
        return min(self.rows, self.shape[0] - number * self.rows)

    def chunk_name(self, number: int) -> str:
        """Return the path of a chunk below the array."""
        return "/".join(("c", str(number), *("0" for _ in self.shape[1:])))

    def compressed(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the chunks [start, stop) in compressed form. Raises `FileNotFoundError` for a missing one."""
        together = max(1, READ_BYTES // max(1, self.rows * self.row_bytes))
        for first in range(start, stop, together):
            names = [self.chunk_name(number) for number in range(first, min(first + together, stop))]
            yield from self.location.read_all(names)

    def data(self, number: int, chunk: bytes) -> bytes:
        """Return the encoded rows of a compressed chunk, without its padding.

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
        if self.data_type != TEXT:
            return data if length == self.rows else data[: len(data) // self.rows * length]
        if int.from_bytes(data[:LENGTH_BYTES], "little") != self.rows:
            raise ValueError(f"chunk {number} does not have {self.rows} strings")
        padding = bytes(LENGTH_BYTES * (self.rows - length))  # a version is written with empty strings there
        if not data.endswith(padding):
            raise ValueError(f"chunk {number} does not end in empty strings")
        return data[LENGTH_BYTES : len(data) - len(padding)]

    def _check_size(self, size: int) -> None:
        """Check the decompressed size that a chunk declares, before it is allocated."""
        if self.data_type == TEXT:
            expected = LENGTH_BYTES * (1 + self.rows) <= size <= MAX_CHUNK_BYTES
        else:
            expected = size == self.rows * self.row_bytes
        if not expected:
            raise ValueError(f"a chunk has {size} bytes, which is not its size")

    def read_bytes(self) -> bytes:
        """Return all rows, encoded. Raises `OSError`, `ValueError`, `StoreError`."""
        return b"".join(
            self.data(number, chunk) for number, chunk in enumerate(self.compressed(0, self.chunks))
        )


def open_array(group: Location, name: str, kind: type[Array]) -> Array:
    """Read the metadata of an array, and return it as a `StoredBytes` or a subclass.

    Raises `ValueError` where it is not an array as `zarr_files.create_array` creates it, `OSError`, and
    `StoreError`.
    """
    location = group / name
    metadata = json.loads((location / METADATA).read())
    try:
        shape = tuple(map(int, metadata["shape"]))
        rows, *columns = map(int, metadata["chunk_grid"]["configuration"]["chunk_shape"])
        data_type = metadata["data_type"]
        is_text = data_type == TEXT
        codecs = [codec["name"] for codec in metadata["codecs"]]
        as_written = (
            metadata["zarr_format"] == 3
            and metadata["node_type"] == "array"
            and metadata["chunk_grid"]["name"] == "regular"
            and columns == [max(1, size) for size in shape[1:]]
            and min(shape) >= 0
            and rows > 0
            and codecs == ["vlen-utf8" if is_text else "bytes", "zstd"]
            and (is_text or _NUMBER.fullmatch(data_type) is not None)
        )
        fill = metadata["fill_value"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{METADATA} is damaged ({type(error).__name__}: {error})") from None
    if not as_written:
        raise ValueError(f"{METADATA} describes another kind of array")
    return kind(location, shape, rows, data_type, fill)


def encoded_strings(texts: Sequence[str]) -> bytes:
    """Return strings as UTF-8, each after its length."""
    if not any(texts):  # most `error` arrays are empty
        return bytes(LENGTH_BYTES * len(texts))
    data = [text.encode() for text in texts]
    lengths = list(map(len, data))
    prefix = {length: length.to_bytes(LENGTH_BYTES, "little") for length in set(lengths)}
    return b"".join(chain.from_iterable(zip(map(prefix.__getitem__, lengths), data, strict=True)))
