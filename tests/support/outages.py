"""A server on loopback that misbehaves on demand, in front of a real statsvc server."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from support.servers import free_port

Behavior = Callable[[socket.socket, str, dict[str, str]], None]
"""Handles a connection after its request. Arguments: connection, path, headers with names in lower case."""


class Front:
    """A server on one port that can be stopped and restarted.

    behavior  handles each request; default: relay it to the real server
    requests  the path of every request that was received completely
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.behavior: Behavior = self.relay
        self.requests: list[str] = []
        self._server: socketserver.ThreadingTCPServer | None = None

    def relay(self, connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        """Relay the request to the real server, and its response to the client."""
        relayed = {name: value for name, value in headers.items() if name in ("accept", "if-none-match")}
        with httpx2.Client(base_url=self.upstream, timeout=60, trust_env=False) as client:
            reply = client.get(path, headers=relayed)
        relayed_back = ("content-type", "etag", "cache-control")
        lines: dict[str, Any] = {name: value for name, value in reply.headers.items() if name in relayed_back}
        connection.sendall(response(reply.status_code, reply.content, **lines))

    def up(self) -> None:
        """Start listening."""
        front = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                target = self.rfile.readline().decode("latin-1").split(" ")[1]
                headers = {}
                while line := self.rfile.readline().decode("latin-1").strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                parts = urlsplit(target)  # a proxy receives an absolute URL
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                front.requests.append(path)
                with contextlib.suppress(ConnectionError):  # the client has closed the connection
                    front.behavior(self.connection, path, headers)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name=self.url).start()

    def down(self) -> None:
        """Stop listening: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def front_of(upstream: str) -> Iterator[Front]:
    """Run a front for a real server."""
    front = Front(upstream)
    front.up()
    try:
        yield front
    finally:
        front.down()


def response(status: int, body: bytes, length: int | None = None, **headers: str) -> bytes:
    """Return an HTTP response.

    length  a Content-Length that differs from the length of the body
    """
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def sends(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Behavior:
    """Send a response."""

    def behave(connection: socket.socket, *_: Any) -> None:
        connection.sendall(response(status, body, length, **headers))

    return behave


def hangs(connection: socket.socket, *_: Any) -> None:
    """Send nothing until the client closes the connection."""
    connection.recv(1)


def drips(data: bytes, first: int = 0) -> Behavior:
    """Send the first bytes immediately and then one every 50 ms, so that no read of the client times out."""

    def behave(connection: socket.socket, *_: Any) -> None:
        connection.sendall(data[:first])
        for byte in data[first:]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return behave


def in_turn(*behaviors: Behavior) -> Behavior:
    """Use each behavior for one request, and the last one for all further requests."""
    remaining = list(behaviors)

    def behave(connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        current = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        current(connection, path, headers)

    return behave
