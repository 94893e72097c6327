"""JSON responses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping


def json_response(
    body: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Return a JSON response that caches must revalidate, unless `headers` set Cache-Control."""
    return Response(
        json_bytes(body),
        status,
        headers={"Cache-Control": "no-cache", **(headers or {})},
        media_type=media_type,
    )


def iso(seconds: float | None) -> str | None:
    """Return seconds since 1970 as ISO 8601 in UTC with milliseconds; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
