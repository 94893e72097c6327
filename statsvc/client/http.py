"""One exchange with a server: what it answers, what it refuses, and when it must be called away."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from statsvc import errors
from statsvc.errors import InvalidParameter, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

Read = Callable[[Any], Any]
"""What makes a result of JSON; raises `LookupError` or `TypeError` for JSON that is not statsvc's."""

_ERRORS: dict[str, type[errors.StatsvcError]] = {
    "not-found": errors.NotFound,
    "conflict": errors.Conflict,
    "unanswerable": errors.Unanswerable,
    "source": errors.SourceError,
    "damaged-version": errors.DamagedVersion,
}
"""The exception of each problem type `/problems/<kind>` that is not about one parameter."""


class Away(Exception):
    """The server itself gave no answer; what it answered last may stand in.

    error  what the caller gets where nothing stands in
    again  whether asking again may help
    after  seconds to wait before that, where the server named them
    """

    def __init__(self, error: errors.StatsvcError, *, again: bool, after: float | None = None) -> None:
        self.error, self.again, self.after = error, again, after
        super().__init__(str(error))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its bytes, what `Read` made of them, and what its headers say about keeping it."""

    body: bytes
    value: Any
    etag: str | None
    immutable: bool


def exchange(url: str, headers: Mapping[str, str], timeout: float, read: Read) -> Reply | None:
    """Send one GET; return the answer, or None where the one that If-None-Match names still holds.

    timeout  seconds from connecting to the last byte

    Raises `Away` where no answer of the server came, and the exception of what it refused.
    """
    response = _sent(url, headers, timeout)
    status = response.status_code
    if status == 304 and "If-None-Match" in headers:
        return None
    if status == 200:
        return _reply(url, response, read)
    error = _refusal(url, response)
    if status in (408, 429) or status >= 500:
        # Asking again would find the same damaged bytes.
        again = not isinstance(error, errors.DamagedVersion)
        raise Away(error, again=again, after=_retry_after(response.headers.get("retry-after")))
    if status < 300 or status == 304:
        raise Away(error, again=False)
    raise error


def _sent(url: str, headers: Mapping[str, str], timeout: float) -> httpx2.Response:
    import httpx2

    extensions = {"trace": _limit(timeout)}
    try:
        # A redirect is not followed: it would take the token elsewhere, or end on a sign-in page.
        with httpx2.Client(timeout=timeout, follow_redirects=False) as client:
            return client.get(url, headers=dict(headers), extensions=extensions)
    except httpx2.TimeoutException:
        error = ServerError(
            f"{url} did not answer within {round(timeout, 2):g} s; is the server busy or behind a firewall? "
            "Look at its log, or give a longer timeout (STATSVC_TIMEOUT)"
        )
    except httpx2.ConnectError as problem:
        server = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        error = ServerError(
            f"cannot connect to {server}: {problem}; is `statsvc serve` running there, and is the URL "
            "right (STATSVC_URL)?"
        )
    except httpx2.InvalidURL as problem:
        raise InvalidParameter(("url", f"{url} is not a URL: {problem}")) from None
    except httpx2.HTTPError as problem:
        error = ServerError(f"{url} broke off or answered malformed HTTP: {problem}; try again")
    raise Away(error, again=True) from None


def _limit(seconds: float) -> Callable[[str, dict[str, Any]], None]:
    """Return a trace of httpx2 that lets the whole exchange take `seconds`.

    Its timeouts are for each read, so that a server that sends a byte now and then would hold the
    trainer for hours. The trace sees every connection before it is read from.
    """
    end = time.monotonic() + seconds

    def trace(_event: str, info: dict[str, Any]) -> None:
        stream: Any = info.get("return_value")
        if not hasattr(stream, "start_tls"):
            return
        read = stream.read

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG001
            # A timeout of 0 would mean: do not wait, which is another error than being late.
            data: bytes = read(max_bytes, max(end - time.monotonic(), 1e-3))
            return data

        stream.read = read_in_time

    return trace


def _reply(url: str, response: httpx2.Response, read: Read) -> Reply:
    try:
        _require_json(response)
        value = read(json.loads(response.content))
    except (ValueError, LookupError, TypeError) as problem:
        error = ServerError(
            f"{url} answered, but not as statsvc does: {problem}; does the URL name a statsvc server?"
        )
        raise Away(error, again=False) from None
    control = response.headers.get("cache-control", "")
    etag = None if "no-store" in control else response.headers.get("etag")
    return Reply(response.content, value, etag, "immutable" in control)


def _require_json(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "no content type").partition(";")[0].strip()
    if kind not in ("application/json", "application/problem+json"):
        raise ValueError(f"the content is {kind}, not JSON")


def _refusal(url: str, response: httpx2.Response) -> errors.StatsvcError:
    """Return the exception for an answer that is not 200."""
    status = response.status_code
    if response.has_redirect_location:
        return ServerError(
            f"{url} redirects to {response.headers['location']}, which is not followed; "
            "give the server's own URL (STATSVC_URL)"
        )
    try:
        _require_json(response)
        problem = json.loads(response.content)
        kind, detail = str(problem["type"]).rpartition("/problems/")[2], str(problem["detail"])
        if kind == "invalid-parameter":
            return InvalidParameter(*((item["parameter"], item["message"]) for item in problem["errors"]))
    except (ValueError, LookupError, TypeError):
        return ServerError(
            f"{url} answered {status} {response.reason_phrase}, and not as statsvc does; "
            "does the URL name a statsvc server?"
        )
    if kind in _ERRORS:
        return _ERRORS[kind](detail)
    if status in (401, 403):
        return ServerError(f"{url} answered {status}: {detail} (give token= or STATSVC_TOKEN)")
    return ServerError(f"{url} answered {status} {response.reason_phrase}: {detail}")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds them or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
