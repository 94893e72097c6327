"""A store below a prefix of a bucket: S3 and what speaks like it, Google Cloud Storage, Azure.

A PUT that succeeded is there, whole and durable, for whoever reads next; that is all that is asked of the
service. Nothing is renamed, nothing appended to, and no listing is needed to read a version.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from statsvc.common import object_urls
from statsvc.errors import SourceError, StoreError, StoreUnavailable
from statsvc.store.versions.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

HURRIED_RETRIES, HURRIED_SECONDS = 2, 5.0
"""How often a request is tried again, and how long one may take, where somebody waits for an answer."""

_REFUSED = ("PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "NotImplementedError")


@dataclass(slots=True)
class _Service:
    """The client of one prefix, made when it is first needed, and how the service answered last."""

    url: str
    hurried: bool = False
    trouble: str | None = None
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:
        with self._lock:
            if self._client is None:
                patience = (object_urls.RETRIES, object_urls.TIMEOUT_SECONDS)
                retries, timeout = (HURRIED_RETRIES, HURRIED_SECONDS) if self.hurried else patience
                try:
                    self._client = object_urls.open_prefix(self.url, retries=retries, timeout=timeout)
                except SourceError as error:
                    raise StoreError(str(error)) from error
            return self._client

    def fails(self, error: Exception) -> StoreError:
        """Return what an error of obstore means: one that passes, or one that a person must mend."""
        told = object_urls.explain(self.url, error)
        if self.trouble is None:
            log.warning("the store does not answer as it should: %s", told)
        self.trouble = told
        mend = type(error).__name__ in _REFUSED or _no_bucket(error)
        return StoreError(told) if mend else StoreUnavailable(told)

    def answers(self) -> None:
        if self.trouble is not None:
            log.warning("the store %s answers again", self.url)
        self.trouble = None


class BucketLocation(Location):
    """Everything below one key, or the object of that key."""

    def __init__(self, service: _Service, key: str = "") -> None:
        self._service, self._key = service, key

    @classmethod
    def at(cls, url: str) -> BucketLocation:
        """Return all of a store, from its URL without "/" at its end."""
        return cls(_Service(url))

    @property
    def trouble(self) -> str | None:  # type: ignore[override]
        """Why the service did not answer when it was last asked."""
        return self._service.trouble

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self._key.rpartition("/")[2]

    def __truediv__(self, name: str) -> BucketLocation:
        return BucketLocation(self._service, f"{self._key}/{name}" if self._key else name)

    def __str__(self) -> str:
        return f"{self._service.url}/{self._key}" if self._key else self._service.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketLocation) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def zarr(self, *, read_only: bool) -> dict[str, Any]:
        """Return what Zarr reads from, one client for all groups, or the prefix alone for it to write to.

        Zarr describes every prefix of its store that is above a group by an object of its own.
        """
        from zarr.storage import ObjectStore

        if read_only:
            return {"store": ObjectStore(self._service.client(), read_only=True), "path": self._key}
        return {"store": ObjectStore(_Service(str(self), self._service.hurried).client()), "path": ""}

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn obstore's errors into `StoreError`; an object that is not there is `FileNotFoundError`."""
        self._service.client()  # without the extra, the error that names it
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            if _no_bucket(error):
                raise self._service.fails(error) from error
            self._service.answers()
            raise
        except BaseError as error:
            raise self._service.fails(error) from error
        else:
            self._service.answers()

    def read(self) -> bytes:
        """Return the object's content."""
        client = self._service.client()
        with self.answering():
            return bytes(client.get(self._key).bytes())

    def write(self, data: bytes, *, lasting: bool = True) -> None:  # noqa: ARG002 - every object lasts
        """Put the object."""
        client = self._service.client()
        with self.answering():
            client.put(self._key, data)

    def exists(self) -> bool:
        """Whether there is an object of this key."""
        client = self._service.client()
        try:
            with self.answering():
                client.head(self._key)
        except FileNotFoundError:
            return False
        return True

    def folders(self) -> list[Location]:
        """Return the prefixes directly below."""
        client = self._service.client()
        with self.answering():
            found = client.list_with_delimiter(self._key or None)["common_prefixes"]
        return [BucketLocation(self._service, key) for key in sorted(found)]

    def files(self, suffix: str) -> list[Location]:
        """Return the objects below whose keys end so."""
        keys = sorted(found["path"] for found in self._below() if found["path"].endswith(suffix))
        return [BucketLocation(self._service, key) for key in keys]

    def changed(self) -> float | None:
        """Return when the newest object here was put, by the service's clock."""
        times = [found["last_modified"].timestamp() for found in self._below(itself=True)]
        return max(times, default=None)

    def remove(self) -> None:
        """Delete the object and all that is below, many at a time."""
        try:
            client = self._service.client()
            if keys := [found["path"] for found in self._below(itself=True)]:
                with self.answering():
                    client.delete(keys)
        except StoreError as error:
            log.warning("%s could not be removed: %s", self, error)

    def make(self) -> None:
        """Do nothing: prefixes are only names."""

    def settle(self, store: Location) -> None:
        """Do nothing: what was put is durable."""

    def hurried(self) -> BucketLocation:
        """Return the same place with a client that gives up within some fifteen seconds."""
        return BucketLocation(_Service(self._service.url, hurried=True), self._key)

    def check(self, *, writing: bool) -> None:
        """Raise `StoreError` where the bucket cannot be listed, or no object put."""
        self.folders()
        if writing:
            probe = self / ".probe"
            probe.write(b"")
            probe.remove()

    def _below(self, *, itself: bool = False) -> list[Any]:
        client = self._service.client()
        with self.answering():
            found = list(client.list(self._key or None).collect())
            if itself and self._key:
                try:
                    found.append(client.head(self._key))
                except FileNotFoundError as error:
                    if _no_bucket(error):
                        raise
        return found


def _no_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in str(error)
