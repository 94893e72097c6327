"""The changed paths of a job that looks at these only, in the transactions of the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.store.catalog.records import ENDED
from statsvc.store.catalog.schema import changed_paths, jobs

if TYPE_CHECKING:
    from collections.abc import Collection

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job

MAX_NAMED = 100_000
"""Changed paths that one job takes; one that is told of more lists the source instead."""


def paths_of(catalog: Catalog, job: Job) -> list[str] | None:
    """Return the changed paths that a job looks at, sorted; None where it lists the source."""
    with catalog.engine.begin() as connection:
        return read(connection, job)


def begin(connection: sa.Connection, dataset: Dataset, job_id: str, paths: Collection[str]) -> None:
    """Let a new job look at some paths only; those of the dataset's jobs that have ended are deleted."""
    _forget(connection, dataset)
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(named=0))
    add(connection, job_id, paths)


def add(connection: sa.Connection, job_id: str, paths: Collection[str] | None) -> None:
    """Add changed paths to a job that names some; None, or too many, make it list the source."""
    own = changed_paths.c.job_id == job_id
    known = set(connection.scalars(sa.select(changed_paths.c.path).where(own)))
    wanted = known if paths is None else known.union(paths)
    listing = paths is None or len(wanted) > MAX_NAMED
    if listing:
        connection.execute(changed_paths.delete().where(own))
    elif wanted > known:
        connection.execute(
            changed_paths.insert(), [{"job_id": job_id, "path": path} for path in sorted(wanted - known)]
        )
    connection.execute(
        jobs.update().where(jobs.c.id == job_id).values(named=None if listing else len(wanted))
    )


def read(connection: sa.Connection, job: Job) -> list[str] | None:
    """Return the paths that a job names, sorted; None where it lists the source."""
    if job.named is None:
        return None
    query = sa.select(changed_paths.c.path).where(changed_paths.c.job_id == job.id)
    return list(connection.scalars(query.order_by(changed_paths.c.path)))


def _forget(connection: sa.Connection, dataset: Dataset) -> None:
    """Delete the paths of a dataset's jobs that have ended: nobody looks at them any more."""
    ended = sa.select(jobs.c.id).where(
        jobs.c.dataset_uid == dataset.uid, jobs.c.named.is_not(None), jobs.c.state.in_(sorted(ENDED))
    )
    connection.execute(changed_paths.delete().where(changed_paths.c.job_id.in_(ended)))
