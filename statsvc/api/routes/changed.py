"""POST /datasets/{name}/changed: a pipeline says that label maps have changed, and which."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import query
from statsvc.api.http.content_type import json_only
from statsvc.api.http.request_bodies import Body as Fields
from statsvc.api.http.responses import json_response
from statsvc.api.routes.jobs import KEY, queued
from statsvc.api.state.service import Shared
from statsvc.common.changed_paths import MAX_PATHS, normalize_paths
from statsvc.store.catalog.jobs import MAX_REMOVED

router = APIRouter()


class Changes(Fields):
    """What has changed in a dataset's source."""

    paths: list[str] | None = Field(
        None,
        description="files, folders or containers that were added, changed or removed, relative to the "
        f"source, at most {MAX_PATHS}: only these are looked at. null: the source is listed",
    )
    max_removed: float = Field(
        MAX_REMOVED,
        ge=0,
        le=1,
        description="share of the current version's samples that may be gone, or newly unreadable, "
        "before the job fails instead of publishing",
    )


@router.post(
    "/datasets/{name}/changed",
    status_code=202,
    dependencies=[Depends(json_only)],
    openapi_extra={"parameters": [KEY]},
)
async def post_changed(
    request: Request, name: str, service: Shared, body: Annotated[Changes | None, Body()] = None
) -> Response:
    """Queue a scan that looks at the changed paths only; one that is queued already takes them as well.

    The body may be left out; a queued scan that lists the source goes on to do so.
    """
    query.read(request, {})
    changes = body or Changes.model_validate({})
    paths = None if changes.paths is None else normalize_paths(changes.paths)
    asked: dict[str, Any] = {"full": False, "max_removed": changes.max_removed, "paths": paths}
    described = await queued(request, service, name, asked)
    return json_response(described, 202, {"Location": f"/jobs/{described['id']}"})
