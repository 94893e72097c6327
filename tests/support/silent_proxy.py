"""A TCP proxy in front of a unix socket whose connections can go silent: no data, no end, no error."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class SilentProxy:
    """Forwards connections; `silence` makes the present ones silent, and new ones as well with `all_new`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._all_new = False
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self, *, all_new: bool = False) -> None:
        """Stop forwarding what the present connections send, in both directions."""
        self._silent |= self._open
        self._all_new = all_new

    def restore(self) -> None:
        """Forward new connections again; those that went silent stay silent."""
        self._all_new = False

    def close_silent(self) -> None:
        """Forward new connections again, and close those that went silent."""
        self.restore()
        for connection in set(self._silent):
            _shut_down(connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in (self._listening, *self._open):
            _shut_down(connection)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        """Forward a connection until both sides have ended it; close it if the target refuses it."""
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(self._target)
            except OSError:
                return
            pair = {client, server}
            self._open |= pair
            if self._all_new:
                self._silent |= pair
            back = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            back.start()
            self._forward(client, server)
            back.join()
            self._open -= pair
            self._silent -= pair

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    target.sendall(data)
        if source not in self._silent:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def silent_proxy(target: str) -> Iterator[SilentProxy]:
    """Run a proxy in front of the unix socket `target`."""
    proxy = SilentProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
