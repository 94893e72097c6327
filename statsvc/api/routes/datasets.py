"""GET and POST /datasets; GET, PATCH and DELETE /datasets/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import conditional, query
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import dataset_summary, job_description, job_summary
from statsvc.api.http.request_bodies import ConfigurationBody, TriggerBody
from statsvc.api.http.responses import json_response
from statsvc.api.http.roots import allowed_source, checked_pattern
from statsvc.api.state.service import Service, Shared
from statsvc.api.state.snapshot import Published
from statsvc.dataset import counting_rule
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.configuration_warnings import find_warnings
from statsvc.errors import DamagedVersion, InvalidParameter
from statsvc.store import publication, reconfigure
from statsvc.store.catalog import jobs, overview, triggers
from statsvc.store.catalog.catalog import KEEP, MOST_KEPT

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.catalog.triggers import Trigger

router = APIRouter()

FAILURES = 10
"""How many unreadable samples a dataset's description names."""

JOBS = 10
"""How many of its newest jobs a dataset's description holds."""


class NewDataset(TriggerBody, ConfigurationBody):
    """A folder of label maps to count and to keep counted."""

    name: str = Field(description="letters, digits, '-', '_' and '.'")
    source: str = Field(description="absolute path of a folder, or a URL, below one of the server's roots")
    pattern: str | None = Field(None, description="glob of relative paths; by itself the kind that is there")
    rule: str | None = Field(
        None, description='what a raw id is: "id // 1000", the name of a palette; null: the pixel\'s value'
    )
    key: str | None = Field(None, description="which array, member or column holds the labels")
    rows: str | None = Field(None, description="what one row of an array is: array (null), index or chunk")


class DatasetChanges(TriggerBody, ConfigurationBody):
    """Where a dataset's label maps are, how counts are read, when they are scanned, and what is kept."""

    source: str | None = Field(
        None, description="absolute path of the folder, or URL, where the label maps are now, below a root"
    )
    pattern: str | None = Field(
        None, description="glob of relative paths; null: the kind that the next job finds there"
    )
    keep: int | None = Field(
        None,
        ge=1,
        le=MOST_KEPT,
        description=f"newest versions that keep their rows; null: {KEEP}. Older ones, unless tagged, "
        "answer from their aggregates once `statsvc gc` has run",
    )


DATASETS = {
    "limit": query.integer_parameter("datasets on a page; default 1000", high=1000),
    "after": query.QueryParameter("only datasets behind this name: the `next` of the page before"),
}


@router.get("/datasets", openapi_extra=query.documented(DATASETS))
async def get_datasets(request: Request, service: Shared) -> Response:
    """Return the datasets by name, each with its current version and its newest job."""
    given = query.read(request, DATASETS)
    limit = query.integer(given, "limit", DATASETS) or 1000

    def page() -> dict[str, Any]:
        found = overview.current(service.catalog, limit + 1, given.get("after"))
        shown = found[:limit]
        newest = overview.newest_jobs(service.catalog, [dataset for dataset, _ in shown])
        when = triggers.of(service.catalog, [dataset for dataset, _ in shown])
        summaries = [
            dataset_summary(dataset, when[dataset.uid], record, newest.get(dataset.uid))
            for dataset, record in shown
        ]
        return {"datasets": summaries, "next": shown[-1][0].name if len(found) > limit else None}

    return await conditional.respond_json(request, await service.in_thread(page))


@router.post("/datasets", status_code=201, dependencies=[Depends(json_only)])
async def post_dataset(request: Request, body: NewDataset, service: Shared) -> Response:
    """Register a dataset and queue its first scan."""
    query.read(request, {})
    pattern = None if body.pattern is None else checked_pattern(body.pattern)
    counted = Configuration(counting=counting_rule.read(body.rule, body.key, body.rows, files=False))
    configuration = reconfigure.check_class_names(reconfigure.apply_changes(counted, body.changes()))
    scanned = body.triggers()

    def register() -> dict[str, Any]:
        source = allowed_source(body.source, service.roots)
        dataset = service.catalog.create_dataset(body.name, source, pattern, configuration)
        triggers.change(service.catalog, dataset, scanned)
        job, _ = jobs.submit(service.catalog, dataset)
        trigger = triggers.of(service.catalog, [dataset])[dataset.uid]
        described = _described(dataset, trigger, None, [], [job], [])
        return described | {"job": job_description(job, dataset.name)}

    described = await service.in_thread(register)
    await service.watch.refresh()
    return json_response(described, 201, {"Location": f"/datasets/{body.name}"})


