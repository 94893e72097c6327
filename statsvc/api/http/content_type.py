"""Request bodies are JSON and say so."""

from __future__ import annotations

from fastapi import Request
from starlette.exceptions import HTTPException


async def json_only(request: Request) -> None:
    """Refuse another media type than application/json with 415.

    A form on some web page cannot send this type without the browser asking first, so it cannot write.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"send the body as Content-Type: application/json, not {given!r}")
