"""A store in a folder of this machine, or of a file system that several machines mount."""

from __future__ import annotations

import logging
import shutil
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import StoreError, StoreUnavailable
from statsvc.store.versions import durable
from statsvc.store.versions.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderLocation(Location):
    """A folder or a file. What a disk refuses is a `StoreError` with what a person must mend."""

    path: Path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    def __truediv__(self, name: str) -> FolderLocation:
        return FolderLocation(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def zarr(self, *, read_only: bool) -> dict[str, Any]:
        """Return the folder as Zarr's store."""
        from zarr.storage import LocalStore

        return {"store": LocalStore(self.path, read_only=read_only), "path": ""}

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn the errors of a disk that refuses, or is away, into `StoreError`."""
        try:
            yield
        except OSError as error:
            if error.errno in durable.PASSING:
                raise StoreUnavailable(f"{error.filename or self}: {error.strerror}") from error
            if (told := durable.advice(error, self.path)) is None:
                raise
            raise StoreError(told) from error

    def read(self) -> bytes:
        """Return the file's content."""
        with self.answering():
            return self.path.read_bytes()

    def write(self, data: bytes, *, lasting: bool = True) -> None:
        """Write a temporary file and rename it; make its folder where it is not there."""
        with self.answering():
            durable.make_folder(self.path.parent)
            durable.replace(self.path, data, lasting=lasting)

    def exists(self) -> bool:
        """Whether there is a file."""
        with self.answering():
            return self.path.exists()

    def folders(self) -> list[Location]:
        """Return the folders directly below."""
        with self.answering():
            try:
                return [FolderLocation(found) for found in sorted(self.path.iterdir()) if found.is_dir()]
            except FileNotFoundError:
                return []

    def files(self, suffix: str) -> list[Location]:
        """Return the files below whose names end so."""
        with self.answering():
            return [FolderLocation(found) for found in sorted(self.path.rglob(f"*{suffix}"))]

    def changed(self) -> float | None:
        """Return the newest time of the folder and what lies directly in it, or of the file."""
        try:
            inside = self.path.iterdir() if self.path.is_dir() else ()
            times: list[float] = [part.stat().st_mtime for part in (self.path, *inside)]
        except OSError:
            return None  # it goes just now
        return max(times)

    def remove(self) -> None:
        """Remove the file, or the folder with all that is in it."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        if self.path.exists():
            log.warning("%s could not be removed whole", self)

    def make(self) -> None:
        """Make the folder, durably."""
        with self.answering():
            durable.make_folder(self.path)

    def settle(self, store: Location) -> None:
        """Flush every file and folder, up to the store's own."""
        assert isinstance(store, FolderLocation)
        with self.answering():
            durable.sync_tree(self.path, store.path)

    def hurried(self) -> FolderLocation:
        """Return itself: a disk answers, or it does not."""
        return self

    def check(self, *, writing: bool) -> None:
        """Raise `StoreError` where the folder is there and cannot be read, or where no file can be made."""
        self.folders()
        if writing:
            probe = self / f".probe-{uuid.uuid4().hex}"
            probe.write(b"", lasting=False)
            probe.remove()
