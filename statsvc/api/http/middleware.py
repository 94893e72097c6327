"""What every request passes: the Host check, the size of its body, and HEAD."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from statsvc.api.http.problems import MALFORMED, MISDIRECTED, TOO_LARGE, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

MAX_BODY = 64 * 2**20
"""Bytes of the largest request body: a split of a million paths fits."""


class HostCheck:
    """Answers only to the given host names, whatever the port.

    A web page can point a name of its own at this server's address (DNS rebinding); its Host header
    gives it away. An address in it is no name, so with `any_address` every address will do.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], any_address: bool = False) -> None:
        self._app, self._allowed = app, frozenset(name.lower() for name in allowed)
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        name = host_name(host)
        if name in self._allowed or (self._any_address and _is_address(name)):
            await self._app(scope, receive, send)
            return
        detail = (
            f"this server answers to {', '.join(sorted(self._allowed))}, not to Host: {host!r}; "
            "allow another name with: statsvc serve --allow-host NAME"
        )
        await problem(MISDIRECTED, detail)(scope, receive, send)


def host_name(host: str) -> str:
    """Return the name in a Host header, in lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class BodyLimit:
    """Refuses bodies above a size, before they are read where their length is told."""

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        detail = f"a body has at most {self._largest} bytes"
        if not (told.isascii() and told.isdigit()):
            await problem(MALFORMED, f"Content-Length {told!r} is not a number")(scope, receive, send)
            return
        if len(told) > 18 or int(told) > self._largest:
            await problem(TOO_LARGE, detail)(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._largest:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, limited, send)


class Head:
    """Answers HEAD as GET, without the body."""

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
                # At the first piece, so that a stream without an end is not waited for.
                ended, message = True, {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, bodiless)
