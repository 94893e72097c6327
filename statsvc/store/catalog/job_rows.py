"""SQL on the rows of jobs, in the caller's transaction.

A transaction that changes which jobs of a dataset are queued or running first locks the dataset's row, so
that on PostgreSQL such transactions run one after the other. SQLite serializes all writing transactions.

`finish`, `renew` and `requeue` change a job only while its attempt still runs. This condition is the fence:
no matter what a stale process believes, it changes nothing.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from statsvc.common.logs import current_request_id
from statsvc.errors import LeaseLost
from statsvc.store.catalog import changed_paths
from statsvc.store.catalog.owners import LEASE_SECONDS, has_passed, may_take_over
from statsvc.store.catalog.records import Job

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from statsvc.store.catalog.connection import Connection, Row
    from statsvc.store.catalog.records import Dataset

PAUSES = (1.0, 5.0, 25.0, 125.0)
"""Seconds before the second, third, … attempt of a job whose last attempt ended unexpectedly."""

UNFINISHED = ("queued", "running")


_RUNNABLE = """
    SELECT *, clock() AS clock
    FROM jobs
    WHERE state IN ('queued', 'running')  -- by the index, because most jobs have ended
      AND (state = 'running' OR dataset_uid NOT IN (SELECT dataset_uid FROM jobs WHERE state = 'running'))
"""


def queued(connection: Connection, dataset_uid: str) -> str | None:
    """Return the id of a dataset's queued job, if any."""
    job_id: str | None = connection.scalar(
        """
        SELECT id
        FROM jobs
        WHERE dataset_uid = :uid AND state = 'queued'
        """,
        uid=dataset_uid,
    )
    return job_id


def running(connection: Connection, dataset_uid: str) -> Row | None:
    """Return a dataset's running job, if any, with the database's time as `clock`."""
    return connection.first(
        """
        SELECT *, clock() AS clock
        FROM jobs
        WHERE dataset_uid = :uid AND state = 'running'
        """,
        uid=dataset_uid,
    )


def runnable(connection: Connection) -> list[Row]:
    """Return the running jobs, and the queued jobs whose dataset has no running job; oldest first."""
    return connection.rows(f"{_RUNNABLE} ORDER BY created_at, id")


def if_runnable(connection: Connection, job_id: str) -> Row | None:
    """Return the row of `runnable` for a job, if any."""
    return connection.first(f"{_RUNNABLE} AND id = :id", id=job_id)


def may_run(row: Row) -> bool:
    """Whether a row of `runnable` may be leased now: its pause is over, or its lease has expired."""
    if row.state == "queued":
        return has_passed(row.lease_until, row.clock, max(PAUSES))
    return may_take_over(row)


def read(connection: Connection, job_id: str) -> Job:
    """Return a job that exists."""
    row = connection.one(
        """
        SELECT *
        FROM jobs
        WHERE id = :id
        """,
        id=job_id,
    )
    return Job.from_row(row)


def insert(
    connection: Connection,
    dataset: Dataset,
    full: bool,
    max_removed: float,
    estimate: Mapping[str, Any] | None = None,
) -> str:
    """Insert a queued job; return its id."""
    job_id = uuid.uuid4().hex[:12]
    connection.execute(
        """
        INSERT INTO jobs
            (id, dataset_uid, state, "full", max_removed, attempt, released, progress, estimate, created_at,
             request_id)
        VALUES
            (:id, :uid, 'queued', :full, :max_removed, 0, 0, '{}', :estimate, clock(), :request_id)
        """,
        id=job_id,
        uid=dataset.uid,
        full=full,
        max_removed=max_removed,
        estimate=_json(estimate),
        request_id=current_request_id(),
    )
    return job_id


def merge_request(
    connection: Connection,
    job_id: str,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None,
    estimate: Mapping[str, Any] | None = None,
) -> bool:
    """Extend an unfinished job so that it also fulfills another request; return False if it has ended."""
    job = _lock_unfinished(connection, job_id)
    if job is None:
        return False
    connection.execute(
        """
        UPDATE jobs
        SET "full" = :full, max_removed = :max_removed, estimate = :estimate
        WHERE id = :id
        """,
        id=job_id,
        full=job.full or full,
        max_removed=max(job.max_removed, max_removed),
        estimate=_json(_larger(job.estimate, estimate)),
    )
    if job.named is not None:
        changed_paths.add(connection, job_id, paths)
    return True


