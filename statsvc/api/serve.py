"""Running the application with uvicorn, in this process."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import math
import os
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from statsvc.api.app import build_app
from statsvc.api.connections import ACCEPTED_AT_ONCE, Limits, connection_limit, guarded_protocol
from statsvc.api.http.access import Policy, audit
from statsvc.api.http.middleware import LOOPBACK_NAMES
from statsvc.api.http.observe import access_log as access_logger
from statsvc.errors import Conflict, InvalidParameter
from statsvc.store.catalog import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType

    from statsvc.api.state.job_events import JobEvents
    from statsvc.store.home import Home

SHUTDOWN_SECONDS = 3
"""Time that running requests have to end when the server stops."""

REPEATED_SECONDS = 60.0
"""For how long a warning of uvicorn, such as that of an invalid request, is not logged again."""

SWITCH_SECONDS = 0.0005
"""How long the event loop waits for a thread that computes in Python, each time it needs the GIL.

uvloop needs it again for every socket. With Python's default, 5 ms, a few requests that arrive together wait
for a tenth of a second while rows of a large dataset are read.
"""

BACKLOG = 1024
"""Connections that can wait until the server accepts them."""


class _Server(uvicorn.Server):
    """A uvicorn server that reports when it accepts requests, and each signal to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        job_events: JobEvents,
        ready: Callable[[int], None] | None,
        stopping: Callable[[int], None] | None,
    ) -> None:
        super().__init__(config)
        self._job_events, self._ready, self._stopping = job_events, ready, stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn passes it
        # uvicorn's method would raise the signal again after its shutdown, which ends the process before its
        # caller can end the runner.
        if self._stopping is not None:
            self._stopping(sig)
        if self.should_exit:
            os._exit(128 + sig)  # the second signal
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listening in sockets or ():
            # asyncio listens with the number of connections that it accepts per step, which is much smaller.
            listening.listen(BACKLOG)
        # What was imported stays: collections during requests need not look at it.
        gc.collect()
        gc.freeze()
        if self.started and self._ready is not None:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").addFilter(_without_errors_of_stopping)
        # uvicorn waits for running requests, and event streams would not end.
        await self._job_events.close()
        await super().shutdown(sockets=sockets)


class Repeated(logging.Filter):
    """Drops warnings that repeat within a minute, so that invalid requests cannot fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        message = str(record.msg)  # without arguments, which differ
        if record.levelno != logging.WARNING:
            return True
        if record.created - self._logged.get(message, -math.inf) < REPEATED_SECONDS:
            return False
        self._logged[message] = record.created
        return True


def _without_errors_of_stopping(record: logging.LogRecord) -> bool:
    """Log as a warning that a stopping server ends requests: an orderly stop is not an error."""
    cause = record.exc_info[1] if record.exc_info else None
    if isinstance(cause, asyncio.CancelledError):
        return False  # one traceback for each request that "Cancel … running task(s)" counts
    if record.levelno == logging.ERROR and str(record.msg).startswith("Cancel "):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def run(
    home: Home,
    host: str,
    port: int,
    roots: Sequence[Path | str],
    *,
    names: Sequence[str] = (),
    reads_need_token: bool = False,
    proxies: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
    access_log: bool = False,
    ready: Callable[[int], None] | None = None,
    stopping: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. On an address that is not loopback, every write requires a token.

    names             additional accepted host names
    reads_need_token  whether reads require a token, too
    proxies           networks of the proxies whose forwarded client addresses are used
    access_log        whether every request is logged
    ready             called with the port once the server accepts requests
    stopping          called with each signal to stop, in its handler

    Raises `InvalidParameter` for an invalid address, and if tokens are required but none exists; `Conflict`
    if the port is in use; `CatalogError` if the catalog cannot be used.
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
            access_log=access_log,
        )
        config = uvicorn.Config(
            app,
            log_config=None,  # its records get the format of all others
            log_level="warning",
            access_log=False,
            server_header=False,
            http=guarded_protocol(Limits(connection_limit(), trusted=proxies)),
            ws="none",
            # Any client could send these headers; only those of a proxy say where a request comes from.
            proxy_headers=bool(proxies),
            forwarded_allow_ips=[str(network) for network in proxies],
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            backlog=ACCEPTED_AT_ONCE,
        )
        sys.setswitchinterval(SWITCH_SECONDS)
        logging.getLogger("uvicorn.error").addFilter(Repeated())
        for logger in (audit, access_logger):
            logger.setLevel(logging.INFO)
        _Server(config, app.state.service.job_events, ready, stopping).run(sockets=[listening])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidParameter(
            ("host", f"{host!r} is not an IP address of this machine; use 0.0.0.0 for all its addresses")
        ) from None


def _check_token(home: Home, host: str, port: int, beyond: bool) -> None:
    """Raise `InvalidParameter` if there is no valid token: nobody could use the server."""
    catalog = home.open_catalog()
    try:
        if any(token.revoked_at is None for token in tokens.all_tokens(catalog)):
            return
    finally:
        catalog.close()
    advice = "create one with: statsvc token create --scope write"
    if beyond:
        raise InvalidParameter(
            (
                "host",
                f"{host} is not a loopback address, so every write requires a token, but no token exists; "
                f"{advice}. Or bind to 127.0.0.1 and connect through an SSH tunnel: "
                f"ssh -L {port}:127.0.0.1:{port} HOST",
            )
        )
    raise InvalidParameter(("reads_need_token", f"no token exists; {advice}"))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address of this machine.

    Raises `InvalidParameter` for an address that cannot be used, `Conflict` if the port is in use.
    """
    address = _address(host)
    if not 0 <= port <= 65535:
        raise InvalidParameter(("port", f"{port} is out of range: expected 0 to 65535"))
    # asyncio sets TCP_NODELAY only on sockets that were created with a protocol number. Without it, a
    # keep-alive connection waits 40 ms between the headers and the body of a response.
    listening = socket.socket(
        socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(address), port))
        # Listen before the application starts: two sockets can be bound to one port until one listens.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} is in use on {host}; choose another one with --port") from None
        if error.errno == errno.EACCES:
            raise InvalidParameter(
                ("port", f"port {port} requires root privileges; choose a port above 1023")
            ) from None
        raise InvalidParameter(("host", f"cannot listen on {host}:{port}: {error.strerror}")) from None
    return listening
