"""GET /datasets/{name}/versions; PUT and DELETE /datasets/{name}/tags/{tag}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import query
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import version_description
from statsvc.api.http.request_bodies import Body
from statsvc.api.http.responses import json_response
from statsvc.api.state.service import Shared
from statsvc.store.catalog import tags

router = APIRouter()

VERSIONS = {
    "limit": query.integer_parameter("versions on a page; default 100", high=1000),
    "before": query.integer_parameter("only versions below this number: the `next` of the page before"),
}


class Tagged(Body):
    """The version that a tag stands for."""

    version: int = Field(ge=1, le=2**31 - 1, description="number of the version")


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
        known = tags.of(service.catalog, dataset)
        return {
            "dataset": dataset.name,
            "current": dataset.current_number,
            "versions": [
                version_description(record, [tag for tag, number in known.items() if number == record.number])
                for record in page
            ],
            "next": page[-1].number if len(records) > limit else None,
        }

    return json_response(await service.in_thread(read))


@router.put("/datasets/{name}/tags/{tag}", dependencies=[Depends(json_only)])
async def put_tag(request: Request, name: str, tag: str, body: Tagged, service: Shared) -> Response:
    """Let a tag stand for a version, or move it there; a tagged version keeps its rows for ever."""
    query.read(request, {})

    def put() -> None:
        tags.put(service.catalog, service.catalog.dataset(name), tag, body.version)

    await service.in_thread(put)
    await service.watch.refresh()
    return json_response({"dataset": name, "tag": tag, "version": body.version})


@router.delete("/datasets/{name}/tags/{tag}", status_code=204)
async def delete_tag(request: Request, name: str, tag: str, service: Shared) -> Response:
    """Take a tag away; its version stays."""
    query.read(request, {})

    def remove() -> None:
        tags.remove(service.catalog, service.catalog.dataset(name), tag)

    await service.in_thread(remove)
    await service.watch.refresh()
    return Response(status_code=204)
