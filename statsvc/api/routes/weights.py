"""GET /weights, GET /methods and GET /samplers."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.datastructures import QueryParams
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, formats, problems, query
from statsvc.api.schemas.weights import MethodList, SamplerList, WeightsResponse
from statsvc.api.state.service import service_of
from statsvc.sampling import mixtures
from statsvc.sampling.weights import weights_response
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting import reference, serialize
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

router = APIRouter(tags=["weights"], default_response_class=Response)

_SHARE = r"(0?\.[0-9]{0,9}[1-9]|[1-9][0-9]{0,5}(\.[0-9]{1,9})?)"
_PART = rf"[A-Za-z0-9][A-Za-z0-9_.-]*(@([1-9][0-9]{{0,8}}|[A-Za-z][A-Za-z0-9_.-]*))?:{_SHARE}"

PARAMETERS = {
    "dataset": query.QueryParameter(
        "name of the dataset; optional if there is only one. `a:0.7,b:0.3` is a mixture: the stream that "
        "draws these shares of images from each dataset. `a@3:0.7,b@paper:0.3` mixes versions, by number or "
        "tag",
        {"type": "string", "pattern": f"^([^:]*|{_PART}(,{_PART}){{1,99}})$"},
    ),
    "version": query.VERSION,
    **query.SPEC,
    "format": query.QueryParameter(
        "json (default), csv or npy (float64); takes precedence over the Accept header",
        {"type": "string", "enum": list(formats.MEDIA_TYPES)},
    ),
}

PARSED_REQUESTS = 1024
"""Number of cached parsed requests, and of cached ETags."""

CACHED_REQUEST_BYTES = 2048
"""Query strings with Accept header above this length are parsed each time."""

OTHER_FORMATS = {
    "text/csv": {
        "schema": {"type": "string"},
        "example": "id,name,pixels,images,frequency,weight,loss_share,ignored,absent\r\n"
        "0,sky,20000000,366,0.8,0.6666666666666666,0.6666666666666666,false,false\r\n",
    },
    "application/x-npy": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "NumPy file with a float64 array of shape [C]",
        }
    },
}


class WeightsRequest(Struct, frozen=True, eq=False):
    """A validated request.

    form     format of the response
    dataset  name, None for the only dataset; for a mixture, its text
    parts    datasets of a mixture, None for a single dataset
    """

    form: str
    dataset: str | None
    number: int | str | None
    spec: WeightSpec
    parts: tuple[mixtures.MixturePart, ...] | None


@router.get(
    "/weights",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(
        WeightsResponse,
        problems.NOT_FOUND,
        problems.NOT_ACCEPTABLE,
        problems.UNANSWERABLE,
        *problems.OF_ARRAYS,
        description="The weights in the requested format.",
        others=OTHER_FORMATS,
    ),
)
async def get_weights(request: Request) -> Response:
    """Return class weights and the counts they derive from.

    `weights[i]` belongs to class id i. The format depends on `format`, else on the Accept header. A response
    for a version number never changes.
    """
    # Not a dependency as in other routes: FastAPI would resolve it again for every request.
    service = await service_of(request)
    accept = ",".join(request.headers.getlist("accept"))
    text = request.scope["query_string"]
    parse = _parse_cached if len(text) + len(accept) <= CACHED_REQUEST_BYTES else _parse
    parsed = parse(text, accept)
    if parsed.parts is None:
        published = [await service.published(parsed.dataset, parsed.number)]
        digest, pinned = published[0].digest_under(parsed.spec.class_map), isinstance(parsed.number, int)
    else:
        published = [await service.published(part.dataset, part.number) for part in parsed.parts]
        digest = json.dumps(
            [
                [version.digest_under(parsed.spec.class_map), part.share]
                for version, part in zip(published, parsed.parts, strict=True)
            ]
        )
        pinned = all(isinstance(part.number, int) for part in parsed.parts)

    def render(*tables: CachedTable) -> bytes:
        if parsed.parts is None:
            return serialize.render(parsed.form, weights_response(tables[0], parsed.spec))
        shares = [part.share for part in parsed.parts]
        mixture = list(zip(tables, shares, strict=True))
        return serialize.render(parsed.form, weights_response(mixture, parsed.spec))

    return await service.respond(
        request,
        _tag(digest, parsed),
        render,
        *published,
        pinned=pinned,
        media_type=formats.MEDIA_TYPES[parsed.form],
        negotiated=True,
    )


class Direct:
    """Middleware that answers `GET /weights` without the router, for speed; the innermost one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        if scope["type"] != "http" or scope["path"] != "/weights" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = get_weights
        request = Request(scope)
        try:
            response = await get_weights(request)
        except problems.EXPECTED as error:
            response = await problems.response_to(request, error)
        await response(scope, receive, send)


def _parse(text: bytes, accept: str) -> WeightsRequest:
    """Parse a query string and an Accept header. Raises `InvalidParameter`, `HTTPException` (406)."""
    values = query.checked_names(QueryParams(text), PARAMETERS)
    form = formats.chosen(values.pop("format", None), accept)
    number = query.version(values, PARAMETERS)
    spec = WeightSpec.from_params({name: values[name] for name in query.SPEC if name in values})
    parts = mixtures.parse(values.get("dataset"))
    if parts is not None:
        mixtures.without_version(number)
    return WeightsRequest(form, values.get("dataset"), number, spec, parts)


# Many trainers send the same request: a valid one is parsed once. The result does not depend on the catalog
# or on the token, and errors are not cached.
_parse_cached = lru_cache(PARSED_REQUESTS)(_parse)


@lru_cache(PARSED_REQUESTS)
def _tag(digest: str, parsed: WeightsRequest) -> str:
    return conditional.etag(digest, parsed.spec.to_dict(), parsed.form)


@router.get(
    "/methods",
    responses=documentation.cacheable(MethodList, description="All weighting methods."),
    openapi_extra={"parameters": [documentation.IF_NONE_MATCH]},
)
async def get_methods(request: Request) -> Response:
    """Return every weighting method with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"methods": reference.describe_methods()})


@router.get(
    "/samplers",
    responses=documentation.cacheable(SamplerList, description="All samplers."),
    openapi_extra={"parameters": [documentation.IF_NONE_MATCH]},
)
async def get_samplers(request: Request) -> Response:
    """Return every sampler with its formula, parameters, ranges and reference."""
    query.read(request, {})
    return await conditional.respond_json(request, {"samplers": reference.describe_samplers()})
