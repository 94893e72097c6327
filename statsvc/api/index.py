"""GET /: the page for browsers, where to begin for programs; and the page's files."""

from __future__ import annotations

from pathlib import Path

import xxhash
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from statsvc.api import conditional, formats
from statsvc.representations import json_bytes

router = APIRouter()

FOLDER = Path(__file__).with_name("page")
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FILES = {file.name: file.read_bytes() for file in sorted(FOLDER.iterdir()) if file.suffix in MEDIA_TYPES}
PAGE = "index.html"
PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES if name != PAGE)})
"""What loads without a token, for it holds no data."""

INDEX = {
    "name": "statsvc",
    "paths": ("/weights", "/methods", "/datasets", "/healthz", "/readyz", "/openapi.json", "/docs"),
}
_OFFERED = {"json": "application/json", "html": MEDIA_TYPES[".html"]}

SAFETY = {
    # What a class or a file is called is anyone's text: nothing runs that is not one of the page's files.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/", responses={200: {"content": {media.partition(";")[0]: {} for media in _OFFERED.values()}}})
async def get_index(request: Request) -> Response:
    """Return the page to browsers, and where to begin to everything else."""
    accept = ",".join(request.headers.getlist("accept"))
    if formats.preferred(_OFFERED, accept) == "html":
        return await _file(request, PAGE, negotiated=True)
    return await _content(request, json_bytes(INDEX), _OFFERED["json"], negotiated=True)


@router.get("/page/{name}", include_in_schema=False)
async def get_file(request: Request, name: str) -> Response:
    """Return one of the page's files."""
    if f"/page/{name}" not in PATHS:
        raise HTTPException(404, f"the page has no file {name!r}; GET / is the page")
    return await _file(request, name, negotiated=False)


async def _file(request: Request, name: str, *, negotiated: bool) -> Response:
    media_type = MEDIA_TYPES[Path(name).suffix]
    response = await _content(request, FILES[name], media_type, negotiated=negotiated)
    response.headers.update(SAFETY)
    return response


async def _content(request: Request, content: bytes, media_type: str, *, negotiated: bool) -> Response:
    tag = f'"{xxhash.xxh3_128_hexdigest(content)}"'
    headers = conditional.cache_headers(tag, pinned=False, age=None, negotiated=negotiated)

    async def make() -> bytes:
        return content

    return await conditional.respond(request, headers, media_type, make)
