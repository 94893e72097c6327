"""GET /: the page for browsers, a list of paths for programs; and the files that the page loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from statsvc.api.http import conditional, documentation, formats
from statsvc.api.http.access import PAGE_FILES
from statsvc.api.schemas.service import Index

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER = Path(__file__).parents[1] / "page"

INDEX = {
    "name": "statsvc",
    "paths": (
        "/weights",
        "/methods",
        "/datasets",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
    ),
}
MEDIA_TYPES = {"json": "application/json", "html": "text/html"}

HEADERS = {
    "Cache-Control": "no-cache",
    # Names of classes and files are untrusted text: only the page's own scripts may run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(tags=["service"], default_response_class=Response)


class PageFiles(StaticFiles):
    """Static files with the headers of the page."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return the file, or 304 if the client's copy is current."""
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


page_files = PageFiles(directory=FOLDER)


def install(app: FastAPI) -> None:
    """Add the files that the page loads to an application."""
    app.mount(PAGE_FILES.rstrip("/"), PageFiles(directory=FOLDER / "assets"))


@router.get(
    "/",
    responses=documentation.cacheable(
        Index,
        description="The page or the list of paths, depending on the Accept header.",
        others={"text/html": {"schema": {"type": "string"}}},
    ),
    openapi_extra={"parameters": [documentation.IF_NONE_MATCH]},
)
async def get_index(request: Request) -> Response:
    """Return the page to browsers and a list of paths to programs."""
    accept = ",".join(request.headers.getlist("accept"))
    if formats.preferred(MEDIA_TYPES, accept) == "html":
        response = await page_files.get_response("index.html", request.scope)
    else:
        response = await conditional.respond_json(request, INDEX)
    response.headers["Vary"] = "Accept"
    return response
