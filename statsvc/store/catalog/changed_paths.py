"""The changed paths of jobs that check only these instead of listing the whole source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.store.catalog.records import ENDED
from statsvc.store.catalog.schema import changed_paths, jobs

if TYPE_CHECKING:
    from collections.abc import Collection

    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset, Job

MAX_NAMED = 100_000
"""Most changed paths of one job; a job with more lists the source instead."""


def paths_of(database: Database, job: Job) -> list[str] | None:
    """Return the changed paths that a job checks, sorted; None if it lists the source."""
    with database.engine.begin() as connection:
        return read(connection, job)


def begin(connection: sa.Connection, dataset: Dataset, job_id: str, paths: Collection[str]) -> None:
    """Restrict a new job to some paths, and delete the paths of the dataset's jobs that have ended."""
    _delete_ended(connection, dataset)
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(named=0))
    add(connection, job_id, paths)


def add(connection: sa.Connection, job_id: str, paths: Collection[str] | None) -> None:
    """Add changed paths to a restricted job; with None, or too many, it lists the source instead."""
    of_job = changed_paths.c.job_id == job_id
    known = set(connection.scalars(sa.select(changed_paths.c.path).where(of_job)))
    merged = known if paths is None else known.union(paths)
    lists_source = paths is None or len(merged) > MAX_NAMED
    if lists_source:
        connection.execute(changed_paths.delete().where(of_job))
    elif merged > known:
        connection.execute(
            changed_paths.insert(), [{"job_id": job_id, "path": path} for path in sorted(merged - known)]
        )
    connection.execute(
        jobs.update().where(jobs.c.id == job_id).values(named=None if lists_source else len(merged))
    )


def read(connection: sa.Connection, job: Job) -> list[str] | None:
    """Return the changed paths that a job checks, sorted; None if it lists the source."""
    if job.named is None:
        return None
    query = sa.select(changed_paths.c.path).where(changed_paths.c.job_id == job.id)
    return list(connection.scalars(query.order_by(changed_paths.c.path)))


def _delete_ended(connection: sa.Connection, dataset: Dataset) -> None:
    """Delete the paths of a dataset's jobs that have ended; nothing reads them again."""
    ended = sa.select(jobs.c.id).where(
        jobs.c.dataset_uid == dataset.uid, jobs.c.named.is_not(None), jobs.c.state.in_(sorted(ENDED))
    )
    connection.execute(changed_paths.delete().where(changed_paths.c.job_id.in_(ended)))
