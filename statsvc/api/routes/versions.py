"""GET /datasets/{name}/versions; PUT and DELETE /datasets/{name}/tags/{tag}."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.body_schemas import VersionNumber
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import version_description
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.json_route import JsonRoute
from statsvc.api.http.request_bodies import RequestBody
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.datasets import Tag, VersionPage
from statsvc.api.state.service import InjectedService
from statsvc.store.catalog import tags

router = APIRouter(tags=["versions"], default_response_class=Response, route_class=JsonRoute)

PAGE_SIZE = 100

PARAMETERS = {
    "limit": query.integer_parameter(f"versions per page; default {PAGE_SIZE}", high=1000),
    "before": query.integer_parameter("only versions below this number: `next` of the previous page"),
}

TagName = Annotated[
    str,
    Path(
        description="name of the tag",
        json_schema_extra={"pattern": f"^{tags.TAG.pattern}$"},
        examples=["paper"],
    ),
]


class TagTarget(RequestBody):
    """The version that a tag names."""

    version: VersionNumber = Field(description="version number")


@router.get(
    "/datasets/{name}/versions",
    openapi_extra=documentation.parameters(PARAMETERS),
    responses=documentation.responses(VersionPage, problems.NOT_FOUND, description="A page of versions."),
)
async def list_versions(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return the versions of a dataset, newest first."""
    values = query.read(request, PARAMETERS)
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE
    before = query.integer(values, "before", PARAMETERS)

    def read() -> dict[str, Any]:
        dataset = service.catalog.dataset(name)
        records = service.catalog.versions(dataset, limit + 1, before)
        page = records[:limit]
        tag_numbers = tags.of(service.catalog, dataset)
        return {
            "dataset": dataset.name,
            "current": dataset.current_number,
            "versions": [
                version_description(
                    record, [tag for tag, number in tag_numbers.items() if number == record.number]
                )
                for record in page
            ],
            "next": page[-1].number if len(records) > limit else None,
        }

    return json_response(await service.in_thread(read))


@router.put(
    "/datasets/{name}/tags/{tag}",
    dependencies=[Depends(json_only)],
    responses=documentation.responses(
        Tag, problems.NOT_FOUND, problems.CONFLICT, *problems.OF_BODIES, description="The tag."
    ),
)
async def set_tag(
    request: Request, name: DatasetName, tag: TagName, body: TagTarget, service: InjectedService
) -> Response:
    """Set a tag to a version, or move it to another version.

    A tagged version keeps its per-sample counts forever.
    """
    query.read(request, {})

    def put() -> None:
        tags.put(service.catalog, service.catalog.dataset(name), tag, body.version)

    await service.in_thread(put)
    await service.watcher.refresh()
    return json_response({"dataset": name, "tag": tag, "version": body.version})


@router.delete(
    "/datasets/{name}/tags/{tag}",
    status_code=204,
    responses=documentation.no_content(problems.NOT_FOUND, description="The tag was deleted."),
)
async def delete_tag(request: Request, name: DatasetName, tag: TagName, service: InjectedService) -> Response:
    """Delete a tag.

    The version that it names stays.
    """
    query.read(request, {})

    def remove() -> None:
        tags.remove(service.catalog, service.catalog.dataset(name), tag)

    await service.in_thread(remove)
    await service.watcher.refresh()
    return Response(status_code=204)
