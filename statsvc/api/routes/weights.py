"""GET /weights, GET /methods and GET /samplers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from statsvc.api.http import conditional, formats, query
from statsvc.api.state.cached_table import RememberedTable
from statsvc.api.state.service import of as shared
from statsvc.sampling import mixtures
from statsvc.sampling.weights import weights_response
from statsvc.weighting import reference, serialize
from statsvc.weighting.parameters import WeightSpec

router = APIRouter()

PARAMETERS = {
    "dataset": query.QueryParameter(
        "name of a dataset; may be left out where there is one only. a:0.7,b:0.3 weighs the stream that "
        "draws so many images of each, a@3:0.7,b@paper:0.3 of these versions"
    ),
    "version": query.VERSION,
    **query.SPEC,
    "format": query.QueryParameter(
        "json (default), csv or npy (float64); goes before Accept",
        {"type": "string", "enum": list(formats.MEDIA_TYPES)},
    ),
}


REMEMBERED_BYTES = 2048
"""Longest text of a question that is remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightsRequest:
    """What is asked for, checked: the representation, of which versions, and how they are weighed.

    dataset  name, None for the only one there is; of a mixture, its text
    parts    those of a mixture, None for one dataset
    """

    form: str
    dataset: str | None
    number: int | str | None
    spec: WeightSpec
    parts: tuple[mixtures.MixturePart, ...] | None


@router.get(
    "/weights",
    openapi_extra=query.documented(PARAMETERS),
    responses={
        200: {"content": {media.partition(";")[0]: {} for media in formats.MEDIA_TYPES.values()}},
        304: {"description": "The client holds this answer already"},
    },
)
async def get_weights(request: Request) -> Response:
    """Return class weights with everything that they rest on; `weights[i]` belongs to class id i."""
    # Not a parameter, as elsewhere: FastAPI works out its dependencies anew for every request.
    service = await shared(request)
    accept = ",".join(request.headers.getlist("accept"))
    text = request.scope["query_string"]
    asked = (_remembered if len(text) + len(accept) <= REMEMBERED_BYTES else _asked)(text, accept)
    if asked.parts is None:
        published = [await service.published(asked.dataset, asked.number)]
        digest, pinned = published[0].digest_under(asked.spec.class_map), isinstance(asked.number, int)
    else:
        published = [await service.published(part.dataset, part.number) for part in asked.parts]
        digest = json.dumps(
            [
                [one.digest_under(asked.spec.class_map), part.share]
                for one, part in zip(published, asked.parts, strict=True)
            ]
        )
        pinned = all(isinstance(part.number, int) for part in asked.parts)

    def make(*tables: RememberedTable) -> bytes:
        if asked.parts is None:
            return serialize.render(asked.form, weights_response(tables[0], asked.spec))
        shares = [part.share for part in asked.parts]
        mixture = list(zip(tables, shares, strict=True))
        return serialize.render(asked.form, weights_response(mixture, asked.spec))

    tag = _tag(digest, asked)
    headers = conditional.cache_headers(tag, pinned=pinned, age=service.watch.age, negotiated=True)
    return await conditional.respond(
        request, headers, formats.MEDIA_TYPES[asked.form], lambda: service.answer(tag, make, *published)
    )


def _asked(text: bytes, accept: str) -> WeightsRequest:
    """Return what a query string and an Accept header ask for. Raises `InvalidParameter`, or 406."""
    given = query.checked_names(QueryParams(text), PARAMETERS)
    form = formats.chosen(given.pop("format", None), accept)
    number = query.version(given, PARAMETERS)
    spec = WeightSpec.from_params({name: given[name] for name in query.SPEC if name in given})
    parts = mixtures.parse(given.get("dataset"))
    if parts is not None:
        mixtures.without_version(number)
    return WeightsRequest(form, given.get("dataset"), number, spec, parts)


# A thousand trainers ask the same: text that passed every check is not read again. It says nothing of what
# the catalog holds, nor of who may ask; what is refused is not remembered.
_remembered = lru_cache(1024)(_asked)


@lru_cache(1024)
def _tag(digest: str, asked: WeightsRequest) -> str:
    return conditional.etag(digest, asked.spec.to_dict(), asked.form)


@router.get("/methods")
async def get_methods(request: Request) -> Response:
    """Return every weighting method with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"methods": reference.describe_methods()})


@router.get("/samplers")
async def get_samplers(request: Request) -> Response:
    """Return every sampler with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"samplers": reference.describe_samplers()})
