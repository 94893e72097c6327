"""HTTP requests of the clients, each on a new connection, and the documented problems."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "http-api.md"
TIMEOUT = 10.0
"""Seconds that a client waits for an answer before it gives up."""

PROXY_STATUSES = {502, 503, 504}
"""Statuses with which HAProxy itself answers, as HTML, where no server can."""


@dataclass(frozen=True)
class Response:
    """An answer of a server or of the proxy."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def is_of_proxy(self) -> bool:
        """Whether HAProxy answered instead of a server."""
        return self.status in PROXY_STATUSES and self.body.startswith(b"<html>")

    @property
    def problem(self) -> str | None:
        """Return the type of a problem, None if the body is not one."""
        if self.headers.get_content_type() != "application/problem+json":
            return None
        return str(json.loads(self.body)["type"]).removeprefix("/problems/")

    def json(self) -> Any:
        return json.loads(self.body)


def send(
    url: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Send a request. Raises `OSError` if no complete answer arrives within `TIMEOUT`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(
            method or ("GET" if body is None else "POST"),
            f"{parts.path}?{parts.query}" if parts.query else parts.path,
            data,
            ({} if data is None else {"Content-Type": "application/json"}) | (headers or {}),
        )
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"the response is incomplete: {type(error).__name__}") from error
    finally:
        connection.close()


def documented_problems() -> dict[str, int]:
    """Return the status of each problem type in the reference of the HTTP API."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 15, f"{REFERENCE} has no table of problems"
    return {name: int(status) for name, status in rows}
