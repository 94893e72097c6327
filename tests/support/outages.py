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

Behave = Callable[[socket.socket, str, dict[str, str]], None]
"""What is done with a connection after its request: path and headers, names in lower case."""


class Front:
    """Listens on one port, for as long as it is up; `behave` decides what each request gets.

    asked  the path of every request that came whole
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.behave: Behave = self.relay
        self.asked: list[str] = []
        self._server: socketserver.ThreadingTCPServer | None = None

    def relay(self, connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        """Ask the real server and hand its answer on."""
        kept = {name: headers[name] for name in ("accept", "if-none-match") if name in headers}
        with httpx2.Client(base_url=self.upstream, timeout=60, trust_env=False) as client:
            answer = client.get(path, headers=kept)
        given = {"content-type", "etag", "cache-control"}
        lines = {name: value for name, value in answer.headers.items() if name in given}
        connection.sendall(response(answer.status_code, answer.content, **lines))

    def up(self) -> None:
        front = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                target = self.rfile.readline().decode("latin-1").split(" ")[1]
                headers = {}
                while line := self.rfile.readline().decode("latin-1").strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                parts = urlsplit(target)  # a proxy is sent the whole URL
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                front.asked.append(path)
                with contextlib.suppress(ConnectionError):  # the client has given up
                    front.behave(self.connection, path, headers)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name=self.url).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def front_of(upstream: str) -> Iterator[Front]:
    front = Front(upstream)
    front.up()
    try:
        yield front
    finally:
        front.down()


def response(status: int, body: bytes, length: int | None = None, **headers: str) -> bytes:
    """Return an HTTP answer; `length` where Content-Length is not the truth."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def sends(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Behave:
    def behave(connection: socket.socket, *_: Any) -> None:
        connection.sendall(response(status, body, length, **headers))

    return behave


def hangs(connection: socket.socket, *_: Any) -> None:
    """Say nothing until the client gives up."""
    connection.recv(1)


def drips(data: bytes, at_once: int = 0) -> Behave:
    """Send the first bytes at once and then one every 50 ms: every read of the client has something."""

    def behave(connection: socket.socket, *_: Any) -> None:
        connection.sendall(data[:at_once])
        for byte in data[at_once:]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return behave


def in_turn(*behaviours: Behave) -> Behave:
    """Do each once, the last one for ever."""
    left = list(behaviours)

    def behave(connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        now(connection, path, headers)

    return behave
