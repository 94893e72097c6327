"""POST /datasets/{name}/changed: a pipeline reports which label maps have changed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.body_schemas import RelativePath
from statsvc.api.http.content_type import no_form
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.json_route import JsonRoute
from statsvc.api.http.request_bodies import RequestBody
from statsvc.api.http.responses import json_response
from statsvc.api.routes.jobs import IDEMPOTENCY_KEY, MAX_REMOVED, queue_job
from statsvc.api.schemas.jobs import Job
from statsvc.api.state.service import InjectedService
from statsvc.common.changed_paths import MAX_PATHS, normalize_paths

router = APIRouter(tags=["jobs"], default_response_class=Response, route_class=JsonRoute)


class Changes(RequestBody):
    """What has changed in the source of a dataset."""

    paths: list[RelativePath] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PATHS,
        description="files, folders or containers that were added, changed or removed, relative to the "
        f"source, at most {MAX_PATHS}: the job inspects only these. null: the job lists the whole source",
    )
    max_removed: float = MAX_REMOVED


@router.post(
    "/datasets/{name}/changed",
    status_code=202,
    dependencies=[Depends(no_form)],
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
    responses=documentation.responses(
        Job,
        problems.NOT_FOUND,
        problems.CONFLICT,
        *problems.OF_BODIES,
        status=202,
        description="The job that inspects the changed paths.",
        headers={"Location": documentation.LOCATION},
    ),
)
async def report_changes(
    request: Request,
    name: DatasetName,
    service: InjectedService,
    body: Annotated[Changes | None, Body()] = None,
) -> Response:
    """Queue a scan of the changed paths only.

    If a scan is already queued, the paths are added to it; a queued scan of the whole source stays one. The
    request body is optional.
    """
    query.read(request, {})
    changes = body or Changes.model_validate({})
    paths = None if changes.paths is None else await service.in_thread(normalize_paths, changes.paths)
    options: dict[str, Any] = {"full": False, "max_removed": changes.max_removed, "paths": paths}
    job = await queue_job(request, service, name, options)
    return json_response(job, 202, {"Location": f"/jobs/{job['id']}"})
