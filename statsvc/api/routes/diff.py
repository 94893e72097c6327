"""GET /datasets/{name}/diff."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import Difference
from statsvc.api.state.service import InjectedService
from statsvc.errors import InvalidParameter
from statsvc.sampling.weights import weights_response
from statsvc.store.catalog.tags import TAG
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.difference import difference
from statsvc.weighting.parameters import ALIASES, WeightSpec
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

_SIDE = rf"^(?:([A-Za-z0-9][A-Za-z0-9_.-]*)@)?(0|[1-9][0-9]{{0,8}}|{TAG.pattern})?(?:/(\S.*))?$"
"""Dataset, version and split of one side; also a pattern of JSON Schema."""

_SCHEMA = {"type": "string", "pattern": _SIDE, "maxLength": 4096}
_FORM = (
    "a version number or tag, `VERSION/SPLIT`, `/SPLIT` of the current version, or the same of another "
    "dataset: `NAME@VERSION`, `NAME@VERSION/SPLIT`, `NAME@` for its current version. A group is a split"
)
PARAMETERS = {
    "from": query.QueryParameter(f"what to compare with: {_FORM}", _SCHEMA, required=True),
    "to": query.QueryParameter(f"what changed; the current version if left out: {_FORM}", _SCHEMA),
} | {
    name: parameter
    for name, parameter in query.SPEC.items()
    if ALIASES.get(name, name) not in ("split", "sampler", "recipe")
}


@router.get(
    "/datasets/{name}/diff",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(
        Difference,
        problems.NOT_FOUND,
        problems.UNANSWERABLE,
        *problems.OF_ARRAYS,
        description="The changes of every class.",
    ),
)
async def get_diff(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return how pixels, images, share and weight of each class differ between versions, splits or datasets.

    `distance` is the Jensen-Shannon distance of the shares of pixels, from 0 to 1. The other parameters are
    those of `GET /weights` and apply to both sides.
    """
    values = query.read(request, PARAMETERS)
    if "from" not in values:
        raise InvalidParameter(("from", f"required: {_FORM}"))
    sides = [_side(key, values.pop(key, ""), name) for key in ("from", "to")]
    specs = [
        WeightSpec.from_params(values | ({} if split is None else {"split": split})) for _, _, split in sides
    ]
    published = [await service.published(dataset, number) for dataset, number, _ in sides]

    def render(*tables: CachedTable) -> bytes:
        answers = [weights_response(table, spec) for table, spec in zip(tables, specs, strict=True)]
        return json_bytes(difference(*answers))

    digest = json.dumps(
        [version.digest_under(spec.class_map) for version, spec in zip(published, specs, strict=True)]
    )
    content: dict[str, Any] = {"specs": [spec.to_dict() for spec in specs]}
    tag = conditional.etag(digest, content, "diff")
    pinned = all(isinstance(number, int) for _, number, _ in sides)
    return await service.respond(request, tag, render, *published, pinned=pinned)


def _side(parameter: str, text: str, name: str) -> tuple[str, int | str | None, str | None]:
    """Return dataset, version and split of one side. Raises `InvalidParameter`."""
    match = re.fullmatch(_SIDE, text)
    if match is None:
        raise InvalidParameter((parameter, f"expected {_FORM}"))
    dataset, version, split = match.groups()
    number = int(version) if version and version.isdigit() else version
    return dataset or name, number, split
