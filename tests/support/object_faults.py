"""A proxy before the S3 server that answers as it is told: a service that fails in every way."""

from __future__ import annotations

import contextlib
import http.client
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from support.object_store import free_port

Behave = Callable[[str, str], str]
"""From method and path to what is done: "relay", "hang", "drop", or a status such as "500"."""

_ERROR = "<Error><Code>{}</Code><Message>as told</Message></Error>"
_CODES = {"403": "AccessDenied", "429": "TooManyRequests", "500": "InternalError", "503": "SlowDown"}


class Faulty:
    """Listens on a port of its own. `asked` is every request that came, as (method, path)."""

    def __init__(self, upstream: str) -> None:
        self.behave: Behave = lambda _method, _path: "relay"
        self.asked: list[tuple[str, str]] = []
        self.ended = threading.Event()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = _Server(("127.0.0.1", port), _handler(self, urlsplit(upstream).netloc))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def always(self, what: str) -> None:
        self.behave = lambda _method, _path: what

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def _handler(faulty: Faulty, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its headers

        def log_message(self, *_: object) -> None: ...

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle()

        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            faulty.asked.append((self.command, self.path))
            what = faulty.behave(self.command, self.path)
            if what == "hang":
                faulty.ended.wait(60)
            if what in ("hang", "drop"):
                self.close_connection = True
            elif what == "relay":
                server = http.client.HTTPConnection(upstream, timeout=60)
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                content = answer.read()
                headers = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
                length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(content))
                self.answer(answer.status, content, headers | {"Content-Length": length or "0"})
                server.close()
            else:
                content = _ERROR.format(_CODES[what]).encode()
                self.answer(int(what), content, {"Content-Length": str(len(content))})

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = take  # noqa: N815 - the names that the base calls

    return Handler


_HOP = {"content-length", "connection", "transfer-encoding", "keep-alive", "server", "date"}


@contextlib.contextmanager
def faulty_before(upstream: str) -> Iterator[Faulty]:
    proxy = Faulty(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
