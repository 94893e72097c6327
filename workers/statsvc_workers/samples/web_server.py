"""Files of a web server, read with plain GET and HEAD requests that follow no redirect.

obstore cannot turn redirects off, and a redirect leads to a host that nobody has allowed.
"""

from __future__ import annotations

import email.utils
import errno
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import httpx2

from statsvc.common import object_urls
from statsvc_workers.samples.object_reader import IN_FLIGHT, WHOLE_BYTES, ObjectReader, Unreachable
from statsvc_workers.samples.stamps import SampleChanged, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_VALUE_BYTES = 1 << 30
"""Largest file that is read as a whole: a chunk of a Zarr array."""

FIRST_PAUSE_SECONDS = 0.1
"""Pause before the first retry; each further pause is twice as long."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class WebServer(ObjectReader):
    """All files below an http or https URL. Thread-safe."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        object_urls.allows_plain_http(root)
        parts = urlsplit(root)
        self._base = f"{parts.scheme}://{parts.netloc}{quote(unquote(parts.path))}"

    @cached_property
    def _client(self) -> httpx2.Client:
        return httpx2.Client(
            # Compressed responses have another length, and expand without a limit.
            headers={"Accept-Encoding": "identity"},
            timeout=object_urls.TIMEOUT_SECONDS,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT),
        )

    def get(self, path: str, start: int = 0, stop: int | None = None, etag: str = "") -> tuple[Stamp, bytes]:
        """Return the stamp of a file and its bytes, see `ObjectReader.get`."""
        headers = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        if etag and not etag.startswith("W/"):
            headers["If-Match"] = etag
        limit = WHOLE_BYTES if stop is None else stop - start
        return self._with_retries("GET", path, headers, limit, etag)

    def get_whole(self, path: str) -> bytes:
        """Return all bytes of a file. Raises `FileNotFoundError`, `Unreachable`, and `OutsideRoots`."""
        stamp, data = self._with_retries("GET", path, {}, MAX_VALUE_BYTES)
        if stamp.size > MAX_VALUE_BYTES:
            raise self._unreachable(path, f"has more than {MAX_VALUE_BYTES} bytes, the limit for one chunk")
        return data

    def head(self, path: str) -> Stamp:
        """Return the stamp of a file. Raises `FileNotFoundError`, `Unreachable`, and `OutsideRoots`."""
        return self._with_retries("HEAD", path, {}, 0)[0]

    def list(self, folder: str = "") -> Iterator[tuple[str, Stamp]]:
        """Raise `Unreachable`: a web server has no listing."""
        raise self._unreachable(folder, "cannot be listed, because it is on a web server")

    def _with_retries(
        self, method: str, path: str, headers: dict[str, str], limit: int, etag: str = ""
    ) -> tuple[Stamp, bytes]:
        """Send a request, again after status 5xx or 429 and after a lost connection."""
        self.check_url(path)
        give_up_at = time.monotonic() + object_urls.RETRY_SECONDS
        for attempt in range(object_urls.RETRIES + 1):
            is_last = attempt == object_urls.RETRIES or time.monotonic() > give_up_at
            try:
                with self._client.stream(method, self._url(path), headers=headers) as response:
                    if is_last or not (response.status_code == 429 or response.status_code >= 500):
                        return self._read(response, path, limit, etag)
            except httpx2.TransportError as error:
                if is_last:
                    raise self._unreachable(path, "cannot be reached; check the network") from error
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, response: Any, path: str, limit: int, etag: str) -> tuple[Stamp, bytes]:
        """Return the stamp and the bytes of a response; no bytes of a file larger than `limit`."""
        status = response.status_code
        if status in (404, 410):
            raise self.request_error(FileNotFoundError(), path)
        if status == 412:
            raise SampleChanged(path)
        if status in (401, 403):
            raise self._unreachable(path, "access was denied by the web server")
        if 300 <= status < 400:
            if response.headers.get("location", "").endswith(f"{quote(path)}/"):
                raise self.request_error(FileNotFoundError(), path)  # a folder
            # Without the target, which may be private.
            raise self._unreachable(
                path, "is redirected by the web server, and redirects are not followed; pass the final URL"
            )
        ranged = "range" in response.request.headers
        if status != (206 if ranged else 200):
            problem = (
                "the web server does not support range requests" if status == 200 else f"status {status}"
            )
            raise self._unreachable(path, problem)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._unreachable(path, "the web server compresses its responses; turn this off")
        stamp = self._stamp(response, path, ranged=ranged)
        if etag and stamp.etag != etag:
            raise SampleChanged(path)
        if response.request.method == "HEAD" or (not ranged and stamp.size > limit):
            return stamp, b""
        pieces, received = [], 0
        for piece in response.iter_raw():
            pieces.append(piece)
            received += len(piece)
            if received > limit:
                raise SampleChanged(path)
        return stamp, b"".join(pieces)

    def _stamp(self, response: Any, path: str, *, ranged: bool) -> Stamp:
        headers = response.headers
        length = headers.get("content-length", "")
        if ranged:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            length = match[2] if match else ""
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise self._unreachable(path, "the web server does not report the size of the file")
        modified = 0
        if "last-modified" in headers:
            try:
                modified = round(email.utils.parsedate_to_datetime(headers["last-modified"]).timestamp())
            except (ValueError, TypeError, OverflowError):
                modified = 0
        return Stamp(int(length), modified * 1_000_000_000, 0, 0, headers.get("etag", ""))

    def _url(self, path: str) -> str:
        return f"{self._base}/{quote(path)}" if path else self._base

    def _unreachable(self, path: str, problem: str) -> Unreachable:
        url = object_urls.join(self.root, path) if path else self.root
        return Unreachable(errno.EIO, f"{url}: {problem}", url)
