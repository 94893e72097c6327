"""Read-only Zarr stores over a folder or URL, which open every file through the checks of this package."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, ObjectStore

from statsvc.common.object_urls import is_url
from statsvc.errors import UnreadableSample
from statsvc_workers.samples import roots

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterable, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


METADATA = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"})
"""Names of the files with metadata, which are parsed as a whole."""

MAX_METADATA_BYTES = 1 << 24
"""Largest file with metadata."""


def open_store(path: str) -> Store:
    """Return the store of a folder or URL; it keeps the roots of this context. Raises `OutsideRoots`."""
    if not is_url(path):
        # zarr's own store is faster, and opens whatever a link leads to.
        return _LocalStore(path, read_only=True) if roots.current_roots() is None else _FolderStore(path)
    from statsvc_workers.samples.object_store import Bucket, bucket

    roots.check_url(path)
    reader = bucket(path)
    return ObjectStore(reader.store, read_only=True) if isinstance(reader, Bucket) else _WebStore(path)


class _LocalStore(LocalStore):
    """A folder that its owner reads. Metadata has a limit, and a pipe is not opened."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a value, or a range of it; None where it does not exist."""
        try:
            _check(key, (self.root / key).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return await super().get(key, prototype, byte_range)


def _check(key: str, status: os.stat_result) -> None:
    """Raise `UnreadableSample` for a device or pipe, and for metadata that is too large to be parsed."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UnreadableSample(f"contains {key}, which is a device or pipe, not a file")
    if status.st_size > MAX_METADATA_BYTES and key.rpartition("/")[2] in METADATA:
        raise UnreadableSample(
            f"has {status.st_size} bytes of metadata in {key}, over the limit of {MAX_METADATA_BYTES}"
        )


class _ReadOnlyStore(Store):
    """A store that reads whole values, each in a thread."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, path: str) -> None:
        super().__init__(read_only=True)
        self._path, self._roots = path, roots.current_roots()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)

    def _read(self, key: str) -> bytes | None:
        """Return a value, None where it does not exist. Raises `OSError`, and `OutsideRoots`."""
        raise NotImplementedError

    def _names(self, prefix: str) -> Sequence[str]:
        """Return the names in a folder."""
        raise NotImplementedError

    def _restricted_read(self, key: str) -> bytes | None:
        with roots.restricted(self._roots):
            return self._read(key)

    def _restricted_names(self, prefix: str) -> Sequence[str]:
        with roots.restricted(self._roots):
            return self._names(prefix)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a value, or a range of it; None where it does not exist."""
        data = await asyncio.to_thread(self._restricted_read, key)
        if data is None:
            return None
        if isinstance(byte_range, RangeByteRequest):
            data = data[byte_range.start : byte_range.end]
        elif isinstance(byte_range, OffsetByteRequest):
            data = data[byte_range.offset :]
        elif isinstance(byte_range, SuffixByteRequest):
            data = data[max(0, len(data) - byte_range.suffix) :]
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> builtins.list[Buffer | None]:
        """Return ranges of several values."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether a value exists."""
        return await asyncio.to_thread(self._restricted_read, key) is not None

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Raise an error: the store is read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002
        """Raise an error: the store is read-only."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Yield the keys at the top; zarr lists only single folders of an array or group that it reads."""
        async for name in self.list_dir(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys directly below a prefix."""
        async for name in self.list_dir(prefix):
            yield f"{prefix.rstrip('/')}/{name}" if prefix else name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        for name in await asyncio.to_thread(self._restricted_names, prefix):
            yield name


class _FolderStore(_ReadOnlyStore):
    """A folder, of which links outside the roots are refused."""

    def _read(self, key: str) -> bytes | None:
        try:
            with open(os.path.join(self._path, key), "rb", opener=roots.open_descriptor) as file:  # noqa: PTH118
                _check(key, os.fstat(file.fileno()))
                return file.read()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def _names(self, prefix: str) -> Sequence[str]:
        try:
            folder = os.path.join(self._path, prefix)  # noqa: PTH118
            descriptor = roots.open_descriptor(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return os.listdir(descriptor)  # noqa: PTH208 - of the open folder
        finally:
            os.close(descriptor)


class _WebStore(_ReadOnlyStore):
    """The files below a URL of a web server, which has no listing."""

    def __init__(self, path: str) -> None:
        from statsvc_workers.samples.object_store import bucket

        super().__init__(path)
        self._bucket: Any = bucket(path)

    def _read(self, key: str) -> bytes | None:
        try:
            data: bytes = self._bucket.get_whole(key)
        except FileNotFoundError:
            return None
        return data

    def _names(self, prefix: str) -> Sequence[str]:  # noqa: ARG002
        return []
