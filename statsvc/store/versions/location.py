"""Where versions lie: a folder of this machine, or a prefix of a bucket; to the rest the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statsvc.common import object_urls
from statsvc.errors import InvalidParameter, SourceError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

WRITABLE = ("s3", "gs", "az")
"""Schemes of the object stores that versions can be kept in."""


class Location(ABC):
    """One place in a store: all of it, a dataset's, a group's, or a single file or object.

    Every method raises `StoreError` where the store refuses, and `StoreUnavailable`, which is one, where it
    does not answer. What is merely not there is another matter: `FileNotFoundError`, or nothing.
    """

    trouble: str | None = None
    """Why the store did not answer when it was last asked, or None where it did."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the place's name."""

    @abstractmethod
    def __truediv__(self, name: str) -> Location:
        """Return a place within this one; `name` may have several parts, with "/" between them."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def zarr(self, *, read_only: bool) -> dict[str, Any]:
        """Return the arguments `store` and `path` under which Zarr finds a group here."""

    @abstractmethod
    def answering(self) -> AbstractContextManager[None]:
        """Turn what Zarr lets through of the store's own errors into those of this class."""

    @abstractmethod
    def read(self) -> bytes:
        """Return a file. Raises `FileNotFoundError`."""

    @abstractmethod
    def write(self, data: bytes, *, lasting: bool = True) -> None:
        """Make or replace a file in one step; a reader sees the old one or the new one.

        When it returns the file outlives a power failure, unless that is not asked for.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def folders(self) -> list[Location]:
        """Return what holds other things directly below, in the order of names; none where nothing is."""

    @abstractmethod
    def files(self, suffix: str) -> list[Location]:
        """Return every file below whose name ends so, in the order of names."""

    @abstractmethod
    def changed(self) -> float | None:
        """Return when what is here was changed last, in seconds since 1970; None where nothing is."""

    @abstractmethod
    def remove(self) -> None:
        """Remove a file, or all that is below. What cannot be removed is told in the log and stays."""

    @abstractmethod
    def make(self) -> None:
        """Let things be put here."""

    @abstractmethod
    def settle(self, store: Location) -> None:
        """Let everything below, which Zarr wrote, outlive a power failure; `store` is all of the store."""

    @abstractmethod
    def hurried(self) -> Location:
        """Return the same place for somebody who waits for an answer: it gives up soon."""

    @abstractmethod
    def check(self, *, writing: bool) -> None:
        """Raise `StoreError` where one cannot read here, or also not write, with what to do about it."""


def at(location: str) -> Location:
    """Return the store at a folder's path or a bucket's URL; nothing is read yet.

    Raises `InvalidParameter` for a URL that is none of a bucket, or that holds a password.
    """
    from statsvc.store.versions.bucket import BucketLocation
    from statsvc.store.versions.folder import FolderLocation

    scheme, separator, _ = location.partition("://")
    if not separator:
        return FolderLocation(Path(location).expanduser().absolute())
    if scheme not in WRITABLE:
        raise InvalidParameter(
            (
                "store",
                f"{scheme}:// cannot hold versions; give a folder, or s3://, gs:// or az://bucket/prefix",
            )
        )
    try:
        return BucketLocation.at(object_urls.normalized(location))
    except SourceError as error:
        raise InvalidParameter(("store", str(error))) from None
