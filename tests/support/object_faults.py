"""A proxy in front of an S3 server that fails on demand: errors, hanging and dropped connections."""

from __future__ import annotations

import contextlib
import http.client
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from support.servers import free_port

Behavior = Callable[[str, str], str]
"""Maps the method and path of a request to "relay", "hang", "drop" or an HTTP status such as "500"."""

_ERROR = "<Error><Code>{}</Code><Message>simulated</Message></Error>"
_CODES = {"403": "AccessDenied", "429": "TooManyRequests", "500": "InternalError", "503": "SlowDown"}
_NOT_RELAYED = {"content-length", "connection", "transfer-encoding", "keep-alive", "server", "date"}


class FaultyProxy:
    """A proxy on a free port.

    behavior  chooses what happens to each request; default: relay it
    requests  (method, path) of every request
    closing   set when the proxy closes, which ends hanging requests
    """

    def __init__(self, upstream: str) -> None:
        self.behavior: Behavior = lambda _method, _path: "relay"
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = _Server(("127.0.0.1", port), _handler(self, urlsplit(upstream).netloc))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def always(self, action: str) -> None:
        """Do the same with every request from now on."""
        self.behavior = lambda _method, _path: action

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def _handler(proxy: FaultyProxy, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # otherwise each response waits 40 ms for the ACK of its headers

        def log_message(self, *_: object) -> None: ...

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle()

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append((self.command, self.path))
            action = proxy.behavior(self.command, self.path)
            if action == "relay":
                self.relay(body)
            elif action == "hang":
                proxy.closing.wait(60)
                self.close_connection = True
            elif action == "drop":
                self.close_connection = True
            else:
                content = _ERROR.format(_CODES[action]).encode()
                self.respond(int(action), content, {"Content-Length": str(len(content))})

        def relay(self, body: bytes) -> None:
            server = http.client.HTTPConnection(upstream, timeout=60)
            server.request(self.command, self.path, body, dict(self.headers))
            response = server.getresponse()
            content = response.read()
            headers = {k: v for k, v in response.getheaders() if k.lower() not in _NOT_RELAYED}
            length = response.headers["Content-Length"] if self.command == "HEAD" else str(len(content))
            self.respond(response.status, content, headers | {"Content-Length": length or "0"})
            server.close()

        def respond(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        # The base class calls a method named after the HTTP method.
        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request  # noqa: N815

    return Handler


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the server at a URL."""
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
