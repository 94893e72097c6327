"""GET /datasets/{name}/doctor: what looks wrong in a version."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, query
from statsvc.api.state.cached_table import RememberedTable
from statsvc.api.state.service import Shared
from statsvc.doctor.report import examine
from statsvc.weighting.serialize import json_bytes

router = APIRouter()

PARAMETERS = {"version": query.VERSION}


@router.get("/datasets/{name}/doctor", openapi_extra=query.documented(PARAMETERS))
async def get_doctor(request: Request, name: str, service: Shared) -> Response:
    """Return findings on a version: what was seen, in which files, how far it moves weights, what to do."""
    given = query.read(request, PARAMETERS)
    number = query.version(given, PARAMETERS)
    published = await service.published(name, number)

    def make(table: RememberedTable) -> bytes:
        return json_bytes(examine(table, table.stored.array if table.has_rows else None))

    tag = conditional.etag(published.digest, {"rows": not published.key[2]}, "doctor")
    headers = conditional.cache_headers(
        tag, pinned=isinstance(number, int), age=service.watch.age, negotiated=False
    )
    return await conditional.respond(
        request, headers, "application/json", lambda: service.answer(tag, make, published)
    )
