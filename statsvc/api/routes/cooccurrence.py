"""GET /datasets/{name}/cooccurrence."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import CooccurrenceResponse
from statsvc.api.state.service import InjectedService
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.cooccurrence import cooccurrence_response
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

_INTERPRETATION = ("split", "class_map", "ignore_index", "num_classes")
PARAMETERS = {
    "version": query.VERSION,
    **{name: query.SPEC[name] for name in (*_INTERPRETATION, "ignore", "group")},
}


@router.get(
    "/datasets/{name}/cooccurrence",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(
        CooccurrenceResponse,
        problems.NOT_FOUND,
        problems.UNANSWERABLE,
        *problems.OF_ARRAYS,
        description="The numbers of images.",
    ),
)
async def get_cooccurrence(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return in how many images each two classes occur together, after the class map.

    Needs the rows of the version, which retention may have removed.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    values.pop("version", None)
    spec = WeightSpec.from_params(values)
    interpretation: dict[str, Any] = {key: getattr(spec, key) for key in _INTERPRETATION}
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        return json_bytes(cooccurrence_response(table, **interpretation))

    tag = conditional.etag(published.digest_under(spec.class_map), interpretation, "cooccurrence")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))
