"""Running the application with uvicorn, in this process."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

import uvicorn

from statsvc.api.app import build_app
from statsvc.api.http.access import Policy, audit
from statsvc.api.http.middleware import LOOPBACK_NAMES
from statsvc.errors import Conflict, InvalidParameter
from statsvc.store.catalog import tokens
from statsvc.store.catalog.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from statsvc.api.state.job_events import Feed
    from statsvc.store.home import Home

SHUTDOWN_SECONDS = 3
"""How long requests under way may take to end when the server stops."""


class _Server(uvicorn.Server):
    """A uvicorn server that says when it accepts requests."""

    def __init__(self, config: uvicorn.Config, feed: Feed, ready: Callable[[int], None] | None) -> None:
        super().__init__(config)
        self._feed, self._ready = feed, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self._ready is not None:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before requests are waited for: those that follow a job would not end by themselves.
        await self._feed.close()
        await super().shutdown(sockets=sockets)


def run(
    home: Home,
    host: str,
    port: int,
    roots: Sequence[Path | str],
    *,
    names: Sequence[str] = (),
    reads_need_token: bool = False,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the port once requests are accepted.

    names             further host names that the server answers to
    reads_need_token  whether also those who only ask must show a token

    Beyond loopback every write needs a token. Raises `InvalidParameter` for an address that is none, or
    that is not loopback while there is no token, `Conflict` for a port that is taken, `CatalogError`
    where the catalog cannot be used.
    """
    address = _address(host)
    beyond = not address.is_loopback
    if beyond or reads_need_token:
        _check_token(home, host, port, beyond)
    with listen(host, port) as listening:
        app = build_app(
            home,
            roots=roots,
            allowed_hosts=(*LOOPBACK_NAMES, host, *names, *([socket.gethostname()] if beyond else [])),
            any_address=beyond,
            policy=Policy(writes=beyond, reads=reads_need_token),
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        audit.setLevel(logging.INFO)
        _Server(config, app.state.service.feed, ready).run(sockets=[listening])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidParameter(
            ("host", f"{host!r} is not an IP address of this machine; 0.0.0.0 means all of them")
        ) from None


def _check_token(home: Home, host: str, port: int, beyond: bool) -> None:
    """Refuse to ask for tokens while there are none. Raises `InvalidParameter`."""
    catalog = Catalog.open(home.database)
    try:
        if any(token.revoked_at is None for token in tokens.all_tokens(catalog)):
            return
    finally:
        catalog.close()
    make = "make one with: statsvc token create --scope write"
    if beyond:
        raise InvalidParameter(
            (
                "host",
                f"beyond loopback ({host}) every write needs a token, and there is none yet; {make}. "
                "Or stay on loopback and reach it from elsewhere through an SSH tunnel: "
                f"ssh -L {port}:127.0.0.1:{port} HOST",
            )
        )
    raise InvalidParameter(("reads_need_token", f"there is no token yet; {make}"))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address of this machine. Raises as `run` does."""
    address = _address(host)
    if not 0 <= port <= 65535:
        raise InvalidParameter(("port", f"{port} is out of range: from 0 to 65535"))
    # asyncio sets TCP_NODELAY on connections of sockets that name the protocol; without it, a kept
    # connection waits 40 ms between an answer's head and its body.
    listening = socket.socket(
        socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(address), port))
        # Now, not when the application is up: two sockets may be bound to one port until one listens.
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} is in use on {host}; choose another one with --port") from None
        if error.errno == errno.EACCES:
            raise InvalidParameter(("port", f"{port} needs special rights; choose one above 1023")) from None
        raise InvalidParameter(("host", f"{host}:{port} cannot be listened on: {error.strerror}")) from None
    return listening
