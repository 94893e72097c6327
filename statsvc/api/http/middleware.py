"""Middleware for every request: the Host check, the body size limit, and HEAD."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from statsvc.api.http.problems import CROSS_ORIGIN, MALFORMED, MISDIRECTED, TOO_LARGE, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

MAX_BODY = 64 * 2**10
"""Size limit of request bodies in bytes."""

MAX_DATASET_BODY = 2 * 2**20
"""Size limit of bodies that contain lists: of a split's paths, changed paths, or the counts of samples.

Steps in C, such as encoding the list for the catalog, keep the event loop waiting. Up to this size each step
takes less than 50 ms.
"""


OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a request of our own page, and of the user without any page."""

_OF_BODIES = frozenset({b"content-length", b"transfer-encoding"})

MAX_DIGITS = 18
"""Longest Content-Length that is converted to a number; Python refuses to convert very long ones."""


class HostCheck:
    """Rejects requests whose Host header is not an allowed name; the port is not checked.

    This prevents DNS rebinding: a website resolves its own name to this server's address, but browsers
    still send that name in the Host header. An IP address cannot be rebound, so `any_address` is safe.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], any_address: bool = False) -> None:
        self._app, self._allowed = app, frozenset(name.lower() for name in allowed)
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it with 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        name = host_name(host)
        if name in self._allowed or (self._any_address and _is_address(name)):
            await self._app(scope, receive, send)
            return
        detail = (
            f"Host {host!r} is not an allowed host name ({', '.join(sorted(self._allowed))}); "
            "allow it with: statsvc serve --allow-host NAME"
        )
        await problem(MISDIRECTED, detail)(scope, receive, send)


def host_name(host: str) -> str:
    """Return the host name of a Host header in lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginCheck:
    """Rejects writes that a web page of another origin sends.

    A page on another website can send simple requests, such as a POST without a body, to any server that the
    browser reaches. Browsers send the headers Origin and Sec-Fetch-Site; other clients send neither.
    Sec-Fetch-Site also distinguishes http from https, and remains if a proxy or an extension removes Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it with 403."""
        if scope["type"] == "http" and scope["method"] not in READ_METHODS:
            headers = Headers(scope=scope)
            origins = headers.getlist("origin")
            own = headers.get("host", "").lower()
            sites = headers.getlist("sec-fetch-site")
            if any(origin.lower().partition("://")[2] != own for origin in origins) or any(
                site not in OWN_SITES for site in sites
            ):
                origin = origins[0][:100] if origins else "unknown"
                detail = (
                    f"the request was sent by a web page of the origin {origin!r}, not by this server's page"
                )
                await problem(CROSS_ORIGIN, detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Rejects bodies above the size limit of their path; with a Content-Length, before reading them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it with 413 (400 for an invalid Content-Length)."""
        if scope["type"] != "http" or not any(name in _OF_BODIES for name, _ in scope["headers"]):
            await self._app(scope, receive, send)  # the request has no body (RFC 9112, 6.3)
            return
        largest = largest_body(scope["path"])
        content_length = Headers(scope=scope).get("content-length", "0")
        detail = f"the request body exceeds the limit of {largest} bytes"
        if not (content_length.isascii() and content_length.isdigit()):
            await problem(MALFORMED, f"Content-Length must be a number, not {content_length!r}")(
                scope, receive, send
            )
            return
        if len(content_length) > MAX_DIGITS or int(content_length) > largest:
            await problem(TOO_LARGE, detail)(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > largest:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, limited, send)


def largest_body(path: str) -> int:
    """Return the size limit of request bodies for a path, in bytes."""
    is_list = path == "/datasets" or (
        path.startswith("/datasets/") and "/tags/" not in path and not path.endswith("/splits")
    )
    return MAX_DATASET_BODY if is_list else MAX_BODY


class Head:
    """Responds to HEAD like to GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        ended = False

        async def bodiless(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.body":
                if ended:
                    return
                # End with the first chunk: an event stream would never end.
                ended, message = True, {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, bodiless)
