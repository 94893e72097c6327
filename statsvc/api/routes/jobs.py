"""POST and GET /jobs, GET /jobs/{id}, its events, and POST /jobs/{id}/cancel."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from statsvc.api.http import query
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import job_description
from statsvc.api.http.request_bodies import Body
from statsvc.api.http.responses import json_response
from statsvc.api.state.job_events import LAST
from statsvc.api.state.service import Service, Shared
from statsvc.errors import Conflict, InvalidParameter
from statsvc.store.catalog import idempotency, jobs

router = APIRouter()

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
JOBS = {
    "dataset": query.QueryParameter("only jobs of that dataset"),
    "state": query.QueryParameter("only jobs in that state", {"type": "string", "enum": list(jobs.STATES)}),
    "limit": query.integer_parameter("jobs on a page; default 100", high=1000),
    "before": query.QueryParameter("only jobs older than this one: the `next` of the page before"),
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "any text of your own, up to 255 printable characters, remembered for seven days: the "
    "same request with the same key is answered with the job that the first one made",
    "schema": {"type": "string", "maxLength": 255},
}


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


@router.post("/jobs", status_code=202, dependencies=[Depends(json_only)], openapi_extra={"parameters": [KEY]})
async def post_job(request: Request, body: NewJob, service: Shared) -> Response:
    """Queue a scan; one that is queued already is joined, and made `full` where this one is."""
    query.read(request, {})
    asked = {"full": body.full, "max_removed": body.max_removed}
    described = await queued(request, service, body.dataset, asked)
    return json_response(described, 202, {"Location": f"/jobs/{described['id']}"})


async def queued(request: Request, service: Service, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Queue a scan, or find the one that the request's idempotency key stands for; return its description.

    asked  what `statsvc.store.catalog.jobs.submit` is given
    """
    key = _idempotency_key(request)

    def submit() -> dict[str, Any]:
        dataset = service.catalog.dataset(name)
        if dataset.source is None:
            raise Conflict(f"{dataset.name} was imported: it has no source to scan")
        if key is None:
            job, _ = jobs.submit(service.catalog, dataset, **asked)
        else:
            job, _ = idempotency.submit_once(service.catalog, key, dataset, **asked)
        return job_description(job, dataset.name)

    return await service.in_thread(submit)


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise InvalidParameter(
            ("Idempotency-Key", "give it once: 1 to 255 printable ASCII characters without spaces")
        )
    return given[0]


@router.get("/jobs", openapi_extra=query.documented(JOBS))
async def get_jobs(request: Request, service: Shared) -> Response:
    """Return jobs, newest first."""
    given = query.read(request, JOBS)
    limit = query.integer(given, "limit", JOBS) or 100

    def read() -> dict[str, Any]:
        catalog = service.catalog
        dataset = None if "dataset" not in given else catalog.dataset(given["dataset"])
        found = jobs.recent(catalog, dataset, limit + 1, state=given.get("state"), before=given.get("before"))
        page = [job_description(job, name) for job, name in found[:limit]]
        return {"jobs": page, "next": page[-1]["id"] if len(found) > limit else None}

    return json_response(await service.in_thread(read))


@router.get("/jobs/{job_id}")
async def get_job(request: Request, job_id: str, service: Shared) -> Response:
    """Return a job: its state, how far it is, what it could not read, and the version it made."""
    query.read(request, {})
    return json_response(await service.in_thread(_described, service, job_id))


@router.get(
    "/jobs/{job_id}/events",
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "An event `job` for every change"},
        204: {"description": "The client has seen the last event already"},
    },
)
async def get_events(request: Request, job_id: str, service: Shared) -> Response:
    """Follow a job: server-sent events, each with the job as `GET /jobs/{id}` returns it, until it ends."""
    query.read(request, {})
    described = await service.in_thread(_described, service, job_id)
    if request.headers.get("last-event-id") == LAST:
        return Response(status_code=204)  # a browser's EventSource asks again until it is told so
    return StreamingResponse(
        service.feed.events(job_id, described),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str, service: Shared) -> Response:
    """End a job that is queued or running: no sample is started 2 s later, and the last version stays."""
    query.read(request, {})
    await service.in_thread(jobs.cancel, service.catalog, job_id)
    return json_response(await service.in_thread(_described, service, job_id))


def _described(service: Service, job_id: str) -> dict[str, Any]:
    job = jobs.get(service.catalog, job_id)
    return job_description(job, service.catalog.dataset_by_uid(job.dataset_uid).name)
