"""The media type of request bodies."""

from __future__ import annotations

from fastapi import Request
from starlette.exceptions import HTTPException


async def no_form(request: Request) -> None:
    """Reject a body of another type than JSON where no body is needed."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        await json_only(request)


async def json_only(request: Request) -> None:
    """Reject every media type except application/json with 415.

    A form on another website cannot send this type without a CORS preflight request, so it cannot write.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(
            415, f"Content-Type is {content_type!r}; send the request body as application/json"
        )