def _json(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else json.dumps(dict(values))


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


def start_attempt(connection: Connection, job_id: str, owner: str) -> Job | None:
    """Lease an unfinished job and start its next attempt; return None if it has ended.

    The attempt's group is reserved in the row before its first byte is written.
    """
    job = _lock_unfinished(connection, job_id)
    if job is None:
        return None
    attempt = job.attempt + 1
    connection.execute(
        """
        UPDATE jobs
        SET state = 'running',
            attempt = :attempt,
            owner = :owner,
            lease_until = clock() + :lease_seconds,
            group_uri = :group_uri,
            started_at = coalesce(started_at, clock())
        WHERE id = :id
        """,
        id=job_id,
        attempt=attempt,
        owner=owner,
        lease_seconds=LEASE_SECONDS,
        group_uri=f"{job.dataset_uid}/{job_id}-{attempt}",
    )
    return read(connection, job_id)


def renew(connection: Connection, job: Job, progress: Mapping[str, Any]) -> bool:
    """Extend the lease and record progress if this attempt still runs; return whether it does."""
    renewed = connection.execute(
        """
        UPDATE jobs
        SET lease_until = clock() + :lease_seconds, progress = :progress
        WHERE id = :id AND attempt = :attempt AND state = 'running'
        """,
        id=job.id,
        attempt=job.attempt,
        lease_seconds=LEASE_SECONDS,
        progress=_json(progress),
    )
    return renewed == 1


def requeue(connection: Connection, job: Job, error: str, *, pause: float | None) -> None:
    """Requeue a job if this attempt still runs.

    pause  seconds before the next attempt; None after an orderly end, which does not use up an attempt
    """
    connection.execute(
        """
        UPDATE jobs
        SET state = 'queued',
            owner = NULL,
            lease_until = clock() + :pause,
            error = :error,
            released = released + :released
        WHERE id = :id AND attempt = :attempt AND state = 'running'
        """,
        id=job.id,
        attempt=job.attempt,
        pause=pause,
        error=error,
        released=int(pause is None),
    )


def finish(connection: Connection, job: Job, number: int | None, progress: Mapping[str, Any] | None) -> None:
    """Mark a job as succeeded, with the number of the version it published, if any.

    Raises `LeaseLost` if this attempt no longer runs.
    """
    finished = connection.execute(
        """
        UPDATE jobs
        SET state = 'succeeded',
            finished_at = clock(),
            version_number = :number,
            owner = NULL,
            error = NULL,
            progress = coalesce(:progress, progress)
        WHERE id = :id AND attempt = :attempt AND state = 'running'
        """,
        id=job.id,
        attempt=job.attempt,
        number=number,
        progress=_json(progress),
    )
    if finished != 1:
        raise LeaseLost(
            f"attempt {job.attempt} of job {job.id} no longer holds the lease, so nothing was published"
        )


def end(
    connection: Connection,
    job_id: str,
    attempt: int,
    error: str,
    state: str = "failed",
    progress: Mapping[str, Any] | None = None,
) -> None:
    """End an unfinished job without a version, unless another attempt has started."""
    connection.execute(
        """
        UPDATE jobs
        SET state = :state,
            error = :error,
            finished_at = clock(),
            owner = NULL,
            progress = coalesce(:progress, progress)
        WHERE id = :id AND attempt = :attempt AND state IN ('queued', 'running')
        """,
        id=job_id,
        attempt=attempt,
        state=state,
        error=error,
        progress=_json(progress),
    )


def _lock_unfinished(connection: Connection, job_id: str) -> Job | None:
    """Lock a job's row and return it, or None if the job has ended.

    Cancelling or ending a job does not lock its dataset's row, so it may happen after the row was read.
    """
    row = connection.one(
        """
        SELECT *
        FROM jobs
        WHERE id = :id
        FOR UPDATE
        """,
        id=job_id,
    )
    job = Job.from_row(row)
    return None if job.ended else job
