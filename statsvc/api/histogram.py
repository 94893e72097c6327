"""GET /datasets/{name}/histogram and /datasets/{name}/versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc import answers
from statsvc.api import conditional, query
from statsvc.api.descriptions import version_description
from statsvc.api.responses import json_response
from statsvc.api.service import Shared
from statsvc.api.tables import RememberedTable
from statsvc.representations import json_bytes
from statsvc.spec import WeightSpec

router = APIRouter()

_READING = ("split", "class_map", "ignore_index", "num_classes")
HISTOGRAM = {
    "version": query.VERSION,
    **{name: query.SPEC[name] for name in (*_READING, "ignore")},
}
VERSIONS = {
    "limit": query.integer_parameter("versions on a page; default 100", high=1000),
    "before": query.integer_parameter("only versions below this number: the `next` of the page before"),
}


@router.get("/datasets/{name}/histogram", openapi_extra=query.documented(HISTOGRAM))
async def get_histogram(request: Request, name: str, service: Shared) -> Response:
    """Return pixels and images of every id after the class map (`class_map=none`: raw ids)."""
    given = query.read(request, HISTOGRAM)
    number = query.integer(given, "version", HISTOGRAM)
    given.pop("version", None)
    spec = WeightSpec.from_params(given)
    asked: dict[str, Any] = {key: getattr(spec, key) for key in _READING}
    published = await service.published(name, number)

    def make(table: RememberedTable) -> bytes:
        return json_bytes(answers.histogram_answer(table, **asked))

    tag = conditional.etag(published.digest, asked, "histogram")
    headers = conditional.cache_headers(
        tag, pinned=number is not None, age=service.watch.age, negotiated=False
    )
    return await conditional.respond(
        request, headers, "application/json", lambda: service.answer(tag, make, published)
    )


@router.get("/datasets/{name}/versions", openapi_extra=query.documented(VERSIONS))
async def get_versions(request: Request, name: str, service: Shared) -> Response:
    """Return a dataset's versions, newest first."""
    given = query.read(request, VERSIONS)
    limit = query.integer(given, "limit", VERSIONS) or 100
    before = query.integer(given, "before", VERSIONS)

    def read() -> dict[str, Any]:
        dataset = service.catalog.dataset(name)
        records = service.catalog.versions(dataset, limit + 1, before)
        page = records[:limit]
        return {
            "dataset": dataset.name,
            "current": dataset.current_number,
            "versions": [version_description(record) for record in page],
            "next": page[-1].number if len(records) > limit else None,
        }

    return json_response(await service.in_thread(read))
