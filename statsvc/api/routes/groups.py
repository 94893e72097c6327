"""GET /datasets/{name}/groups: what each group of samples contains."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.splits import GroupList
from statsvc.api.state.service import InjectedService
from statsvc.dataset.groups import MAX_LENGTH
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.group_report import INTERPRETATION, groups_response
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

PARAMETERS = {
    "version": query.VERSION,
    "by": query.QueryParameter(
        r"name of a group rule of the dataset, `folder:LEVEL`, or an expression over the path such as "
        r"`^(\w+?)_`; if left out, only the rules are listed",
        {"type": "string", "format": "re2", "maxLength": MAX_LENGTH},
    ),
    **{name: query.SPEC[name] for name in (*INTERPRETATION, "ignore", "group")},
}


@router.get(
    "/datasets/{name}/groups",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(GroupList, *problems.OF_COUNTS, description="The groups."),
)
async def get_groups(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the images and class shares of each group, and the spread of the weights over the groups.

    Without `by`, returns the group rules of the dataset, and rules that suit its paths.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    by = values.pop("by", None)
    values.pop("version", None)
    spec = WeightSpec.from_params(values)
    interpretation = {key: getattr(spec, key) for key in INTERPRETATION}
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        return json_bytes(groups_response(table, by, spec))

    tag = conditional.etag(published.digest_under(spec.class_map), {"by": by, **interpretation}, "groups")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))
