"""A version store in a local folder, or in a folder of a file system that several machines mount."""

from __future__ import annotations

import errno
import logging
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from statsvc.errors import ReadOnlyStore, StoreError, StoreUnavailable
from statsvc.store.versions import durable
from statsvc.store.versions.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


class FolderLocation(Location):
    """A folder or a file. An error that needs an administrator is a `StoreError` with advice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.name

    def __truediv__(self, name: str) -> FolderLocation:
        return FolderLocation(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate errors of the file system into `StoreUnavailable` or `StoreError`."""
        try:
            yield
        except OSError as error:
            if error.errno in durable.TRANSIENT_ERRORS:
                raise StoreUnavailable(f"{error.filename or self}: {error.strerror}") from error
            if (message := durable.advice(error, self.path)) is None:
                raise
            kind = ReadOnlyStore if error.errno == errno.EROFS else StoreError
            raise kind(message) from error

    def read(self) -> bytes:
        """Return the file's content."""
        with self._translated_errors():
            return self.path.read_bytes()

    def write_new(self, data: bytes, *, exclusive: bool = False) -> None:
        """Write the file; create its folders."""
        mode = "xb" if exclusive else "wb"
        with self._translated_errors():
            try:
                file = self.path.open(mode)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = self.path.open(mode)
            with file:
                file.write(data)

    def write(self, data: bytes, *, lasting: bool = True) -> None:
        """Write a temporary file and rename it; create its folder if needed."""
        with self._translated_errors():
            durable.make_folder(self.path.parent)
            durable.replace(self.path, data, lasting=lasting)

    def exists(self) -> bool:
        """Whether the file exists."""
        with self._translated_errors():
            return self.path.exists()

    def folders(self) -> list[Location]:
        """Return the direct subfolders."""
        with self._translated_errors():
            try:
                return [FolderLocation(path) for path in sorted(self.path.iterdir()) if path.is_dir()]
            except FileNotFoundError:
                return []
            except NotADirectoryError as error:
                raise StoreError(f"{self} is not a folder; choose another --home or --store") from error

    def files(self, suffix: str) -> list[Location]:
        """Return the files below whose names end in `suffix`."""
        with self._translated_errors():
            return [FolderLocation(path) for path in sorted(self.path.rglob(f"*{suffix}"))]

    def modified_at(self) -> float | None:
        """Return the latest mtime of the folder and its direct entries, or of the file."""
        try:
            entries = self.path.iterdir() if self.path.is_dir() else ()
            times: list[float] = [path.stat().st_mtime for path in (self.path, *entries)]
        except OSError:
            return None  # another process is removing it
        return max(times)

    def remove(self) -> None:
        """Remove the file, or the folder with its content."""
        if self.path.is_dir():
            import shutil

            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        if self.path.exists():
            log.warning("%s could not be removed completely; remove the rest by hand", self)

    def create(self) -> None:
        """Create the folder, durably."""
        with self._translated_errors():
            durable.make_folder(self.path)

    def make_durable(self, store: Location) -> None:
        """Flush every file and folder, and the parent folders up to the store's root."""
        assert isinstance(store, FolderLocation)
        with self._translated_errors():
            durable.sync_tree(self.path, store.path)

    def with_short_timeouts(self) -> FolderLocation:
        """Return itself: file system calls have no timeout to shorten."""
        return self

    def check(self, *, writing: bool) -> None:
        """Raise `StoreError` if the folder exists but cannot be read, or if no file can be created in it.

        A full disk is only logged: versions can be read, and gc can free space.
        """
        self.folders()
        if writing:
            probe = self / f".probe-{uuid.uuid4().hex}"
            try:
                probe.write(b"", lasting=False)
            except StoreError as error:
                if getattr(error.__cause__, "errno", None) not in durable.FULL:
                    raise
                log.warning("%s. Jobs fail until there is space; statsvc gc may free some", error)
            probe.remove()
