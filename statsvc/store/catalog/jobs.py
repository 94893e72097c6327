"""The job queue: submit, lease, heartbeat, end, requeue and list jobs. Each function is one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.errors import Conflict, InvalidParameter, LeaseLost, NotFound
from statsvc.store.catalog import changed_paths, dataset_rows, job_rows
from statsvc.store.catalog.job_rows import PAUSES, UNFINISHED
from statsvc.store.catalog.owners import may_take_over, process_identity
from statsvc.store.catalog.records import ENDED, Job

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from statsvc.store.catalog.connection import Connection, Row
    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset

__all__ = ["process_identity"]  # the `owner` that a process passes to `lease` and `submit_leased`

MAX_ATTEMPTS = 5
"""Attempts after which a job fails if each of them ended unexpectedly."""

MAX_REMOVED = 0.1
"""Default share of a version's samples that one job may remove; a job that would remove more fails."""

STATES = (*UNFINISHED, *sorted(ENDED))


def submit(
    database: Database,
    dataset: Dataset,
    *,
    full: bool = False,
    max_removed: float = MAX_REMOVED,
    paths: Collection[str] | None = None,
    estimate: Mapping[str, Any] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute; return the job and whether it is new.

    If the dataset already has a queued job, the request is merged into that one.

    paths     paths that changed, relative to the source; None: the job lists the whole source
    estimate  as in `Job`

    Raises `NotFound` if the dataset was deleted, and `Conflict` for an estimate where exact counts exist.
    """
    with database.write() as connection:
        return submit_in(
            connection, dataset, full=full, max_removed=max_removed, paths=paths, estimate=estimate
        )


def submit_in(
    connection: Connection,
    dataset: Dataset,
    *,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None = None,
    estimate: Mapping[str, Any] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute as `submit` does, in the caller's transaction."""
    check_may_estimate(dataset, estimate)
    dataset_rows.lock(connection, dataset)
    queued_id = job_rows.queued(connection, dataset.uid)
    if queued_id is not None and job_rows.merge_request(
        connection, queued_id, full, max_removed, paths, estimate
    ):
        return job_rows.read(connection, queued_id), False
    job_id = job_rows.insert(connection, dataset, full, max_removed, estimate)
    if paths is not None:
        changed_paths.begin(connection, dataset, job_id, paths)
    return job_rows.read(connection, job_id), True


def check_may_estimate(dataset: Dataset, estimate: Mapping[str, Any] | None) -> None:
    """Raise `Conflict` where an estimate would replace exact counts."""
    number = dataset.current_number
    if estimate is not None and number is not None and dataset.configuration.sampled_from is None:
        raise Conflict(
            f"version {number} of {dataset.name} has the counts of all samples, and an estimate from some of "
            "them never replaces it. Scan without a sample size: unchanged samples are not counted again"
        )


def submit_leased(
    database: Database,
    dataset: Dataset,
    owner: str,
    *,
    full: bool = False,
    max_removed: float = MAX_REMOVED,
    estimate: Mapping[str, Any] | None = None,
) -> Job | None:
    """Create a job that is already leased to `owner`, for a process that counts in the foreground.

    Takes over the dataset's queued job, or its running job if the lease has expired or its process is dead.
    Returns None while another process runs a job of this dataset. Raises as `submit` does.
    """
    check_may_estimate(dataset, estimate)
    with database.write() as connection:
        dataset_rows.lock(connection, dataset)
        running = job_rows.running(connection, dataset.uid)
        if running is not None:
            if not may_take_over(running):
                return None
            job_id = running.id
        else:
            queued_id = job_rows.queued(connection, dataset.uid)
            job_id = queued_id or job_rows.insert(connection, dataset, full, max_removed, estimate)
        if not job_rows.merge_request(connection, job_id, full, max_removed, None, estimate):
            job_id = job_rows.insert(connection, dataset, full, max_removed, estimate)
        return job_rows.start_attempt(connection, job_id, owner)


def lease(database: Database, owner: str) -> Job | None:
    """Lease the oldest job that may run, or return None.

    A queued job may run if its dataset has no running job and its pause after an unexpected end is over. A
    running job may be taken over if its lease has expired. A job that has used up its attempts fails here,
    with its last error.
    """
    with database.read() as connection:
        # Read without a lock, so that idle runners block nobody.
        candidates = [row for row in job_rows.runnable(connection) if job_rows.may_run(row)]
    for candidate in candidates:
        with database.write() as connection:
            job = _lease_candidate(connection, candidate, owner)
        if job is not None:
            return job
    return None


def _lease_candidate(connection: Connection, candidate: Row, owner: str) -> Job | None:
    """Lease a job that could run when it was read, unless another runner was faster or it must fail."""
    locked = connection.first(
        """
        SELECT uid
        FROM datasets
        WHERE uid = :uid
        FOR UPDATE SKIP LOCKED
        """,
        uid=candidate.dataset_uid,
    )
    row = job_rows.if_runnable(connection, candidate.id)
    if locked is None or row is None or not job_rows.may_run(row):
        return None
    if row.attempt - row.released < MAX_ATTEMPTS:
        return job_rows.start_attempt(connection, row.id, owner)
    cause = row.error or "the process that ran it died"
    job_rows.end(connection, row.id, row.attempt, _gave_up(row.attempt, cause))
    return None


def _gave_up(attempt: int, cause: str) -> str:
    return f"gave up after {attempt} attempts; the last error was: {cause}"


def heartbeat(database: Database, job: Job, progress: Mapping[str, Any]) -> float:
    """Extend the lease and record progress; return when the progress changed last, as recorded.

    That is `progress["progressed_at"]` or, without it, the present time by the database's clock, in seconds
    since 1970. Raises `LeaseLost` if this attempt no longer runs.
    """
    with database.write() as connection:
        progressed_at: float | None = progress.get("progressed_at")
        if progressed_at is None:
            progressed_at = connection.clock()
        if job_rows.renew(connection, job, {**progress, "progressed_at": progressed_at}):
            return progressed_at
        current = job_rows.read(connection, job.id)
    reason = f"was {current.error}" if current.state == "cancelled" else "was taken over or ended"
    raise LeaseLost(f"job {job.id} {reason}; attempt {job.attempt} stops")


def succeed_unchanged(database: Database, job: Job, progress: Mapping[str, Any]) -> None:
    """Mark a job as succeeded without a version, because nothing has changed."""
    with database.write() as connection:
        job_rows.finish(connection, job, None, progress)


def fail(database: Database, job: Job, error: str, progress: Mapping[str, Any] | None = None) -> None:
    """Fail a job with its error; an attempt that has lost its lease changes nothing."""
    with database.write() as connection:
        job_rows.end(connection, job.id, job.attempt, error, progress=progress)


def cancel(database: Database, job_id: str) -> Job:
    """Cancel a queued or running job; a worker that runs it stops at its next heartbeat.

    The current version stays, and the next job reuses the checkpoints. Cancelling a cancelled job has no
    effect. Raises `NotFound`, or `Conflict` if the job has already ended otherwise.
    """
    with database.write() as connection:
        connection.execute(
            """
            UPDATE jobs
            SET state = 'cancelled', error = 'cancelled on request', finished_at = clock(), owner = NULL
            WHERE id = :id AND state IN ('queued', 'running')
            """,
            id=job_id,
        )
    job = get(database, job_id)
    if job.state != "cancelled":
        raise Conflict(f"job {job_id} cannot be cancelled: it has already {job.state}")
    return job


def cancel_own(database: Database, job: Job) -> None:
    """Cancel a job that this process runs, because its user interrupted it."""
    with database.write() as connection:
        job_rows.end(connection, job.id, job.attempt, "stopped by its user", state="cancelled")


def requeue(database: Database, job: Job, cause: str, *, orderly: bool = False) -> None:
    """Requeue a job whose attempt did not finish, or fail it if it has used up its attempts.

    An orderly end (the runner was asked to stop) does not use up an attempt. After any other end, the job
    waits before its next attempt, longer each time.
    """
    attempts = job.attempt - job.released
    with database.write() as connection:
        dataset_rows.lock_uid(connection, job.dataset_uid)
        running = job_rows.running(connection, job.dataset_uid)
        if running is None or (running.id, running.attempt) != (job.id, job.attempt):
            return  # another attempt took the job over, or it ended
        newer = job_rows.queued(connection, job.dataset_uid)
        if not orderly and attempts >= MAX_ATTEMPTS:
            job_rows.end(connection, job.id, job.attempt, _gave_up(job.attempt, cause))
        elif newer is not None and job_rows.merge_request(
            *(connection, newer, job.full, job.max_removed, changed_paths.read(connection, job)),
            job.estimate,
        ):
            # A dataset has at most one queued job, so the newer one does the work of both.
            reason = f"superseded by job {newer} after: {cause}"
            job_rows.end(connection, job.id, job.attempt, reason, state="cancelled")
        else:
            pause = None if orderly else PAUSES[min(attempts, len(PAUSES)) - 1]
            job_rows.requeue(connection, job, cause, pause=pause)


def get(database: Database, job_id: str) -> Job:
    """Return a job. Raises `NotFound`."""
    with database.read() as connection:
        row = connection.first(
            """
            SELECT *
            FROM jobs
            WHERE id = :id
            """,
            id=job_id,
        )
    if row is None:
        raise NotFound(f"there is no job {job_id!r}; list the jobs with: statsvc jobs")
    return Job.from_row(row)


def lease_expired(database: Database, job_id: str) -> bool:
    """Whether another process may take the job over: its lease has expired, or its process is dead."""
    with database.read() as connection:
        row = connection.one(
            """
            SELECT owner, lease_until, clock() AS clock
            FROM jobs
            WHERE id = :id
            """,
            id=job_id,
        )
    return may_take_over(row)


def by_ids(database: Database, job_ids: Iterable[str]) -> list[tuple[Job, str]]:
    """Return the jobs with these ids, each with its dataset's name; unknown ids are left out."""
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT jobs.*, datasets.name AS dataset_name
            FROM jobs
            JOIN datasets ON datasets.uid = jobs.dataset_uid
            WHERE jobs.id IN :ids
            """,
            ids=list(job_ids),
        )
    return [(Job.from_row(row), row.dataset_name) for row in rows]


def recent(
    database: Database,
    dataset: Dataset | None = None,
    limit: int = 20,
    *,
    state: str | None = None,
    before: str | None = None,
) -> list[tuple[Job, str]]:
    """Return the newest jobs, each with its dataset's name.

    state   only jobs in this state
    before  only jobs older than the job with this id

    Raises `InvalidParameter` for an unknown state, `NotFound` for an unknown job in `before`.
    """
    if state is not None and state not in STATES:
        raise InvalidParameter(("state", f"{state!r} must be one of {', '.join(STATES)}"))
    query = [
        "SELECT jobs.*, datasets.name AS dataset_name",
        "FROM jobs",
        "JOIN datasets ON datasets.uid = jobs.dataset_uid",
        "WHERE TRUE",
    ]
    values: dict[str, Any] = {"limit": limit}
    if dataset is not None:
        query.append("AND jobs.dataset_uid = :uid")
        values["uid"] = dataset.uid
    if state is not None:
        query.append("AND jobs.state = :state")
        values["state"] = state
    with database.read() as connection:
        if before is not None:
            last = connection.first(
                """
                SELECT created_at, id
                FROM jobs
                WHERE id = :id
                """,
                id=before,
            )
            if last is None:
                raise NotFound(
                    f"there is no job {before!r}; use the value of `next` of the previous page as `before`"
                )
            query.append("AND (jobs.created_at, jobs.id) < (:created_at, :id)")
            values |= vars(last)
        query += ["ORDER BY jobs.created_at DESC, jobs.id DESC", "LIMIT :limit"]
        rows = connection.rows("\n".join(query), **values)
    return [(Job.from_row(row), row.dataset_name) for row in rows]
