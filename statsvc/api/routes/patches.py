"""GET /datasets/{name}/patches: the tiles that contain a class, most pixels first."""

from __future__ import annotations

from fastapi import APIRouter, Request
from msgspec.structs import replace
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import PatchPage
from statsvc.api.state.service import InjectedService
from statsvc.errors import InvalidParameter
from statsvc.sampling import patches
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

PAGE_SIZE = 1000

_SELECTION = ("split", "class_map")
PARAMETERS = {
    "version": query.VERSION,
    "class_id": replace(query.integer_parameter("class id, after the class map", 0), required=True),
    "min_pixels": query.integer_parameter(
        "only tiles with at least this many pixels of the class; default 1"
    ),
    "limit": query.integer_parameter(f"patches per page; default {PAGE_SIZE}", high=100_000),
    "after": query.integer_parameter("only patches after this rank: `next` of the previous page", 0),
    **{name: query.SPEC[name] for name in (*_SELECTION, "group")},
}


@router.get(
    "/datasets/{name}/patches",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(PatchPage, *problems.OF_COUNTS, description="A page of patches."),
)
async def get_patches(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the tiles of images and volumes that contain a class, those with most of its pixels first.

    The dataset must have been counted on a grid, or its rows must be parts of arrays.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    class_id = query.integer(values, "class_id", PARAMETERS)
    if class_id is None:
        raise InvalidParameter(("class_id", "is required: the class that the patches contain"))
    min_pixels = query.integer(values, "min_pixels", PARAMETERS) or 1
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE
    after = query.integer(values, "after", PARAMETERS) or 0
    spec = WeightSpec.from_params({key: values[key] for key in (*_SELECTION, "group") if key in values})
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        return json_bytes(patches.page(table, class_id, spec, min_pixels, after, limit))

    selection = {
        "class_id": class_id,
        "min_pixels": min_pixels,
        "after": after,
        "limit": limit,
        **{key: getattr(spec, key) for key in _SELECTION},
    }
    tag = conditional.etag(published.digest_under(spec.class_map), selection, "patches")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))
