"""What the access log and the audit log say about a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from starlette.types import Scope

MAX_PATH = 500
"""Characters of a path that are logged; a client can send 64 kB."""


def log_fields(scope: Scope, status: int) -> dict[str, Any]:
    """Return method, path, status and client of a request.

    The path has neither the query string nor any header, because both can contain secrets.
    """
    path = scope.get("raw_path", scope["path"].encode()).decode("ascii", "backslashreplace")
    return {
        "method": scope["method"],
        "path": path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…",
        "status": status,
        "client": one_line(scope["client"][0]) if scope.get("client") else "-",
    }
