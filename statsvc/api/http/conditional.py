"""ETags, conditional requests and caching, as RFC 9110 and RFC 9111 have them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import xxhash
from starlette.responses import Response

from statsvc.weighting.response import SCHEMA
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
"""An entity tag (RFC 9110, 8.8.3), its weakness apart."""

PINNED = "public, max-age=31536000, immutable"
"""A numbered version never changes."""


def etag(version: str, question: Mapping[str, Any], representation: str) -> str:
    """Return the strong tag of an answer: the same for the same version digest, question and format."""
    content = json.dumps([version, question, representation, SCHEMA], sort_keys=True).encode()
    return f'"{xxhash.xxh3_128_hexdigest(content)}"'


def names(if_none_match: str | None, tag: str) -> bool:
    """Whether an If-None-Match header lists the tag, by weak comparison (RFC 9110, 13.1.2).

    A client that names it was given this answer before; `*` (see `any_tag`) says nothing of the kind.
    """
    return if_none_match is not None and tag in _TAGS.findall(if_none_match)


def any_tag(if_none_match: str | None) -> bool:
    """Whether an If-None-Match header is `*`: not modified if there is an answer at all."""
    return if_none_match is not None and if_none_match.strip() == "*"


def cache_headers(tag: str, *, pinned: bool, age: int | None, negotiated: bool) -> dict[str, str]:
    """Return the headers that an answer and its 304 share.

    age  seconds since the catalog last answered, where it does not
    """
    headers = {"ETag": tag, "Cache-Control": PINNED if pinned else "no-cache"}
    if negotiated:
        headers["Vary"] = "Accept"
    if age is not None and not pinned:
        headers["Age"] = str(age)
    return headers


async def respond(
    request: Request, headers: Mapping[str, str], media_type: str, make: Callable[[], Awaitable[bytes]]
) -> Response:
    """Return the answer that `make` makes, or 304 where the client holds it already.

    An error of `make` goes before a 304 for `*`: there is nothing then that was not modified.
    """
    # Several If-None-Match fields are one list (RFC 9110, 5.3).
    held = ", ".join(request.headers.getlist("if-none-match")) or None
    if names(held, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    content = await make()
    if any_tag(held):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


async def respond_json(request: Request, body: Any) -> Response:
    """Return JSON that is cheap to make, tagged by its bytes, or 304 where the client holds it."""
    content = json_bytes(body)
    headers = {"ETag": f'"{xxhash.xxh3_128_hexdigest(content)}"', "Cache-Control": "no-cache"}

    async def make() -> bytes:
        return content

    return await respond(request, headers, "application/json", make)
