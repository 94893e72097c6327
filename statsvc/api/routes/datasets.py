"""GET and POST /datasets; GET, PATCH and DELETE /datasets/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.body_schemas import DatasetName as DatasetNameText
from statsvc.api.http.body_schemas import GridText, Keep, Key, LayoutName, Pattern, Rows, Rule, Source
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import dataset_summary, job_description, job_summary
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.json_route import JsonRoute
from statsvc.api.http.request_bodies import ConfigurationBody, TriggerBody
from statsvc.api.http.responses import json_response
from statsvc.api.http.roots import allowed_source, checked_pattern
from statsvc.api.routes.jobs import NewEstimate
from statsvc.api.schemas.datasets import Dataset as DatasetResponse
from statsvc.api.schemas.datasets import DatasetPage, RegisteredDataset
from statsvc.api.state.service import InjectedService, Service
from statsvc.api.state.snapshot import Published
from statsvc.dataset import counting_rule
from statsvc.dataset import grid as grids
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.configuration_warnings import find_warnings
from statsvc.dataset.known_layouts import find_layout
from statsvc.dataset.selection import declared
from statsvc.errors import DamagedVersion
from statsvc.store import publication, reconfigure
from statsvc.store.catalog import jobs, overview, triggers
from statsvc.store.catalog.catalog import KEEP

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.catalog.triggers import Trigger

router = APIRouter(tags=["datasets"], default_response_class=Response, route_class=JsonRoute)

PAGE_SIZE = 1000

MAX_FAILURES = 10
"""Unreadable samples that the description of a dataset lists."""

MAX_JOBS = 10
"""Jobs that the description of a dataset lists."""


class ScanBody(TriggerBody, ConfigurationBody):
    """What a dataset of label maps has in addition to the interpretation of its counts."""

    grid: GridText | None = Field(
        None,
        description="grid of tiles, such as 8x8, or 8x8x8 for volumes, to count too; a change counts every "
        "label map again with the next job; null or none: no grid",
    )

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, as `ConfigurationBody.changes`."""
        if "grid" not in self.model_fields_set:
            return super().changes()
        return super().changes() | {"grid": None if self.grid is None else grids.parse(self.grid)}


class NewDataset(ScanBody):
    """A dataset of label maps to register."""

    name: DatasetNameText = Field(description="name of the dataset: letters, digits, '-', '_' and '.'")
    source: Source = Field(
        description="absolute path of a folder on the server, or a URL, below one of its roots"
    )
    pattern: Pattern | None = Field(
        None,
        description="glob of label maps, relative to the source; null: the first scan detects the kind "
        "of label map",
    )
    rule: Rule | None = Field(
        None,
        description='counting rule from pixel values to raw ids: "id // 1000" or the name of a palette; '
        "null: the pixel value is the raw id",
    )
    layout: LayoutName | None = Field(
        None,
        description="known layout of the source, such as voc: sets what the other fields do not of pattern, "
        "splits, class map, rule and ignored ids",
    )
    key: Key | None = Field(None, description="array, member or column that holds the labels")
    rows: Rows | None = Field(
        None, description="which part of an array is one sample: the whole array (null), index or chunk"
    )
    estimate: NewEstimate | None = Field(None, description="the first scan counts only a random sample")


class DatasetChanges(ScanBody):
    """Changes to a dataset. A field that is left out stays as it is."""

    source: Source = Field(
        "", description="new location of the label maps: absolute path of a folder, or URL, below a root"
    )
    pattern: Pattern | None = Field(
        None, description="glob of label maps, relative to the source; null: the next scan detects it"
    )
    keep: Keep | None = Field(
        None,
        description=f"number of newest versions that keep their per-sample counts; null: {KEEP}. "
        "`statsvc gc` removes those of older versions without a tag; their totals stay",
    )


PARAMETERS = {
    "limit": query.integer_parameter(f"datasets per page; default {PAGE_SIZE}", high=1000),
    "after": query.QueryParameter("only datasets after this name: `next` of the previous page"),
}


@router.get(
    "/datasets",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(DatasetPage, description="A page of datasets."),
)
async def list_datasets(request: Request, service: InjectedService) -> Response:
    """Return the datasets by name, each with its current version and its newest job."""
    values = query.read(request, PARAMETERS)
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE

    def page() -> dict[str, Any]:
        records = overview.current(service.catalog, limit + 1, values.get("after"))
        listed = records[:limit]
        datasets = [dataset for dataset, _ in listed]
        newest_jobs = overview.newest_jobs(service.catalog, datasets)
        trigger_of = triggers.of(service.catalog, datasets)
        summaries = [
            dataset_summary(dataset, trigger_of[dataset.uid], record, newest_jobs.get(dataset.uid))
            for dataset, record in listed
        ]
        return {"datasets": summaries, "next": listed[-1][0].name if len(records) > limit else None}

    return await conditional.respond_json(request, await service.in_thread(page))


