"""GET /weights, GET /methods and GET /samplers."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc import answers, methods, mixtures, representations, schemes, streams
from statsvc.api import conditional, formats, query
from statsvc.api.service import Shared
from statsvc.api.tables import RememberedTable
from statsvc.spec import WeightSpec

router = APIRouter()

PARAMETERS = {
    "dataset": query.Parameter(
        "name of a dataset; may be left out where there is one only. a:0.7,b:0.3 weighs the stream that "
        "draws so many images of each, a@3:0.7,b@paper:0.3 of these versions"
    ),
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
    parts = mixtures.parse(given.get("dataset"))
    if parts is None:
        published = [await service.published(given.get("dataset"), number)]
        digest, pinned = published[0].digest_under(spec.class_map), isinstance(number, int)
    else:
        mixtures.without_version(number)
        published = [await service.published(part.dataset, part.number) for part in parts]
        digest = json.dumps(
            [
                [one.digest_under(spec.class_map), part.share]
                for one, part in zip(published, parts, strict=True)
            ]
        )
        pinned = all(isinstance(part.number, int) for part in parts)

    def make(*tables: RememberedTable) -> bytes:
        if parts is None:
            return representations.render(form, answers.answer(tables[0], spec))
        shares = [part.share for part in parts]
        return representations.render(form, streams.answer(list(zip(tables, shares, strict=True)), spec))

    tag = conditional.etag(digest, spec.to_dict(), form)
    headers = conditional.cache_headers(tag, pinned=pinned, age=service.watch.age, negotiated=True)
    return await conditional.respond(
        request, headers, formats.MEDIA_TYPES[form], lambda: service.answer(tag, make, *published)
    )


@router.get("/methods")
async def get_methods(request: Request) -> Response:
    """Return every weighting method with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"methods": methods.describe()})


@router.get("/samplers")
async def get_samplers(request: Request) -> Response:
    """Return every sampler with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"samplers": schemes.describe()})
