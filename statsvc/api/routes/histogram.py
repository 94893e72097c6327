"""GET /datasets/{name}/histogram."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import Histogram
from statsvc.api.state.service import InjectedService
from statsvc.sampling.crop_histogram import crop_histogram_response
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.histogram import histogram_response
from statsvc.weighting.parameters import CROP, WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

_INTERPRETATION = ("split", "class_map", "ignore_index", "num_classes")
PARAMETERS = {
    "version": query.VERSION,
    **{name: query.SPEC[name] for name in (*_INTERPRETATION, "ignore", "group", *CROP)},
}


@router.get(
    "/datasets/{name}/histogram",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(Histogram, *problems.OF_COUNTS, description="The counts."),
)
async def get_histogram(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the pixels and images of every id after the class map.

    `class_map=none` returns the counts of raw ids. With `crop`, the pixels are those expected in one random
    crop of each image.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    values.pop("version", None)
    spec = WeightSpec.from_params(values)
    interpretation: dict[str, Any] = {key: getattr(spec, key) for key in _INTERPRETATION}
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        if spec.crop is not None:
            return json_bytes(crop_histogram_response(table, spec))
        return json_bytes(histogram_response(table, **interpretation))

    crops = {} if spec.crop is None else {name: getattr(spec.resolved(), name) for name in CROP}
    tag = conditional.etag(published.digest_under(spec.class_map), interpretation | crops, "histogram")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))