@router.get("/datasets/{name}")
async def get_dataset(request: Request, name: str, service: Shared) -> Response:
    """Return a dataset: source, configuration and what fits it badly, version, unreadable samples, jobs."""
    query.read(request, {})
    return json_response(await _description(service, name))


@router.patch("/datasets/{name}", dependencies=[Depends(json_only)])
async def patch_dataset(request: Request, name: str, body: DatasetChanges, service: Shared) -> Response:
    """Change how a dataset is read: a new version over the same arrays. null resets a field.

    A new source or pattern is listed by the next job, which fails where too many samples would be lost.
    """
    query.read(request, {})
    changes, scanned = body.changes(), body.triggers()
    given = body.model_fields_set
    if "source" in given and body.source is None:
        raise InvalidParameter(("source", "a dataset of label maps has a source; leave it out to keep it"))
    pattern = None if body.pattern is None else checked_pattern(body.pattern)

    def configure() -> None:
        dataset = service.catalog.dataset(name)
        source = None if body.source is None else allowed_source(body.source, service.roots)
        if "keep" in given:
            dataset = service.catalog.set_keep(dataset, KEEP if body.keep is None else body.keep)
        triggers.change(service.catalog, dataset, scanned)
        if changes:
            change = reconfigure.configuration_change(service.catalog, service.store, dataset, changes)
            dataset, _ = publication.configure(service.catalog, service.store, dataset, change)
        if {"source", "pattern"} & given:
            reconfigure.change_source(
                service.catalog,
                dataset,
                lambda now: (source or str(now.source), pattern if "pattern" in given else now.pattern),
            )

    await service.in_thread(configure)
    await service.watch.refresh()
    return json_response(await _description(service, name))


@router.delete("/datasets/{name}", status_code=204)
async def delete_dataset(request: Request, name: str, service: Shared) -> Response:
    """Forget a dataset; refused while a job of it runs. Its version numbers stay used."""
    query.read(request, {})
    await service.in_thread(service.catalog.delete_dataset, name)
    await service.watch.refresh()
    return Response(status_code=204)


async def _description(service: Service, name: str) -> dict[str, Any]:
    def read() -> tuple[Dataset, Trigger, VersionRecord | None, list[Job]]:
        dataset = service.catalog.dataset(name)
        record = None if dataset.current_number is None else service.catalog.version(dataset)
        trigger = triggers.of(service.catalog, [dataset])[dataset.uid]
        return dataset, trigger, record, [job for job, _ in jobs.recent(service.catalog, dataset, JOBS)]

    dataset, trigger, record, recent = await service.in_thread(read)
    failures: list[tuple[str, str]] = []
    warnings: list[str] = []
    if record is not None:
        table = service.table(Published.of(name, record))
        try:
            if record.failed:
                _, failures = await service.in_thread(table.failures, limit=FAILURES)
            warnings = await service.in_thread(find_warnings, table.stored)
        except DamagedVersion as damage:
            # The description must not fail where one looks for what is wrong.
            failures = [("", str(damage))]
    return _described(dataset, trigger, record, failures, recent, warnings)


def _described(
    dataset: Dataset,
    trigger: Trigger,
    record: VersionRecord | None,
    failures: list[tuple[str, str]],
    recent: list[Job],
    warnings: list[str],
) -> dict[str, Any]:
    return dataset_summary(dataset, trigger, record, recent[0] if recent else None) | {
        "configuration": dataset.configuration.to_dict(),
        "warnings": warnings,
        "failures": [{"path": path, "error": error} for path, error in failures],
        "jobs": [job_summary(job) for job in recent],
    }
