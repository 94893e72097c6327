"""POST and GET /jobs, GET /jobs/{job_id}, its events, and POST /jobs/{job_id}/cancel."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.access import CALLER
from statsvc.api.http.body_schemas import SampleSize
from statsvc.api.http.content_type import json_only, no_form
from statsvc.api.http.descriptions import job_description
from statsvc.api.http.documentation import JobId
from statsvc.api.http.json_route import JsonRoute
from statsvc.api.http.request_bodies import RequestBody
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.jobs import Job, JobPage
from statsvc.api.state.job_events import LAST
from statsvc.api.state.service import InjectedService, Service
from statsvc.errors import Conflict, Inapplicable, InvalidParameter
from statsvc.store.catalog import idempotency, jobs
from statsvc.weighting.sample_intervals import CONFIDENCE
from statsvc.weighting.sample_size import FREQUENCY

router = APIRouter(tags=["jobs"], default_response_class=Response, route_class=JsonRoute)

PAGE_SIZE = 100
PARAMETERS = {
    "dataset": query.QueryParameter("only jobs of this dataset"),
    "state": query.QueryParameter("only jobs in this state", {"type": "string", "enum": list(jobs.STATES)}),
    "limit": query.integer_parameter(f"jobs per page; default {PAGE_SIZE}", high=1000),
    "before": query.QueryParameter("only jobs older than this one: `next` of the previous page; else 404"),
}

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "a unique text of up to 255 printable ASCII characters, remembered for seven days: "
    "a repeated request with the same key returns the job of the first one; "
    "another request with the same key is rejected with 409",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}
LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": f"id of the last event that the client received; `{LAST}`: no more events, 204",
    "schema": {"type": "string"},
}

EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": ["job"]},
        "retry": {"type": "integer"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Job"},
        },
    },
}
"""Schema of one event."""

MAX_REMOVED = Field(
    jobs.MAX_REMOVED,
    ge=0,
    le=1,
    description="share of the current version's samples, 0 to 1, that may be gone or newly unreadable: "
    "beyond it, the job fails and publishes nothing",
)


class NewEstimate(RequestBody):
    """How many samples to count: a number, or as many as a relative error of the classes' shares needs."""

    samples: SampleSize | None = Field(None, description="number of samples to draw")
    relative_error: float | None = Field(
        None,
        ge=0.001,
        lt=1,
        description="error of a class's share, relative to the share, for every class that occurs in "
        f"{FREQUENCY:.1%} of the samples or more",
    )
    confidence: float = Field(CONFIDENCE, ge=0.5, le=0.999, description="confidence of `relative_error`")

    def request(self) -> dict[str, Any]:
        """Return the request as a job stores it. Raises `Inapplicable` unless one of both sizes is given."""
        if (self.samples is None) == (self.relative_error is None):
            raise Inapplicable(("estimate", "give either samples or relative_error"))
        if self.samples is not None:
            return {"samples": self.samples}
        return {"relative_error": self.relative_error, "confidence": self.confidence}


class NewJob(RequestBody):
    """A scan of a dataset's source that counts changed samples."""

    dataset: str = Field(description="name of the dataset")
    full: bool = Field(False, description="count every sample again, changed or not")
    max_removed: float = MAX_REMOVED
    estimate: NewEstimate | None = Field(
        None, description="count only a random sample; rejected with 409 where exact counts exist"
    )


@router.post(
    "/jobs",
    status_code=202,
    dependencies=[Depends(json_only)],
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
    responses=documentation.responses(
        Job,
        problems.NOT_FOUND,
        problems.CONFLICT,
        *problems.OF_BODIES,
        status=202,
        description="The queued job.",
        headers={"Location": documentation.LOCATION},
    ),
)
async def create_job(request: Request, body: NewJob, service: InjectedService) -> Response:
    """Queue a scan of a dataset.

    If a scan of the dataset is already queued, the request is merged into it and returns it.
    """
    query.read(request, {})
    options: dict[str, Any] = {"full": body.full, "max_removed": body.max_removed}
    if body.estimate is not None:
        options["estimate"] = body.estimate.request()
    job = await queue_job(request, service, body.dataset, options)
    return json_response(job, 202, {"Location": f"/jobs/{job['id']}"})


