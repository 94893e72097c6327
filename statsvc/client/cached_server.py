"""GET requests to one server, with the cache as a fallback."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field  # noqa: TID251 - a field is left out of the representation
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc._version import __version__
from statsvc.client import cache as client_cache
from statsvc.client import retry
from statsvc.client.cache import Entry
from statsvc.client.endpoints import describe
from statsvc.client.http import Unavailable
from statsvc.errors import InvalidParameter, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statsvc.client.http import Parse

_log = logging.getLogger("statsvc.client")
_warned: set[Path] = set()


@dataclass(frozen=True)
class CachedServer:
    """A server and the folder that caches its responses.

    url      without a trailing slash
    token    bearer token, or None
    timeout  seconds for one attempt
    cache    folder of the cached responses
    offline  whether only the cache is used
    """

    url: str
    token: str | None = field(repr=False)
    timeout: float
    cache: Path
    offline: bool

    def get(self, path: str, parse: Parse, advice: Callable[[], str] = str) -> Any:
        """Return the parsed response of `path`, from the server or from the cache.

        The cache answers if the entry is immutable, in offline mode, and, with a warning, while the server is
        unavailable.

        advice  returns the end of the error message for an offline cache miss

        Raises `ServerError` if neither has a response, and the error with which the server rejects a request.
        """
        url = self.url + path
        entry = self._load(url)
        cached = None if entry is None else _parse_entry(entry, parse)
        if entry is not None and cached is not None and (self.offline or entry.immutable):
            _log.info("%s from the cache: %s, %s", url, describe(cached), entry.age())
            return cached
        if self.offline:
            raise ServerError(
                f"STATSVC_OFFLINE is set, and the cache {self.cache} has no response of {url}{advice()}"
            )
        try:
            value, new_entry = self._request(url, parse, None if cached is None else entry)
        except Unavailable as failure:
            if entry is None or cached is None:
                raise failure.error from None
            _log.warning("using the cached response (%s, %s): %s", describe(cached), entry.age(), failure)
            return cached
        if new_entry is not None:
            self._store(url, new_entry, changed=entry is None or new_entry.body != entry.body)
        return value

    def fetch(self, path: str, parse: Parse) -> tuple[Any, Path]:
        """Return the server's parsed response of `path` and the file in which it was cached.

        Never uses a cached response. Raises as `get` does, and also `InvalidParameter` in offline mode,
        `ServerError` if the server forbids caching, and `OSError` if the cache cannot be written.
        """
        if self.offline:
            raise InvalidParameter(("offline", "STATSVC_OFFLINE is set; unset it to fetch from a server"))
        url = self.url + path
        try:
            value, entry = self._request(url, parse, None)
        except Unavailable as failure:
            raise failure.error from None
        if entry is None:
            raise ServerError(
                f"cannot prefetch {url}: the response forbids caching (no-store) or has no ETag"
            )
        return value, client_cache.store(self.cache, url, entry)

    def _request(self, url: str, parse: Parse, entry: Entry | None) -> tuple[Any, Entry | None]:
        """Return the server's parsed response and a new cache entry, None if it must not be cached.

        entry  the cached response, to make the request conditional
        """
        headers = {"Accept": "application/json", "User-Agent": f"statsvc/{__version__}"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if entry is not None:
            headers["If-None-Match"] = entry.etag
        _log.debug("GET %s (If-None-Match: %s)", url, entry and entry.etag)
        reply = retry.get(url, headers, self.timeout, parse)
        now = time.time()
        if reply is None:
            assert entry is not None
            return _parse_entry(entry, parse), replace(entry, confirmed=now)
        if reply.etag is None:
            return reply.value, None
        return reply.value, Entry(reply.etag, reply.body, reply.immutable, now)

    def _load(self, url: str) -> Entry | None:
        try:
            return client_cache.load(self.cache, url)
        except OSError as problem:
            _warn_once(self.cache, "read", problem)
            return None

    def _store(self, url: str, entry: Entry, *, changed: bool) -> None:
        try:
            client_cache.store(self.cache, url, entry)
        except OSError as problem:
            if changed:
                _warn_once(self.cache, "written", problem)
            else:
                # A read-only folder of a container image, for instance: the entry is right, its age is not.
                _log.debug("the age of the cache entry of %s was not updated: %s", url, problem)


def _parse_entry(entry: Entry, parse: Parse) -> Any:
    """Return the parsed body of an entry, or None if another release of statsvc wrote a different format."""
    try:
        return parse(json.loads(entry.body))
    except (ValueError, LookupError, TypeError):
        return None


def _warn_once(folder: Path, action: str, problem: OSError) -> None:
    level = logging.DEBUG if folder in _warned else logging.WARNING
    _warned.add(folder)
    _log.log(level, "the cache folder %s cannot be %s and is not used: %s", folder, action, problem)
