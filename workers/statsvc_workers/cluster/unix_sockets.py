"""A transport of Dask over Unix sockets, `unix://FOLDER/NAME`, for processes of one user on one machine.

Dask executes code that it receives. Every user of a machine can connect to a TCP port on loopback. A socket
in a folder with mode 0700 can be reached by its owner only, and both ends compare the user id of the other
one. Importing this module registers the transport, so worker processes import it before they connect.
"""

from __future__ import annotations

import os
import socket
import struct
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed.comm.core import BaseListener, CommClosedError, Connector
from distributed.comm.registry import Backend, backends
from distributed.comm.tcp import MAX_BUFFER_SIZE, TCP
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.netutil import add_accept_handler, bind_unix_socket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SCHEME = "unix"
PREFIX = f"{SCHEME}://"

BACKLOG = 1024
"""Connections that can wait until they are accepted."""

NAME_CHARACTERS = 16
"""Length of the name of a socket."""

_HOST = "localhost"
"""Dask groups workers by host; all of these are on this one."""


class _Socket(socket.socket):
    """A Unix socket that ignores TCP options, which Dask sets on each connection."""

    def setsockopt(self, level: int, *arguments: Any) -> None:
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *arguments)


def _peer(connected: socket.socket) -> tuple[int, int]:
    """Return the process id and the user id at the other end.

    Returns 0 and this process's user id on systems that do not report them; the mode of the folder is the
    only protection there.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0, os.geteuid()
    credentials = struct.Struct("3i")  # struct ucred of unix(7)
    pid, uid, _gid = credentials.unpack(connected.getsockopt(socket.SOL_SOCKET, option, credentials.size))
    return pid, uid


def _comm(connected: socket.socket, deserialize: bool) -> TCP:
    """Return a connection of Dask over a connected socket. Raises `CommClosedError` for another user's."""
    pid, uid = _peer(connected)
    if uid != os.geteuid():
        connected.close()
        raise CommClosedError(f"the process {pid} at the other end belongs to the user {uid}")
    wrapped = _Socket(fileno=connected.detach())
    wrapped.setblocking(False)
    local, peer = f"{PREFIX}process-{os.getpid()}", f"{PREFIX}process-{pid}"
    return TCP(IOStream(wrapped, max_buffer_size=MAX_BUFFER_SIZE), local, peer, deserialize)


class _UnixConnector(Connector):
    async def connect(self, address: str, deserialize: bool = True, **_arguments: Any) -> TCP:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A Unix socket connects immediately or, if the backlog is full, not at all; Dask tries again.
            connecting.setblocking(False)
            connecting.connect(address)
        except OSError as error:
            connecting.close()
            raise CommClosedError(f"in connecting to {PREFIX}{address}: {error}") from error
        comm = _comm(connecting, deserialize)
        comm._peer_addr = f"{PREFIX}{address}"
        return comm


class _UnixListener(BaseListener):
    """Listens on a new socket in the folder of its address `FOLDER:0`; Dask always appends a port."""

    prefix = PREFIX

    def __init__(
        self,
        address: str,
        handler: Callable[[TCP], Awaitable[None]],
        deserialize: bool = True,
        allow_offload: bool = True,
        **_arguments: Any,
    ) -> None:
        super().__init__()
        self._path = f"{address.partition(':')[0]}/{uuid.uuid4().hex[:NAME_CHARACTERS]}"
        self._handler, self._deserialize, self._allow_offload = handler, deserialize, allow_offload
        self._listening: socket.socket | None = None
        self._stop_accepting: Callable[[], None] | None = None

    async def start(self) -> None:
        self._listening = bind_unix_socket(self._path, 0o600, BACKLOG)
        self._stop_accepting = add_accept_handler(self._listening, self._accept)

    def stop(self) -> None:
        if self._listening is not None and self._stop_accepting is not None:
            self._stop_accepting()
            self._listening.close()
            Path(self._path).unlink(missing_ok=True)
            self._listening = None

    def _accept(self, connected: socket.socket, _address: Any) -> None:
        try:
            comm = _comm(connected, self._deserialize)
        except CommClosedError:
            return  # a process of another user; it gets no answer
        IOLoop.current().add_callback(self._handle, comm)

    async def _handle(self, comm: TCP) -> None:
        if self._listening is None:
            comm.abort()  # accepted just before the listener stopped
            return
        comm.allow_offload = self._allow_offload
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self._handler(comm)

    @property
    def listen_address(self) -> str:
        return PREFIX + self._path

    contact_address = listen_address


class _UnixBackend(Backend):
    def get_connector(self) -> _UnixConnector:
        return _UnixConnector()

    def get_listener(
        self, loc: str, handle_comm: Callable[[TCP], Awaitable[None]], deserialize: bool, **arguments: Any
    ) -> _UnixListener:
        return _UnixListener(loc, handle_comm, deserialize, **arguments)

    def get_address_host(self, _loc: str) -> str:
        return _HOST

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return str(Path(loc).parent)


backends[SCHEME] = _UnixBackend()
