"""POST /jobs and GET /jobs/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api import query
from statsvc.api.bodies import json_only
from statsvc.api.configurations import Body
from statsvc.api.descriptions import job_description
from statsvc.api.responses import json_response
from statsvc.api.service import Shared
from statsvc.errors import Conflict
from statsvc.store import jobs

router = APIRouter()


class NewJob(Body):
    """A scan of a dataset's source: what changed is counted again."""

    dataset: str = Field(description="name of the dataset")
    full: bool = Field(False, description="count every sample again, changed or not")
    max_removed: float = Field(
        jobs.MAX_REMOVED,
        ge=0,
        le=1,
        description="share of the current version's samples that may be gone, or newly unreadable, "
        "before the job fails instead of publishing",
    )


@router.post("/jobs", status_code=202, dependencies=[Depends(json_only)])
async def post_job(request: Request, body: NewJob, service: Shared) -> Response:
    """Queue a scan; one that is queued already is joined."""
    query.read(request, {})

    def submit() -> dict[str, Any]:
        dataset = service.catalog.dataset(body.dataset)
        if dataset.source is None:
            raise Conflict(f"{dataset.name} was imported: it has no source to scan")
        job, _ = jobs.submit(service.catalog, dataset, full=body.full, max_removed=body.max_removed)
        return job_description(job, dataset.name)

    described = await service.in_thread(submit)
    return json_response(described, 202, {"Location": f"/jobs/{described['id']}"})


@router.get("/jobs/{job_id}")
async def get_job(request: Request, job_id: str, service: Shared) -> Response:
    """Return a job: its state, how far it is, what it could not read, and the version it made."""
    query.read(request, {})

    def read() -> dict[str, Any]:
        job = jobs.get(service.catalog, job_id)
        return job_description(job, service.catalog.dataset_by_uid(job.dataset_uid).name)

    return json_response(await service.in_thread(read))
