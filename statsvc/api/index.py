"""GET /: the page for browsers, where to begin for programs; and the page's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from statsvc.api.http import conditional, formats

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER = Path(__file__).with_name("page")
ASSETS = "/page/"
"""Where the page's style and scripts are asked for."""

INDEX = {
    "name": "statsvc",
    "paths": ("/weights", "/methods", "/datasets", "/healthz", "/readyz", "/openapi.json", "/docs"),
}
OFFERED = {"json": "application/json", "html": "text/html"}

HEADERS = {
    "Cache-Control": "no-cache",
    # What a class or a file is called is anyone's text: nothing runs that is not one of the page's files.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter()


class PageFiles(StaticFiles):
    """Files with the page's headers."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return the file, or 304 where the client holds it."""
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


page = PageFiles(directory=FOLDER)


def install(app: FastAPI) -> None:
    """Answer for `/` and for what the page loads."""
    app.include_router(router)
    app.mount(ASSETS.rstrip("/"), PageFiles(directory=FOLDER / "assets"))


@router.get("/", responses={200: {"content": {media_type: {} for media_type in OFFERED.values()}}})
async def get_index(request: Request) -> Response:
    """Return the page to browsers, and where to begin to everything else."""
    accept = ",".join(request.headers.getlist("accept"))
    if formats.preferred(OFFERED, accept) == "html":
        response = await page.get_response("index.html", request.scope)
    else:
        response = await conditional.respond_json(request, INDEX)
    response.headers["Vary"] = "Accept"
    return response
