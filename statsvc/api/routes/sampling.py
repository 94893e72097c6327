"""GET /datasets/{name}/sampling: the probability of each image under a sampler, in pages."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.weights import Sampling
from statsvc.api.state.service import InjectedService
from statsvc.sampling.plan import SamplingRequest, plan_sampling
from statsvc.store.versions.arrays import ROWS_PER_CHUNK
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting import schemes
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from statsvc.sampling.plan import SamplingPlan

router = APIRouter(tags=["weights"], default_response_class=Response)

PAGE_SIZE = 1000

PARAMETERS = {
    "version": query.VERSION,
    "sampler": query.QueryParameter(
        "sampler that draws the images", {"type": "string", "enum": list(schemes.SCHEMES)}, required=True
    ),
    "limit": query.integer_parameter(f"images per page; default {PAGE_SIZE}", high=100_000),
    "after": query.QueryParameter("only images after this path: `next` of the previous page"),
    **{name: parameter for name, parameter in query.SPEC.items() if name != "sampler"},
}


@router.get(
    "/datasets/{name}/sampling",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(Sampling, *problems.OF_COUNTS, description="A page of probabilities."),
)
async def get_sampling(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the probability of each image, and what the sampler derives from each class.

    Images are in path order. The probabilities of all pages add up to 1. Label maps that could not be read
    are left out.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE
    after = values.get("after")
    params = {key: values[key] for key in query.SPEC if key in values and key != "sampler"}
    sampling = SamplingRequest.from_params(values.get("sampler"), params)
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        plan = plan_sampling(table, sampling)
        return json_bytes(plan.head | page(table, plan, sampling.spec.split, after, limit))

    canonical = {"sampler": sampling.sampler, "spec": sampling.to_dict(), "after": after, "limit": limit}
    tag = conditional.etag(published.digest, canonical, "sampling")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))


def page(
    table: CachedTable, plan: SamplingPlan, split: str | None, after: str | None, limit: int
) -> dict[str, Any]:
    """Return the images after a path and the start of the next page. Reads only the chunks that it needs."""
    version = table.stored
    paths, states = version.array("path"), version.array("status")
    members = None if split is None else table.find_split(split)
    start = 0 if after is None else bisect_right(paths, after)
    samples: list[dict[str, Any]] = []
    for low in range(start - start % ROWS_PER_CHUNK, len(paths), ROWS_PER_CHUNK):
        rows = np.arange(max(low, start), min(low + ROWS_PER_CHUNK, len(paths)))
        rows = rows[states[rows] == 0]
        if members is not None:
            rows = rows[members.select(paths[rows].tolist())]
        if not len(rows):
            continue
        if len(samples) == limit:
            return {"samples": samples, "next": samples[-1]["path"]}
        counts = version.counts(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
        probabilities = plan.draws.probability(table.apply_class_map(counts, plan.interpreted.class_map))
        more = [
            {"path": str(paths[row]), "probability": probability}
            for row, probability in zip(rows.tolist(), probabilities.tolist(), strict=True)
        ]
        if len(samples) + len(more) > limit:
            samples += more[: limit - len(samples)]
            return {"samples": samples, "next": samples[-1]["path"]}
        samples += more
    return {"samples": samples, "next": None}
