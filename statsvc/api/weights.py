"""GET /weights and GET /methods."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc import answers, methods, representations
from statsvc.api import conditional, formats, query
from statsvc.api.responses import json_response
from statsvc.api.service import Shared
from statsvc.api.tables import RememberedTable
from statsvc.spec import WeightSpec

router = APIRouter()

PARAMETERS = {
    "dataset": query.Parameter("name of a dataset; may be left out where there is one only"),
    "version": query.VERSION,
    **query.SPEC,
    "format": query.Parameter(
        "json (default), csv or npy (float64); goes before Accept",
        {"type": "string", "enum": list(formats.MEDIA_TYPES)},
    ),
}


@router.get(
    "/weights",
    openapi_extra=query.documented(PARAMETERS),
    responses={
        200: {"content": {media.partition(";")[0]: {} for media in formats.MEDIA_TYPES.values()}},
        304: {"description": "The client holds this answer already"},
    },
)
async def get_weights(request: Request, service: Shared) -> Response:
    """Return class weights with everything that they rest on; `weights[i]` belongs to class id i."""
    given = query.read(request, PARAMETERS)
    form = formats.chosen(given.pop("format", None), ",".join(request.headers.getlist("accept")))
    number = query.version(given, PARAMETERS)
    spec = WeightSpec.from_params({name: given[name] for name in query.SPEC if name in given})
    published = await service.published(given.get("dataset"), number)

    def make(table: RememberedTable) -> bytes:
        return representations.render(form, answers.answer(table, spec))

    tag = conditional.etag(published.digest, spec.to_dict(), form)
    headers = conditional.cache_headers(
        tag, pinned=isinstance(number, int), age=service.watch.age, negotiated=True
    )
    return await conditional.respond(
        request, headers, formats.MEDIA_TYPES[form], lambda: service.answer(tag, published, make)
    )


@router.get("/methods")
async def get_methods(request: Request) -> Response:
    """Return every weighting method with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return json_response({"methods": methods.describe()})
