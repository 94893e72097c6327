"""GET /datasets/{name}/histogram."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, query
from statsvc.api.state.cached_table import RememberedTable
from statsvc.api.state.service import Shared
from statsvc.weighting.histogram import histogram_response
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter()

_READING = ("split", "class_map", "ignore_index", "num_classes")
HISTOGRAM = {
    "version": query.VERSION,
    **{name: query.SPEC[name] for name in (*_READING, "ignore")},
}


@router.get("/datasets/{name}/histogram", openapi_extra=query.documented(HISTOGRAM))
async def get_histogram(request: Request, name: str, service: Shared) -> Response:
    """Return pixels and images of every id after the class map (`class_map=none`: raw ids)."""
    given = query.read(request, HISTOGRAM)
    number = query.version(given, HISTOGRAM)
    given.pop("version", None)
    spec = WeightSpec.from_params(given)
    asked: dict[str, Any] = {key: getattr(spec, key) for key in _READING}
    published = await service.published(name, number)

    def make(table: RememberedTable) -> bytes:
        return json_bytes(histogram_response(table, **asked))

    tag = conditional.etag(published.digest_under(spec.class_map), asked, "histogram")
    headers = conditional.cache_headers(
        tag, pinned=isinstance(number, int), age=service.watch.age, negotiated=False
    )
    return await conditional.respond(
        request, headers, "application/json", lambda: service.answer(tag, make, published)
    )
