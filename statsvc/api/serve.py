"""Running the application with uvicorn, in this process, on loopback."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

import uvicorn

from statsvc.api.app import build_app
from statsvc.api.middleware import LOOPBACK_NAMES
from statsvc.errors import Conflict, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from statsvc.api.feed import Feed
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
    roots: Sequence[Path],
    *,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the port once requests are accepted.

    Raises `InvalidParameter` for an address that is not loopback, `Conflict` for a port that is
    taken (both before anything is opened), `CatalogError` where the catalog cannot be used.
    """
    listening = listen(host, port)
    with listening:
        app = build_app(home, roots=roots, allowed_hosts=(*LOOPBACK_NAMES, host))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        _Server(config, app.state.service.feed, ready).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a loopback address. Raises as `run` does."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if parsed is None or not parsed.is_loopback:
        raise InvalidParameter(
            (
                "host",
                f"{host} is not a loopback address: statsvc has no access control yet, so it listens on "
                "loopback only; reach it from elsewhere through an SSH tunnel: "
                f"ssh -L {port}:127.0.0.1:{port} HOST",
            )
        )
    if not 0 <= port <= 65535:
        raise InvalidParameter(("port", f"{port} is out of range: from 0 to 65535"))
    listening = socket.socket(socket.AF_INET6 if parsed.version == 6 else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
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
