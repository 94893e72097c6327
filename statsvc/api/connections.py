"""Limits of connections: their number, in total and for each client, and deadlines for requests.

uvicorn waits for a request without a limit, so a client could occupy connections by sending a byte now and
then, until no other client can connect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2048
"""Most open connections; fewer where the process may open fewer files."""

MAX_CLIENT_CONNECTIONS = 256
"""Most open connections of one address; a trusted proxy has no limit of its own."""

RESERVED_FILES = 64
"""Files that the process may open apart from connections."""

ACCEPTED_AT_ONCE = 8
"""Connections that the event loop accepts before the limit is applied to them; fewer than `RESERVED_FILES`.

Beyond the limit of open files, asyncio logs an error for each of them, which would fill the disk.
"""

HEAD_SECONDS = 10.0
"""Time for a request line and headers, from connecting or from the first byte of a further request."""

MAX_HEAD_BYTES = 64 * 2**10
"""Most bytes of a request line with its headers, and of trailers."""

MAX_PIPELINED = 64
"""Most requests that wait on one connection until the previous ones were answered."""

BODY_SECONDS = 60.0
"""Time for a request body."""

STALLED_SECONDS = 60.0
"""Time without progress after which a client that does not read its response is disconnected."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_BUSY_BODY = (
    b'{"type":"/problems/busy","title":"The server has too many connections","status":503,'
    b'"detail":"the server has too many connections; close idle ones, or try again","errors":[]}\n'
)


class Limits(Struct):
    """The open connections of a server.

    trusted  networks of proxies
    waiting  connections without a complete request, the oldest first
    """

    total: int = MAX_CONNECTIONS
    per_client: int = MAX_CLIENT_CONNECTIONS
    head_seconds: float = HEAD_SECONDS
    body_seconds: float = BODY_SECONDS
    trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    clients: Counter[str] = field(default_factory=Counter)
    waiting: dict[_Guarded, None] = field(default_factory=dict)

    def has_place(self, client: str) -> bool:
        """Whether a client may open a connection; a waiting one of the same client is closed for it."""
        if not self._is_trusted(client) and self.clients[client] >= self.per_client:
            return self._close_oldest(lambda waiting: waiting.address == client)
        return self.clients.total() < self.total or self._close_oldest(lambda _waiting: True)

    def _close_oldest(self, chosen: Callable[[_Guarded], bool]) -> bool:
        oldest = next((waiting for waiting in self.waiting if chosen(waiting)), None)
        if oldest is None:
            return False
        oldest.abort()
        return True

    def _is_trusted(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self.trusted)


def connection_limit() -> int:
    """Return the most connections that the process can open; raise its limit of open files for them."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if 0 <= files < wanted:
        files = wanted if most < 0 else max(files, min(most, wanted))
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return MAX_CONNECTIONS if files < 0 else max(1, min(MAX_CONNECTIONS, files - RESERVED_FILES))


def guarded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return a protocol class for `uvicorn.Config(http=…)` that applies the limits."""

    class Protocol(_Guarded):
        pass

    Protocol.limits = limits
    return Protocol


class _Rejected(Exception):
    """Raised within the parser, which then reports an invalid request."""


class Joined:
    """A transport that sends the head and the body of a response with one system call."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send data, once the event loop has run what is due now."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():  # uvloop raises an error after an abort
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Guarded(HttpToolsProtocol):
    """A connection with limits and deadlines.

    The parser, llhttp, is strict: it rejects requests whose end is ambiguous, such as those with both a
    Content-Length and a Transfer-Encoding. It has no limit on sizes, and accepts any number of Host headers.
    """

    limits: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.address = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._counted = False
        self._reads_body = False
        self._in_head = True  # of a request that has begun, until the headers are complete
        self._ended = False  # whether no further request is accepted
        self._unparsed = 0  # bytes of an incomplete head
        self._head_bytes = 0  # bytes of the header fields of this request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        if not self.limits.has_place(self.address):
            transport.write(_BUSY % (len(_BUSY_BODY), _BUSY_BODY))
            transport.close()
            return
        self._counted = True
        self.limits.clients[self.address] += 1
        self.limits.waiting[self] = None
        self._deadline = self.loop.call_later(self.limits.head_seconds, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._ended:
            return
        was_in_head = self._in_head
        super().data_received(data)
        self._unparsed = self._unparsed + len(data) if was_in_head and self._in_head else 0
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request line and headers are too long.")
            return
        self._update()
        if self in self.limits.waiting and self._deadline is None:
            # A whole request, which is the rule, needs no timer.
            self._deadline = self.loop.call_later(self.limits.head_seconds, self.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if self._in_head:  # else a trailer, which is not used
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.url.startswith((b"/", b"*")):
            raise _Rejected("the request target names another server")
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            raise _Rejected("the only transfer coding is chunked")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise _Rejected("a request has exactly one Host header")  # RFC 9112, 3.2
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Rejected("too many requests wait for their responses")
        self._in_head = False
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: the request is answered as if it did not ask for another protocol."""

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _Rejected("the request line and headers are too long")

    def send_400_response(self, msg: str) -> None:
        previous = self.cycle
        if self._in_head and previous is not None and not previous.response_complete:
            # The client would take this for the response to a previous request: answer those, then close.
            previous.keep_alive = False
            self._ended = True
        elif self.pipeline:
            self.abort()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            # uvicorn closes a connection that stays idle from now on.
            self._cancel_deadline()
            self._reads_body = False
            self.limits.waiting[self] = None
            self._update()  # the next request may have arrived already

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def abort(self) -> None:
        """Close the connection without waiting for the client."""
        self._forget()
        if self.transport is not None:
            self.transport.abort()

    def _forget(self) -> None:
        self._cancel_deadline()
        self.limits.waiting.pop(self, None)
        if self._counted:
            self._counted = False
            self.limits.clients[self.address] -= 1
            if not self.limits.clients[self.address]:
                del self.limits.clients[self.address]

    def _update(self) -> None:
        """Replace the deadline of the headers by that of the body, or remove it, as far as data arrived."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if not self.cycle.more_body:
            self._reads_body = False
            self.limits.waiting.pop(self, None)
            self._cancel_deadline()
        elif not self._reads_body:
            self._reads_body = True
            self._cancel_deadline()
            self._deadline = self.loop.call_later(self.limits.body_seconds, self.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
