"""SQL on the rows of jobs, in the caller's transaction.

A transaction that changes which jobs of a dataset are queued or running first locks the dataset's row, so
that on PostgreSQL such transactions run one after the other. SQLite serializes all writing transactions.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.common.logs import current_request_id
from statsvc.errors import LeaseLost
from statsvc.store.catalog import changed_paths
from statsvc.store.catalog.owners import LEASE_SECONDS, has_passed, may_take_over
from statsvc.store.catalog.records import Job
from statsvc.store.catalog.schema import jobs, now

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from statsvc.store.catalog.records import Dataset

PAUSES = (1.0, 5.0, 25.0, 125.0)
"""Seconds before the second, third, … attempt of a job whose last attempt ended unexpectedly."""

UNFINISHED = ("queued", "running")


def queued(dataset_uid: str) -> sa.Select[Any]:
    """Return the query for the id of a dataset's queued job."""
    return sa.select(jobs.c.id).where(jobs.c.dataset_uid == dataset_uid, jobs.c.state == "queued")


def running(dataset_uid: str) -> sa.Select[Any]:
    """Return the query for a dataset's running job, with the database's time as `clock`."""
    return sa.select(jobs, now().label("clock")).where(
        jobs.c.dataset_uid == dataset_uid, jobs.c.state == "running"
    )


def runnable() -> sa.Select[Any]:
    """Return the query for running jobs, and queued jobs whose dataset has no running job; oldest first."""
    busy = sa.select(jobs.c.dataset_uid).where(jobs.c.state == "running").scalar_subquery()
    return (
        sa.select(jobs, now().label("clock"))
        .where(
            jobs.c.state.in_(UNFINISHED),  # by the index: runners ask often, and most jobs have ended
            sa.or_(jobs.c.state == "running", jobs.c.dataset_uid.not_in(busy)),
        )
        .order_by(jobs.c.created_at, jobs.c.id)
    )


def may_run(row: sa.Row[Any]) -> bool:
    """Whether a row of `runnable` may be leased now: its pause is over, or its lease has expired."""
    if row.state == "queued":
        return has_passed(row.lease_until, row.clock, max(PAUSES))
    return may_take_over(row)


def read(connection: sa.Connection, job_id: str) -> Job:
    """Return a job that exists."""
    return Job.from_row(connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())


def insert(
    connection: sa.Connection,
    dataset: Dataset,
    full: bool,
    max_removed: float,
    estimate: Mapping[str, Any] | None = None,
) -> str:
    """Insert a queued job; return its id."""
    job_id = uuid.uuid4().hex[:12]
    connection.execute(
        jobs.insert().values(
            id=job_id,
            dataset_uid=dataset.uid,
            state="queued",
            full=full,
            max_removed=max_removed,
            attempt=0,
            released=0,
            progress={},
            estimate=estimate,
            created_at=now(),
            request_id=current_request_id(),
        )
    )
    return job_id


def merge_request(
    connection: sa.Connection,
    job_id: str,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None,
    estimate: Mapping[str, Any] | None = None,
) -> bool:
    """Extend an unfinished job so that it also fulfills another request; return False if it has ended."""
    row = _lock_unfinished(connection, job_id)
    if row is None:
        return False
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id)
        .values(
            full=row.full or full,
            max_removed=max(row.max_removed, max_removed),
            estimate=_larger(row.estimate, estimate),
        )
    )
    if row.named is not None:
        changed_paths.add(connection, job_id, paths)
    return True


def _larger(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the estimate that fulfills both requests; None counts all samples."""
    if first is None or second is None:
        return None
    larger = {"samples": max, "relative_error": min, "confidence": max}
    return {
        name: choose(request[name] for request in (first, second) if name in request)
        for name, choose in larger.items()
        if name in first or name in second
    }


def start_attempt(connection: sa.Connection, job_id: str, owner: str) -> Job | None:
    """Lease an unfinished job and start its next attempt; return None if it has ended.

    The attempt's group is reserved in the row before its first byte is written.
    """
    row = _lock_unfinished(connection, job_id)
    if row is None:
        return None
    attempt = row.attempt + 1
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id)
        .values(
            state="running",
            attempt=attempt,
            owner=owner,
            lease_until=now() + LEASE_SECONDS,
            group_uri=f"{row.dataset_uid}/{job_id}-{attempt}",
            started_at=sa.func.coalesce(jobs.c.started_at, now()),
        )
    )
    return read(connection, job_id)


def update_running(connection: sa.Connection, job: Job, values: Mapping[str, Any]) -> bool:
    """Change the job's row if this attempt still runs; return whether it does.

    This condition is the fence: no matter what a stale process believes, it changes nothing.
    """
    update = jobs.update().where(
        jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "running"
    )
    return connection.execute(update.values(dict(values))).rowcount == 1


def finish(
    connection: sa.Connection, job: Job, number: int | None, progress: Mapping[str, Any] | None
) -> None:
    """Mark a job as succeeded, with the number of the version it published, if any.

    Raises `LeaseLost` if this attempt no longer runs.
    """
    values: dict[str, Any] = {
        "state": "succeeded",
        "finished_at": now(),
        "version_number": number,
        "owner": None,
        "error": None,
    }
    if progress is not None:
        values["progress"] = dict(progress)
    if not update_running(connection, job, values):
        raise LeaseLost(
            f"attempt {job.attempt} of job {job.id} no longer holds the lease, so nothing was published"
        )


def end(
    connection: sa.Connection,
    job_id: str,
    attempt: int,
    error: str,
    state: str = "failed",
    progress: Mapping[str, Any] | None = None,
) -> None:
    """End an unfinished job without a version, unless another attempt has started."""
    values: dict[str, Any] = {"state": state, "error": error, "finished_at": now(), "owner": None}
    if progress is not None:
        values["progress"] = dict(progress)
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(UNFINISHED))
        .values(values)
    )


def _lock_unfinished(connection: sa.Connection, job_id: str) -> sa.Row[Any] | None:
    """Lock a job's row and return it, or None if the job has ended.

    Cancelling or ending a job does not lock its dataset's row, so it may happen after the row was read.
    """
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    return row if row.state in UNFINISHED else None
