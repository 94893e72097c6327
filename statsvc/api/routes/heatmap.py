"""GET /datasets/{name}/heatmap: the share of each class in each tile of the grid."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import HeatMap
from statsvc.api.state.service import InjectedService
from statsvc.sampling.heatmap import heatmap_response
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.parameters import COUNTS, WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

PARAMETERS = {
    "version": query.VERSION,
    "class_id": query.integer_parameter("only this class, after the class map; by default all", 0),
    **{name: query.SPEC[name] for name in (*COUNTS, "ignore", "group")},
}


@router.get(
    "/datasets/{name}/heatmap",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(HeatMap, *problems.OF_COUNTS, description="The heat maps."),
)
async def get_heatmap(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the share of each class in the counted pixels of each tile, over all images.

    The dataset must have been counted on a grid.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    class_id = query.integer(values, "class_id", PARAMETERS)
    spec = WeightSpec.from_params(
        {key: value for key, value in values.items() if key not in ("version", "class_id")}
    )
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        return json_bytes(heatmap_response(table, spec, class_id))

    selection = {"class_id": class_id, **{key: getattr(spec, key) for key in COUNTS}}
    tag = conditional.etag(published.digest_under(spec.class_map), selection, "heatmap")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))
