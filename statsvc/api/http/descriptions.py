"""Datasets, versions and jobs as JSON; `statsvc.api.schemas` documents the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.api.http.responses import iso
from statsvc.common.durations import format_duration
from statsvc.store.catalog.jobs import MAX_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.catalog.triggers import Trigger


def job_summary(job: Job) -> dict[str, Any]:
    """Return the state of a job."""
    return {
        "id": job.id,
        "state": job.state,
        "version": job.version_number,
        "error": job.error,
        "created_at": iso(job.created_at),
        "finished_at": iso(job.finished_at),
    }


def job_description(job: Job, dataset: str) -> dict[str, Any]:
    """Return a job with its progress and its unreadable samples."""
    progress = dict(job.progress)
    return {
        "id": job.id,
        "dataset": dataset,
        "state": job.state,
        "attempt": job.attempt,
        "max_attempts": MAX_ATTEMPTS + job.released,
        "full": job.full,
        "paths": job.named,
        "max_removed": job.max_removed,
        "estimate": None if job.estimate is None else dict(job.estimate),
        "failed": progress.get("failed", 0),
        "failures": progress.pop("failures", []),
        "warnings": progress.pop("warnings", []),
        "progressed_at": iso(progress.pop("progressed_at", None)),
        "progress": progress,
        "error": job.error,
        "version": job.version_number,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "request_id": job.request_id,
    }


def dataset_summary(
    dataset: Dataset, trigger: Trigger, current: VersionRecord | None, job: Job | None
) -> dict[str, Any]:
    """Return a dataset with its automatic scans, its current version and its newest job."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "pattern": dataset.pattern,
        "keep": dataset.keep,
        "every": None if trigger.every is None else format_duration(trigger.every),
        "watch": trigger.watch,
        "next_scan_at": iso(trigger.due_at),
        "version": None if current is None else current.number,
        "samples": None if current is None else current.samples,
        "failed": 0 if current is None else current.failed,
        "pixels": None if current is None else current.pixels,
        "created_at": iso(dataset.created_at),
        "published_at": None if current is None else iso(current.created_at),
        "job": None if job is None else job_summary(job),
    }


def version_description(record: VersionRecord, tags: Sequence[str]) -> dict[str, Any]:
    """Return a version with the names of its splits, because their lists of paths can be long."""
    configuration = record.configuration
    return {
        "number": record.number,
        "tags": list(tags),
        "rows": record.expired_at is None and "path" in record.digests,
        "kind": record.kind,
        "samples": record.samples,
        "sampled_from": configuration.sampled_from,
        "failed": record.failed,
        "pixels": record.pixels,
        "num_classes": configuration.num_classes,
        "class_map": None if configuration.class_map is None else configuration.class_map.name,
        "splits": sorted(configuration.splits),
        "selection": None if configuration.selection is None else configuration.selection.to_dict(),
        "reader": record.reader,
        "job": record.job_id,
        "created_at": iso(record.created_at),
    }
