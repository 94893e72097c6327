"""ETags, conditional requests and caching (RFC 9110 and RFC 9111)."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import xxhash
from starlette.responses import Response

from statsvc.weighting.response import SCHEMA
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
"""An entity tag (RFC 9110, 8.8.3) without its weakness indicator."""

ENCODED_HEADERS = 1024
"""Number of cached sets of header fields."""

PINNED = "public, max-age=31536000, immutable"
"""Cache-Control of a numbered version, which never changes."""


def etag(digest: str, request: Mapping[str, Any], representation: str) -> str:
    """Return the strong ETag of a response that follows from a version and a request.

    digest   identifies the versions
    request  the parameters of the request as JSON, including defaults
    """
    content = json.dumps([digest, request, representation, SCHEMA], sort_keys=True).encode()
    return f'"{xxhash.xxh3_128_hexdigest(content)}"'


def lists_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether an If-None-Match header lists the tag, by weak comparison (RFC 9110, 13.1.2)."""
    return if_none_match is not None and (if_none_match == tag or tag in _TAGS.findall(if_none_match))


def is_any(if_none_match: str | None) -> bool:
    """Whether an If-None-Match header is `*`, which matches every successful response."""
    return if_none_match is not None and if_none_match.strip() == "*"


def cache_headers(
    tag: str, *, pinned: bool, age: int | None, negotiated: bool, warnings: Sequence[str] = ()
) -> dict[str, str]:
    """Return the headers of a response and of its 304.

    pinned      whether the request names version numbers, so that the response never changes
    age         seconds since the catalog was read, None while it answers
    negotiated  whether the format depends on the Accept header
    warnings    why the version may be out of date, ASCII
    """
    headers = {"ETag": tag, "Cache-Control": PINNED if pinned else "no-cache"}
    if negotiated:
        headers["Vary"] = "Accept"
    if pinned:
        return headers
    # The Warning field of RFC 7234: a header, because the body must not change while its ETag is the same.
    texts = [f'199 statsvc "{warning}"' for warning in warnings]
    if age is not None:
        headers["Age"] = str(age)
        texts.insert(0, f'110 statsvc "the catalog has not answered for {age} s; this may be out of date"')
    if texts:
        headers["Warning"] = ", ".join(texts)
    return headers


async def respond(
    request: Request, headers: Mapping[str, str], media_type: str, make: Callable[[], Awaitable[bytes]]
) -> Response:
    """Return 304 if the client's copy is current, else the body that `make` returns.

    For `If-None-Match: *`, an error that `make` raises takes precedence over 304.
    """
    # Several If-None-Match fields are one list (RFC 9110, 5.3).
    if_none_match = ", ".join(request.headers.getlist("if-none-match")) or None
    if lists_tag(if_none_match, headers["ETag"]):
        return _Prepared(304, b"", headers, None)
    content = await make()
    if is_any(if_none_match):
        return _Prepared(304, b"", headers, None)
    return _Prepared(200, content, headers, media_type)


class _Prepared(Response):
    """A response whose header fields are encoded once for many requests."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str], media_type: str | None) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [*_encoded(media_type, *headers.items())]
        if status != 304:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))


@lru_cache(ENCODED_HEADERS)
def _encoded(media_type: str | None, *fields: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return Response(status_code=304, headers=dict(fields), media_type=media_type).raw_headers


async def respond_json(request: Request, body: Any) -> Response:
    """Return JSON with an ETag computed from its bytes, or 304 if the client's copy is current."""
    content = json_bytes(body)
    headers = {"ETag": f'"{xxhash.xxh3_128_hexdigest(content)}"', "Cache-Control": "no-cache"}

    async def make() -> bytes:
        return content

    return await respond(request, headers, "application/json", make)
