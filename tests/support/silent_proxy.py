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

    def close(self) -> None:
        """Close every connection."""
        for connection in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._open |= {client, server}
                if self._all_new:
                    self._silent |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    target.sendall(data)
            if source not in self._silent:
                target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def silent_proxy(target: str) -> Iterator[SilentProxy]:
    """Run a proxy in front of the unix socket `target`."""
    proxy = SilentProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
