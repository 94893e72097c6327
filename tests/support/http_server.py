"""An HTTP server on loopback whose responses a test chooses, by default weights of a small table."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLE = table_of(
    [{0: 100, 1: 30, 2: 7, 255: 4}, {0: 90, 2: 1}], class_names=("road", "person", "pole"), num_classes=3
)


@dataclass
class Reply:
    """A response of the server. A `body` of bytes is sent as it is, anything else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass
class Server:
    """A real HTTP server on loopback.

    requests  (path, headers) of every request, header names in lower case
    """

    url: str
    reply: Callable[[str, dict[str, str]], Reply]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def weights_reply(path: str, headers: dict[str, str]) -> Reply:
    """Respond to GET /weights with weights of `TABLE`, with a strong ETag and conditional requests."""
    params = dict(parse_qsl(urlsplit(path).query))
    params.pop("dataset", None)
    params.pop("version", None)
    body = json.dumps(weights_response(TABLE, WeightSpec.from_params(params))).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    if headers.get("if-none-match") == etag:
        return Reply(304, b"", {"ETag": etag})
    return Reply(200, body, {"ETag": etag})


@contextmanager
def serving(reply: Callable[[str, dict[str, str]], Reply]) -> Iterator[Server]:
    """Run a server that responds with `reply(path, headers)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.path, headers))
            reply = server.reply(self.path, headers)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            sent = {"Content-Type": reply.content_type, "Content-Length": str(len(body))} | reply.headers
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}", reply)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def problem(kind: str, status: int, detail: str = "", errors: Any = ()) -> Reply:
    """Return an error response of statsvc (RFC 9457)."""
    body = {"type": f"/problems/{kind}", "title": kind, "status": status, "detail": detail, "errors": errors}
    return Reply(status, body, content_type="application/problem+json")


def cache_files(folder: Path | None = None) -> list[Path]:
    """Return the files in a cache folder, by default in that of STATSVC_CACHE."""
    return sorted((folder or Path(os.environ["STATSVC_CACHE"])).glob("*"))