@router.post(
    "/datasets",
    status_code=201,
    dependencies=[Depends(json_only)],
    responses=documentation.responses(
        RegisteredDataset,
        problems.CONFLICT,
        problems.FORBIDDEN_SOURCE,
        problems.SOURCE,
        *problems.OF_BODIES,
        status=201,
        description="The dataset.",
        headers={"Location": documentation.LOCATION},
    ),
)
async def create_dataset(request: Request, body: NewDataset, service: InjectedService) -> Response:
    """Register a dataset and queue its first scan."""
    query.read(request, {})

    def register() -> dict[str, Any]:
        layout = None if body.layout is None else find_layout(body.layout)
        pattern, rule, changes = body.pattern, body.rule, body.changes()
        if layout is not None:
            pattern = layout.pattern if pattern is None else pattern
            rule = layout.rule if rule is None else rule
            changes = layout.changes() | changes
        pattern = None if pattern is None else checked_pattern(pattern)
        initial = Configuration(
            counting=counting_rule.read(rule, body.key, body.rows, files=False),
            selection=declared(body.layout, trusted=body.rule == counting_rule.VALUE),
        )
        configuration = reconfigure.check_class_names(reconfigure.apply_changes(initial, changes))
        trigger_changes = body.triggers()
        estimate = None if body.estimate is None else body.estimate.request()
        source = allowed_source(body.source, service.roots)
        dataset = service.catalog.create_dataset(body.name, source, pattern, configuration)
        triggers.change(service.catalog, dataset, trigger_changes)
        job, _ = jobs.submit(service.catalog, dataset, estimate=estimate)
        trigger = triggers.of(service.catalog, [dataset])[dataset.uid]
        details = _details(dataset, trigger, None, [], [job], [])
        return details | {"job": job_description(job, dataset.name)}

    details = await service.in_thread(register)
    await service.watcher.refresh()
    return json_response(details, 201, {"Location": f"/datasets/{body.name}"})


@router.get(
    "/datasets/{name}",
    responses=documentation.responses(
        DatasetResponse, problems.NOT_FOUND, *problems.OF_ARRAYS, description="The dataset."
    ),
)
async def get_dataset(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return a dataset: configuration, warnings, current version, unreadable samples and newest jobs."""
    query.read(request, {})
    return await _description(service, name)


@router.patch(
    "/datasets/{name}",
    dependencies=[Depends(json_only)],
    responses=documentation.responses(
        DatasetResponse,
        problems.NOT_FOUND,
        problems.CONFLICT,
        problems.FORBIDDEN_SOURCE,
        problems.SOURCE,
        problems.UNANSWERABLE,
        problems.READ_ONLY_STORE,
        *problems.OF_ARRAYS,
        *problems.OF_BODIES,
        description="The changed dataset.",
    ),
)
async def update_dataset(
    request: Request, name: DatasetName, body: DatasetChanges, service: InjectedService
) -> Response:
    """Change the configuration, source, automatic scans or retention of a dataset.

    null restores the default of a field. A changed configuration publishes a new version over the same
    counts, without a scan. The next job lists a new source or pattern; it fails if too many samples of the
    current version are missing there (`max_removed`).
    """
    query.read(request, {})
    sent = body.model_fields_set
    pattern = None if body.pattern is None else checked_pattern(body.pattern)

    def configure() -> None:
        changes, trigger_changes = body.changes(), body.triggers()
        dataset = service.catalog.dataset(name)
        source = allowed_source(body.source, service.roots) if "source" in sent else None
        if "keep" in sent:
            dataset = service.catalog.set_keep(dataset, KEEP if body.keep is None else body.keep)
        triggers.change(service.catalog, dataset, trigger_changes)
        if changes:
            change = reconfigure.configuration_change(service.catalog, service.store, dataset, changes)
            dataset, _ = publication.configure(service.catalog, service.store, dataset, change)
        if {"source", "pattern"} & sent:
            reconfigure.change_source(
                service.catalog,
                dataset,
                lambda now: (source or str(now.source), pattern if "pattern" in sent else now.pattern, None),
            )

    await service.in_thread(configure)
    await service.watcher.refresh()
    return await _description(service, name)


@router.delete(
    "/datasets/{name}",
    status_code=204,
    responses=documentation.no_content(
        problems.NOT_FOUND, problems.CONFLICT, description="The dataset was deleted."
    ),
)
async def delete_dataset(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Delete a dataset.

    The request is rejected with 409 while a job of the dataset is running. Version numbers are not reused.
    """
    query.read(request, {})
    await service.in_thread(service.catalog.delete_dataset, name)
    await service.watcher.refresh()
    return Response(status_code=204)


async def _description(service: Service, name: str) -> Response:
    def read() -> tuple[Dataset, Trigger, VersionRecord | None, list[Job]]:
        dataset = service.catalog.dataset(name)
        record = None if dataset.current_number is None else service.catalog.version(dataset)
        trigger = triggers.of(service.catalog, [dataset])[dataset.uid]
        return dataset, trigger, record, [job for job, _ in jobs.recent(service.catalog, dataset, MAX_JOBS)]

    dataset, trigger, record, recent = await service.in_thread(read)
    failures: list[tuple[str, str]] = []
    warnings: list[str] = []
    if record is not None:
        table = service.table(await service.in_thread(Published.of, name, record))
        try:
            if record.failed:
                _, failures = await service.in_thread(table.failures, limit=MAX_FAILURES)
            warnings = await service.in_thread(find_warnings, table.stored)
        except DamagedVersion as damage:
            # A corrupt version must not hide the description, which is where its owner looks for the cause.
            failures = [("", str(damage))]
        await service.watcher.refresh_operations()
        warnings += service.watcher.warnings(await service.in_thread(Published.of, name, record))

    def render() -> Response:
        return json_response(_details(dataset, trigger, record, failures, recent, warnings))

    # In a thread, because a split can list many paths.
    return await service.in_thread(render)


def _details(
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
