"""GET /datasets/{name}/sampling: how probable each image is for a sampler, page by page."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, query
from statsvc.api.state.cached_table import RememberedTable
from statsvc.api.state.service import Shared
from statsvc.sampling.plan import SamplingRequest, plan_sampling
from statsvc.store.versions.arrays import ROWS_PER_CHUNK
from statsvc.weighting import schemes
from statsvc.weighting.serialize import json_bytes

if TYPE_CHECKING:
    from statsvc.sampling.plan import SamplingPlan

router = APIRouter()

PARAMETERS = {
    "version": query.VERSION,
    "sampler": query.QueryParameter(
        "how images are drawn", {"type": "string", "enum": list(schemes.SCHEMES)}
    ),
    "limit": query.integer_parameter("samples on a page; default 1000", high=100_000),
    "after": query.QueryParameter("only samples behind this path: the `next` of the page before"),
    **{name: parameter for name, parameter in query.SPEC.items() if name != "sampler"},
}


@router.get("/datasets/{name}/sampling", openapi_extra=query.documented(PARAMETERS))
async def get_sampling(request: Request, name: str, service: Shared) -> Response:
    """Return the probability of each image in path order, and what the sampler knows of each class.

    The probabilities of all pages add up to 1. Label maps that could not be read are left out.
    """
    given = query.read(request, PARAMETERS)
    number = query.version(given, PARAMETERS)
    limit = query.integer(given, "limit", PARAMETERS) or 1000
    after = given.get("after")
    params = {key: given[key] for key in query.SPEC if key in given and key != "sampler"}
    question = SamplingRequest.from_params(given.get("sampler"), params)
    published = await service.published(name, number)

    def make(table: RememberedTable) -> bytes:
        plan = plan_sampling(table, question)
        return json_bytes(plan.head | page(table, plan, question.spec.split, after, limit))

    asked = {"sampler": question.sampler, "spec": question.to_dict(), "after": after, "limit": limit}
    tag = conditional.etag(published.digest, asked, "sampling")
    headers = conditional.cache_headers(
        tag, pinned=isinstance(number, int), age=service.watch.age, negotiated=False
    )
    return await conditional.respond(
        request, headers, "application/json", lambda: service.answer(tag, make, published)
    )


def page(
    table: RememberedTable, plan: SamplingPlan, split: str | None, after: str | None, limit: int
) -> dict[str, Any]:
    """Return the samples behind a path and where the next page begins, reading only the chunks needed."""
    version = table.stored
    paths, states = version.array("path"), version.array("status")
    chosen = None if split is None else table.split(split)
    start = 0 if after is None else bisect_right(paths, after)
    samples: list[dict[str, Any]] = []
    for low in range(start - start % ROWS_PER_CHUNK, len(paths), ROWS_PER_CHUNK):
        rows = np.arange(max(low, start), min(low + ROWS_PER_CHUNK, len(paths)))
        rows = rows[states[rows] == 0]
        if chosen is not None:
            rows = rows[[chosen.contains(str(path)) for path in paths[rows]]]
        if not len(rows):
            continue
        if len(samples) == limit:
            return {"samples": samples, "next": samples[-1]["path"]}
        counts = version.counts(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
        q = plan.draws.probability(table.apply_class_map(counts, plan.interpreted.class_map))
        more = [
            {"path": str(paths[row]), "probability": share}
            for row, share in zip(rows.tolist(), q.tolist(), strict=True)
        ]
        if len(samples) + len(more) > limit:
            samples += more[: limit - len(samples)]
            return {"samples": samples, "next": samples[-1]["path"]}
        samples += more
    return {"samples": samples, "next": None}
