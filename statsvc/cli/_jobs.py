"""A job as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.cli._tables import iso

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Job


def job_to_dict(job: Job, dataset: str) -> dict[str, Any]:
    """Return a job of the named dataset as JSON."""
    progress = dict(job.progress)
    return {
        "id": job.id,
        "dataset": dataset,
        "state": job.state,
        "attempt": job.attempt,
        "version": job.version_number,
        "created": iso(job.created_at),
        "started": iso(job.started_at),
        "finished": iso(job.finished_at),
        "error": job.error,
        "warnings": progress.pop("warnings", []),
        "progressed": iso(progress.pop("progressed_at", None)),
        "progress": progress,
    }
