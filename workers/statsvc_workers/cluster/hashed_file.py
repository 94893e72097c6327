"""A file that hashes its bytes while a reader reads it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 20
"""Bytes that are read in one step after the reader has finished."""


class HashedFile(io.BufferedIOBase):
    """A binary file, open for reading, that hashes its bytes on their first read, in any order of reads.

    A sample without bytes of its own, such as a folder, has `file` None: its decoded chunks are hashed
    instead.

    bytes_read  bytes read so far, repeated reads included
    """

    def __init__(self, file: BinaryIO | None) -> None:
        self.file: Any = file
        self.bytes_read = 0
        self._hash = xxhash.xxh3_64()
        self._hashed = 0  # bytes from the start of the file that are in the hash

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, count: int | None = -1, /) -> bytes:
        """Return the next `count` bytes, or all."""
        position = self.file.tell()
        data: bytes = self.file.read(count)
        self.bytes_read += len(data)
        if position <= self._hashed < position + len(data):
            self._hash.update(memoryview(data)[self._hashed - position :])
            self._hashed = position + len(data)
        return data

    def read1(self, count: int = -1, /) -> bytes:
        """Return the next `count` bytes, as `read`."""
        return self.read(count)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in the file and return it."""
        position: int = self.file.seek(offset, whence)
        return position

    def tell(self) -> int:
        """Return the position in the file."""
        position: int = self.file.tell()
        return position

    def seekable(self) -> bool:
        """Return True."""
        return True

    def add(self, chunk: NDArray[Any]) -> None:
        """Hash a decoded chunk of a sample without bytes of its own."""
        self._hash.update(f"{chunk.dtype.str} {chunk.shape}".encode())
        self._hash.update(np.ascontiguousarray(chunk).view(np.uint8).data)
        self.bytes_read += chunk.nbytes

    def finish(self) -> int:
        """Hash the bytes that the reader did not read, and return the xxh3 digest of the whole file."""
        if self.file is not None:
            self.seek(self._hashed)
            while self.read(BLOCK):
                pass
        return self._hash.intdigest()