async def queue_job(request: Request, service: Service, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Queue a scan, or find the job that has the request's idempotency key; return its description.

    options  keyword arguments of `statsvc.store.catalog.jobs.submit`
    """
    key = _idempotency_key(request)

    def submit() -> dict[str, Any]:
        dataset = service.catalog.dataset(name)
        if dataset.source is None:
            raise Conflict(f"{dataset.name} was imported and has no source to scan")
        if key is None:
            job, _ = jobs.submit(service.catalog, dataset, **options)
        else:
            user = str(request.scope.get(CALLER) or "")
            job, _ = idempotency.submit_once(service.catalog, user, key, dataset, **options)
        return job_description(job, dataset.name)

    return await service.in_thread(submit)


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise InvalidParameter(
            ("Idempotency-Key", "expected one key of 1 to 255 printable ASCII characters without spaces")
        )
    return keys[0]


@router.get(
    "/jobs",
    openapi_extra=documentation.parameters(PARAMETERS),
    responses=documentation.responses(JobPage, problems.NOT_FOUND, description="A page of jobs."),
)
async def list_jobs(request: Request, service: InjectedService) -> Response:
    """Return jobs, newest first."""
    values = query.read(request, PARAMETERS)
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE

    def read() -> dict[str, Any]:
        catalog = service.catalog
        dataset = None if "dataset" not in values else catalog.dataset(values["dataset"])
        records = jobs.recent(
            catalog, dataset, limit + 1, state=values.get("state"), before=values.get("before")
        )
        page = [job_description(job, name) for job, name in records[:limit]]
        return {"jobs": page, "next": page[-1]["id"] if len(records) > limit else None}

    return json_response(await service.in_thread(read))


@router.get(
    "/jobs/{job_id}",
    responses=documentation.responses(Job, problems.NOT_FOUND, description="The job."),
)
async def get_job(request: Request, job_id: JobId, service: InjectedService) -> Response:
    """Return a job: its state, its progress, unreadable samples, and the version that it published."""
    query.read(request, {})
    return json_response(await service.in_thread(_description, service, job_id))


@router.get(
    "/jobs/{job_id}/events",
    openapi_extra={"parameters": [LAST_EVENT_ID]},
    responses={
        200: {
            "description": "Server-sent events. The data of each event `job` is the job as JSON, in the form "
            "that `GET /jobs/{job_id}` returns.",
            "content": {
                "text/event-stream": {
                    # Of OpenAPI 3.2: the schema of each event.
                    "itemSchema": EVENT,
                    "example": 'retry: 2000\n\nid: 1\nevent: job\ndata: {"id":"1f0b","state":"running"}\n\n',
                }
            },
        },
        **documentation.no_content(
            problems.NOT_FOUND,
            problems.TOO_MANY_STREAMS,
            description="The client has received the last event (Last-Event-ID)",
        ),
    },
)
async def stream_job_events(request: Request, job_id: JobId, service: InjectedService) -> Response:
    """Stream the job after every change until it ends."""
    query.read(request, {})
    description = await service.in_thread(_description, service, job_id)
    if request.headers.get("last-event-id") == LAST:
        return Response(status_code=204)  # The EventSource of a browser reconnects until it receives 204.
    client = request.client.host if request.client else ""
    if not service.job_events.has_place(client):
        return problems.problem(problems.TOO_MANY_STREAMS, problems.TOO_MANY_STREAMS.example)
    return StreamingResponse(
        service.job_events.stream(job_id, description, client, partial(_is_allowed, request, service)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/jobs/{job_id}/cancel",
    dependencies=[Depends(no_form)],
    responses=documentation.responses(
        Job,
        problems.NOT_FOUND,
        problems.CONFLICT,
        problems.UNSUPPORTED_BODY,
        description="The cancelled job.",
    ),
)
async def cancel_job(request: Request, job_id: JobId, service: InjectedService) -> Response:
    """Cancel a job that is queued or running.

    Workers start no further sample after 2 s. The current version does not change.
    """
    query.read(request, {})
    await service.in_thread(jobs.cancel, service.catalog, job_id)
    return json_response(await service.in_thread(_description, service, job_id))


def _is_allowed(request: Request, service: Service) -> bool:
    """Whether the token of a request is still valid; True for a request without a token."""
    token_id = request.scope.get(CALLER)
    return token_id is None or any(token.id == token_id for token in service.watcher.snapshot.tokens)


def _description(service: Service, job_id: str) -> dict[str, Any]:
    job = jobs.get(service.catalog, job_id)
    return job_description(job, service.catalog.dataset_by_uid(job.dataset_uid).name)
