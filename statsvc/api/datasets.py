"""GET and POST /datasets; GET, PATCH and DELETE /datasets/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc import counting
from statsvc.api import query
from statsvc.api.bodies import json_only
from statsvc.api.configurations import ConfigurationBody
from statsvc.api.descriptions import dataset_summary, job_description, job_summary
from statsvc.api.responses import json_response
from statsvc.api.roots import allowed_source, checked_pattern
from statsvc.api.service import Service, Shared
from statsvc.api.snapshot import Published
from statsvc.configuration import Configuration
from statsvc.errors import DamagedVersion
from statsvc.store import configuring, jobs, publication

if TYPE_CHECKING:
    from statsvc.store.records import Dataset, Job, VersionRecord

router = APIRouter()

FAILURES = 10
"""How many unreadable samples a dataset's description names."""

JOBS = 10
"""How many of its newest jobs a dataset's description holds."""


class NewDataset(ConfigurationBody):
    """A folder of label maps to count and to keep counted."""

    name: str = Field(description="letters, digits, '-', '_' and '.'")
    source: str = Field(description="absolute path of a folder below one of the server's roots")
    pattern: str | None = Field(None, description="glob of relative paths; by itself the kind that is there")
    rule: str | None = Field(
        None, description='what a raw id is: "id // 1000", the name of a palette; null: the pixel\'s value'
    )
    key: str | None = Field(None, description="which array, member or column holds the labels")
    rows: str | None = Field(None, description="what one row of an array is: array (null), index or chunk")


@router.get("/datasets")
async def get_datasets(request: Request, service: Shared) -> Response:
    """Return all datasets, each with its current version and its newest job."""
    query.read(request, {})

    def summaries() -> list[dict[str, Any]]:
        found = service.catalog.current()
        return [
            dataset_summary(dataset, record, _newest(jobs.recent(service.catalog, dataset, 1)))
            for dataset, record in found
        ]

    return json_response({"datasets": await service.in_thread(summaries)})


def _newest(recent: list[tuple[Job, str]]) -> Job | None:
    return recent[0][0] if recent else None


@router.post("/datasets", status_code=201, dependencies=[Depends(json_only)])
async def post_dataset(request: Request, body: NewDataset, service: Shared) -> Response:
    """Register a dataset and queue its first scan."""
    query.read(request, {})
    pattern = None if body.pattern is None else checked_pattern(body.pattern)
    counted = Configuration(counting=counting.read(body.rule, body.key, body.rows, files=False))
    configuration = configuring.fitting(configuring.applied(counted, body.changes()))

    def register() -> dict[str, Any]:
        source = allowed_source(body.source, service.roots)
        dataset = service.catalog.create_dataset(body.name, str(source), pattern, configuration)
        job, _ = jobs.submit(service.catalog, dataset)
        return _described(dataset, None, [], [job]) | {"job": job_description(job, dataset.name)}

    described = await service.in_thread(register)
    await service.watch.refresh()
    return json_response(described, 201, {"Location": f"/datasets/{body.name}"})


@router.get("/datasets/{name}")
async def get_dataset(request: Request, name: str, service: Shared) -> Response:
    """Return a dataset: source, configuration, current version, unreadable samples and jobs."""
    query.read(request, {})
    return json_response(await _description(service, name))


@router.patch("/datasets/{name}", dependencies=[Depends(json_only)])
async def patch_dataset(request: Request, name: str, body: ConfigurationBody, service: Shared) -> Response:
    """Change how a dataset is read: a new version over the same arrays. null resets a field."""
    query.read(request, {})
    changes = body.changes()

    def configure() -> None:
        dataset = service.catalog.dataset(name)
        change = configuring.changed(service.catalog, service.store, dataset, changes)
        publication.configure(service.catalog, service.store, dataset, change)

    await service.in_thread(configure)
    await service.watch.refresh()
    return json_response(await _description(service, name))


@router.delete("/datasets/{name}", status_code=204)
async def delete_dataset(request: Request, name: str, service: Shared) -> Response:
    """Forget a dataset; refused while a job of it is queued or runs. Its version numbers stay used."""
    query.read(request, {})
    await service.in_thread(service.catalog.delete_dataset, name)
    await service.watch.refresh()
    return Response(status_code=204)


async def _description(service: Service, name: str) -> dict[str, Any]:
    def read() -> tuple[Dataset, VersionRecord | None, list[Job]]:
        dataset = service.catalog.dataset(name)
        record = None if dataset.current_number is None else service.catalog.version(dataset)
        return dataset, record, [job for job, _ in jobs.recent(service.catalog, dataset, JOBS)]

    dataset, record, recent = await service.in_thread(read)
    failures: list[tuple[str, str]] = []
    if record is not None and record.failed:
        table = service.table(Published.of(name, record))
        try:
            _, failures = await service.in_thread(table.failures, limit=FAILURES)
        except DamagedVersion as damage:
            # The description must not fail where one looks for what is wrong.
            failures = [("", str(damage))]
    return _described(dataset, record, failures, recent)


def _described(
    dataset: Dataset, record: VersionRecord | None, failures: list[tuple[str, str]], recent: list[Job]
) -> dict[str, Any]:
    return dataset_summary(dataset, record, recent[0] if recent else None) | {
        "configuration": dataset.configuration.to_dict(),
        "failures": [{"path": path, "error": error} for path, error in failures],
        "jobs": [job_summary(job) for job in recent],
    }
