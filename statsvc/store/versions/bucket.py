"""A version store below a prefix of a bucket: S3 and compatible services, Google Cloud Storage, Azure.

The service must offer read-after-write consistency: an object whose PUT succeeded is complete, durable and
visible to every reader. Nothing else is required of it. Objects are never renamed or appended to, and no
listing is needed to read a version.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.common import object_urls
from statsvc.errors import SourceError, StoreError, StoreUnavailable
from statsvc.store.versions.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

SHORT_RETRIES, SHORT_TIMEOUT_SECONDS = 2, 5.0
"""Retries, and timeout of one request, while an HTTP client waits for the response."""

CONCURRENT_READS = 16
"""Objects that are requested at the same time."""

_REJECTIONS = ("PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "NotImplementedError")
"""Errors of obstore that a retry cannot fix."""


class _Service(Struct):
    """The client of one prefix, created on first use, and the outcome of its most recent request."""

    url: str
    short_timeouts: bool = False
    last_error: str | None = None
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:
        with self._lock:
            if self._client is None:
                retries, timeout = object_urls.RETRIES, object_urls.TIMEOUT_SECONDS
                if self.short_timeouts:
                    retries, timeout = SHORT_RETRIES, SHORT_TIMEOUT_SECONDS
                try:
                    self._client = object_urls.open_prefix(self.url, retries=retries, timeout=timeout)
                except SourceError as error:
                    raise StoreError(str(error)) from error
            return self._client

    def record_failure(self, error: Exception) -> StoreError:
        """Record an error of obstore; return the `StoreError` to raise for it."""
        message = object_urls.explain(self.url, error)
        if self.last_error is None:
            log.warning("a request to the version store failed: %s", message)
        self.last_error = message
        rejected = type(error).__name__ in _REJECTIONS or _no_bucket(error)
        return StoreError(message) if rejected else StoreUnavailable(message)

    def record_success(self) -> None:
        if self.last_error is not None:
            log.warning("the version store %s is available again", self.url)
        self.last_error = None


class BucketLocation(Location):
    """The object of one key, or everything below that key."""

    def __init__(self, service: _Service, key: str = "") -> None:
        self._service, self._key = service, key

    @classmethod
    def at(cls, url: str) -> BucketLocation:
        """Return the root of a version store from its URL, which must not end in "/"."""
        return cls(_Service(url))

    @property
    def last_error(self) -> str | None:  # type: ignore[override]
        """Why the service's most recent request failed, or None if it succeeded."""
        return self._service.last_error

    @property
    def name(self) -> str:
        """The last component of the key."""
        return self._key.rpartition("/")[2]

    def __truediv__(self, name: str) -> BucketLocation:
        return BucketLocation(self._service, f"{self._key}/{name}" if self._key else name)

    def __str__(self) -> str:
        return f"{self._service.url}/{self._key}" if self._key else self._service.url

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate obstore's errors into `StoreError`; a missing object is a `FileNotFoundError`."""
        self._service.client()  # raises the error that names the missing extra, before the import below
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            yield
        except FileNotFoundError as error:
            if _no_bucket(error):
                raise self._service.record_failure(error) from error
            self._service.record_success()
            raise
        except AlreadyExistsError as error:
            self._service.record_success()
            raise FileExistsError(f"{self} already exists") from error
        except BaseError as error:
            raise self._service.record_failure(error) from error
        else:
            self._service.record_success()

    def read(self) -> bytes:
        """Return the object's content."""
        client = self._service.client()
        with self._translated_errors():
            return bytes(client.get(self._key).bytes())

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Return the contents of objects below, which are requested concurrently."""
        if len(names) < 2:
            return super().read_all(names)
        with ThreadPoolExecutor(min(CONCURRENT_READS, len(names))) as threads:
            return list(threads.map(lambda name: (self / name).read(), names))

    def write_new(self, data: bytes, *, exclusive: bool = False) -> None:
        """Put the object; with `exclusive`, only if the key is free."""
        client = self._service.client()
        with self._translated_errors():
            client.put(self._key, data, mode="create" if exclusive else "overwrite")

    def write(self, data: bytes, *, lasting: bool = True) -> None:  # noqa: ARG002 - every object is durable
        """Put the object."""
        client = self._service.client()
        with self._translated_errors():
            client.put(self._key, data)

    def exists(self) -> bool:
        """Whether an object of this key exists."""
        client = self._service.client()
        try:
            with self._translated_errors():
                client.head(self._key)
        except FileNotFoundError:
            return False
        return True

    def folders(self) -> list[Location]:
        """Return the prefixes directly below."""
        client = self._service.client()
        with self._translated_errors():
            prefixes = client.list_with_delimiter(self._key or None)["common_prefixes"]
        return [BucketLocation(self._service, key) for key in sorted(prefixes)]

    def files(self, suffix: str) -> list[Location]:
        """Return the objects below whose keys end in `suffix`."""
        keys = sorted(item["path"] for item in self._objects() if item["path"].endswith(suffix))
        return [BucketLocation(self._service, key) for key in keys]

    def modified_at(self) -> float | None:
        """Return when the newest object here was put, by the service's clock."""
        times = [item["last_modified"].timestamp() for item in self._objects(include_self=True)]
        return max(times, default=None)

    def remove(self) -> None:
        """Delete the object and everything below its key, with bulk requests."""
        try:
            client = self._service.client()
            if keys := [item["path"] for item in self._objects(include_self=True)]:
                with self._translated_errors():
                    client.delete(keys)
        except StoreError as error:
            log.warning("%s could not be removed: %s", self, error)

    def create(self) -> None:
        """Do nothing: a prefix exists as soon as an object below it does."""

    def make_durable(self, store: Location) -> None:
        """Do nothing: every object is durable once its PUT has succeeded."""

    def with_short_timeouts(self) -> BucketLocation:
        """Return the same location with a client that gives up after about 15 seconds."""
        return BucketLocation(_Service(self._service.url, short_timeouts=True), self._key)

    def check(self, *, writing: bool) -> None:
        """Raise `StoreError` if the bucket cannot be listed, or if no object can be put."""
        self.folders()
        if writing:
            probe = self / ".probe"
            probe.write(b"")
            probe.remove()

    def _objects(self, *, include_self: bool = False) -> list[Any]:
        client = self._service.client()
        with self._translated_errors():
            objects = list(client.list(self._key or None).collect())
            if include_self and self._key:
                try:
                    objects.append(client.head(self._key))
                except FileNotFoundError as error:
                    if _no_bucket(error):
                        raise
        return objects


def _no_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in str(error)
