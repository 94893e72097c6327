"""One GET request to a server, and an exception for each way in which it can fail."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct

from statsvc import errors
from statsvc.errors import InvalidParameter, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

Parse = Callable[[Any], Any]
"""Turns parsed JSON into a result; raises `LookupError` or `TypeError` if the JSON is not statsvc's."""

MAX_RESPONSE_BYTES = 1 << 28
"""Largest decompressed response: scores or draws of ten million samples."""

_OF_ENCODED_BODY = frozenset({"content-encoding", "content-length", "transfer-encoding"})

_ERRORS: dict[str, type[errors.StatsvcError]] = {
    "not-found": errors.NotFound,
    "conflict": errors.Conflict,
    "unanswerable": errors.Unanswerable,
    "source": errors.SourceError,
    "damaged-version": errors.DamagedVersion,
}
"""The exception for each problem type `/problems/<type>` that does not concern a single parameter."""


class Unavailable(Exception):
    """The server did not respond usefully, so that a cached response may be used instead.

    error        the exception for the caller if nothing is cached
    retry        whether another attempt may succeed
    retry_after  seconds to wait before the next attempt, or None if the server did not say
    """

    def __init__(self, error: errors.StatsvcError, *, retry: bool, retry_after: float | None = None) -> None:
        self.error, self.retry, self.retry_after = error, retry, retry_after
        super().__init__(str(error))


class Reply(Struct, frozen=True):
    """A successful response.

    body       the response body, byte for byte
    value      what `Parse` returned for it
    etag       None if the response must not be cached
    immutable  whether the server declared that the response never changes
    """

    body: bytes
    value: Any
    etag: str | None
    immutable: bool


def exchange(url: str, headers: Mapping[str, str], timeout: float, parse: Parse) -> Reply | None:
    """Send one GET request. Return the response, or None if the entity named by If-None-Match is current.

    timeout  seconds from connecting to the last byte

    Raises `Unavailable` if there was no usable response. Raises `InvalidParameter`, `NotFound` and the other
    errors of statsvc if the server rejected the request.
    """
    response = _send(url, headers, timeout)
    status = response.status_code
    if status == 304 and "If-None-Match" in headers:
        return None
    if status == 200:
        return _parsed(url, response, parse)
    error = _error(url, response)
    if status in (408, 429) or status >= 500:
        # Another attempt would read the same damaged version.
        retry = not isinstance(error, errors.DamagedVersion)
        wait = _retry_after(response.headers.get("retry-after"))
        raise Unavailable(error, retry=retry, retry_after=wait)
    if status < 300 or status == 304:
        raise Unavailable(error, retry=False)
    raise error


def _send(url: str, headers: Mapping[str, str], timeout: float) -> httpx2.Response:
    import httpx2

    extensions = {"trace": _deadline(timeout)}
    try:
        # Redirects are not followed: they could send the token to another host or end at a sign-in page.
        with (
            httpx2.Client(timeout=timeout, follow_redirects=False) as client,
            client.stream("GET", url, headers=dict(headers), extensions=extensions) as response,
        ):
            return _read(url, response)
    except httpx2.TimeoutException:
        error = ServerError(
            f"{url} did not respond within {round(timeout, 2):g} s. Check the server's log and firewalls "
            "on the way, or set a longer timeout (STATSVC_TIMEOUT)"
        )
    except httpx2.ConnectError as problem:
        server = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        error = ServerError(
            f"cannot connect to {server}: {problem}. Check that `statsvc serve` is running there and that "
            "the URL is right (STATSVC_URL)"
        )
    except httpx2.InvalidURL as problem:
        raise InvalidParameter(("url", f"{url} is not a URL: {problem}")) from None
    except httpx2.HTTPError as problem:
        error = ServerError(f"{url} closed the connection or sent malformed HTTP: {problem}. Try again")
    raise Unavailable(error, retry=True) from None


def _read(url: str, response: httpx2.Response) -> httpx2.Response:
    """Return the response with its body. Raises `Unavailable` for a body that is too large."""
    import httpx2

    pieces, size = [], 0
    # httpx2 decompresses each piece that it receives, so a piece can be a thousand times larger than sent.
    for piece in response.iter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_RESPONSE_BYTES:
            error = ServerError(
                f"{url} sent more than {MAX_RESPONSE_BYTES} bytes. Check that the URL is that of a statsvc "
                "server"
            )
            raise Unavailable(error, retry=False)
    headers = [pair for pair in response.headers.multi_items() if pair[0].lower() not in _OF_ENCODED_BODY]
    return httpx2.Response(
        response.status_code, headers=headers, content=b"".join(pieces), request=response.request
    )


def _deadline(seconds: float) -> Callable[[str, dict[str, Any]], None]:
    """Return an httpx2 trace that limits the whole request to `seconds`.

    The timeouts of httpx2 apply to each read, so a server that sends a byte now and then could block a
    trainer for hours. The trace wraps `read` of every connection before its first use.
    """
    end = time.monotonic() + seconds

    def trace(_event: str, info: dict[str, Any]) -> None:
        stream: Any = info.get("return_value")
        if not hasattr(stream, "start_tls"):
            return
        read = stream.read

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG001
            # A timeout of 0 would make the read non-blocking and raise another exception than a timeout.
            data: bytes = read(max_bytes, max(end - time.monotonic(), 1e-3))
            return data

        stream.read = read_in_time

    return trace


def _parsed(url: str, response: httpx2.Response, parse: Parse) -> Reply:
    try:
        _require_json(response)
        value = parse(json.loads(response.content))
    except (ValueError, LookupError, TypeError) as problem:
        error = ServerError(
            f"{url} did not send a statsvc response: {problem}. Check that the URL is that of a statsvc "
            "server"
        )
        raise Unavailable(error, retry=False) from None
    cache_control = response.headers.get("cache-control", "")
    etag = None if "no-store" in cache_control else response.headers.get("etag")
    return Reply(response.content, value, etag, "immutable" in cache_control)


def _require_json(response: httpx2.Response) -> None:
    media_type = response.headers.get("content-type", "missing").partition(";")[0].strip()
    if media_type not in ("application/json", "application/problem+json"):
        raise ValueError(f"expected JSON, but the content type is {media_type}")


def _error(url: str, response: httpx2.Response) -> errors.StatsvcError:
    """Return the exception for a response whose status is not 200."""
    status = response.status_code
    if response.has_redirect_location:
        return ServerError(
            f"{url} redirects to {response.headers['location']}. The client does not follow redirects; "
            "give the final URL of the server (STATSVC_URL)"
        )
    try:
        _require_json(response)
        problem = json.loads(response.content)
        problem_type, detail = str(problem["type"]).rpartition("/problems/")[2], str(problem["detail"])
        if problem_type == "invalid-parameter":
            return InvalidParameter(*((item["parameter"], item["message"]) for item in problem["errors"]))
    except (ValueError, LookupError, TypeError):
        return ServerError(
            f"{url} responded with {status} {response.reason_phrase}, but not in the format of statsvc. "
            "Check that the URL is that of a statsvc server"
        )
    if problem_type in _ERRORS:
        return _ERRORS[problem_type](detail)
    if status in (401, 403):
        return ServerError(f"{url} responded with {status}: {detail}. Give token= or set STATSVC_TOKEN")
    return ServerError(f"{url} responded with {status} {response.reason_phrase}: {detail}")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which has seconds or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
