"""The interface of a version store: a folder and a bucket prefix behave the same to all other code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


CHECKPOINTS = "parts"
"""The folder of checkpoints in the folder of a dataset."""


class Location(ABC):
    """A location in a version store: the whole store, a dataset, a group, or a single file or object.

    Every method raises `StoreError` if the store rejects the request, and its subclass `StoreUnavailable`
    if the store does not respond. A missing file is neither: it raises `FileNotFoundError`, or the method
    returns an empty result.
    """

    last_error: str | None = None
    """Why the store's most recent request failed, or None if it succeeded."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last component of the location's path or key."""

    @abstractmethod
    def __truediv__(self, name: str) -> Location:
        """Return a location below this one; `name` may have several components, separated by "/"."""

    @abstractmethod
    def __str__(self) -> str: ...

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    @abstractmethod
    def read(self) -> bytes:
        """Return the content of a file. Raises `FileNotFoundError`."""

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Return the contents of files below this location. Raises `FileNotFoundError`."""
        return [(self / name).read() for name in names]

    @abstractmethod
    def write_new(self, data: bytes, *, exclusive: bool = False) -> None:
        """Create a file of a group that no reader sees yet; it is durable once `make_durable` was called.

        With `exclusive`, raise `FileExistsError` if it exists.
        """

    @abstractmethod
    def write(self, data: bytes, *, lasting: bool = True) -> None:
        """Create or replace a file atomically: a reader sees either the old content or the new.

        With `lasting`, the file survives a power failure once this method has returned.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Whether a file of this name exists."""

    @abstractmethod
    def folders(self) -> list[Location]:
        """Return the direct subfolders, sorted by name; an empty list if the location does not exist."""

    @abstractmethod
    def files(self, suffix: str) -> list[Location]:
        """Return every file below this location whose name ends in `suffix`, sorted by name."""

    @abstractmethod
    def modified_at(self) -> float | None:
        """Return the latest modification time in seconds since 1970; None if the location does not exist."""

    @abstractmethod
    def remove(self) -> None:
        """Remove a file, or a folder with its content. Logs a warning for anything that remains."""

    @abstractmethod
    def create(self) -> None:
        """Create the folder, if the store has folders."""

    @abstractmethod
    def make_durable(self, store: Location) -> None:
        """Flush everything below, which `write_new` wrote, to disk; `store` is the version store's root."""

    @abstractmethod
    def with_short_timeouts(self) -> Location:
        """Return the same location with timeouts that suit a waiting HTTP client."""

    @abstractmethod
    def check(self, *, writing: bool) -> None:
        """Raise `StoreError`, with advice, if this location cannot be read or, with `writing`, written."""
