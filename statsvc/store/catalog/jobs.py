"""The job queue in the catalog: submit, lease, heartbeat, end.

Whoever changes which jobs of a dataset are queued or running holds the dataset's row meanwhile, so on
PostgreSQL, too, two of them take turns; on SQLite every writing transaction has the file to itself.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.errors import Conflict, InvalidParameter, LeaseLost, NotFound
from statsvc.store.catalog import changed_paths
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.owners import may_take_over, process_identity
from statsvc.store.catalog.records import ENDED, Job
from statsvc.store.catalog.schema import datasets, jobs, now

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset

__all__ = ["process_identity"]  # with which whoever leases names itself

LEASE_SECONDS = 15.0
"""How long a lease lasts without a heartbeat."""

MAX_ATTEMPTS = 5
"""Attempts after which a job that keeps dying is failed."""

PAUSES = (1.0, 5.0, 25.0, 125.0)
"""Seconds before the second, third, … attempt of a job that ended unexpectedly."""

MAX_REMOVED = 0.1
"""Share of a version's samples that one job may lose before it asks."""

STATES = ("queued", "running", *sorted(ENDED))


def submit(
    catalog: Catalog,
    dataset: Dataset,
    *,
    full: bool = False,
    max_removed: float = MAX_REMOVED,
    paths: Collection[str] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute; return it and whether it is new. One already queued is joined, and widened.

    paths  what changed, relative to the source; None: the job lists the source to find out
    """
    with write(catalog.engine) as connection:
        return submit_in(connection, dataset, full=full, max_removed=max_removed, paths=paths)


def submit_in(
    connection: sa.Connection,
    dataset: Dataset,
    *,
    full: bool,
    max_removed: float,
    paths: Collection[str] | None = None,
) -> tuple[Job, bool]:
    """Queue a recompute in the caller's transaction, as `submit` does. Raises `NotFound` once deleted."""
    hold(connection, dataset)
    queued = connection.scalar(_queued(dataset.uid))
    if queued is not None and _widen(connection, queued, full, max_removed, paths):
        return _one(connection, queued), False
    job_id = _insert(connection, dataset, full, max_removed)
    if paths is not None:
        changed_paths.begin(connection, dataset, job_id, paths)
    return _one(connection, job_id), True


def submit_leased(
    catalog: Catalog, dataset: Dataset, owner: str, *, full: bool = False, max_removed: float = MAX_REMOVED
) -> Job | None:
    """Insert a job already leased to its maker, taking over one that is queued or whose process is dead.

    Returns None while another process runs a job of this dataset.
    """
    with write(catalog.engine) as connection:
        hold(connection, dataset)
        running = connection.execute(_running(dataset.uid)).first()
        if running is not None:
            if not may_take_over(running):
                return None
            job_id = running.id
        else:
            queued = connection.scalar(_queued(dataset.uid))
            job_id = queued or _insert(connection, dataset, full, max_removed)
        if not _widen(connection, job_id, full, max_removed, None):
            job_id = _insert(connection, dataset, full, max_removed)
        return _take(connection, job_id, owner)


def lease(catalog: Catalog, owner: str) -> Job | None:
    """Take the oldest job that may run: queued with none running, or running with a lapsed lease.

    A queued job whose attempt ended unexpectedly waits until its `lease_until`.

    A job that has used up its attempts is failed here with its last cause.
    """
    with catalog.engine.begin() as connection:
        # Looking takes no lock, so idle runners keep nobody waiting.
        candidates = [row for row in connection.execute(_waiting()).all() if _may_run(row)]
    for candidate in candidates:
        with write(catalog.engine) as connection:
            held = connection.execute(
                sa.select(datasets.c.uid)
                .where(datasets.c.uid == candidate.dataset_uid)
                .with_for_update(skip_locked=True)
            ).first()
            row = connection.execute(_waiting().where(jobs.c.id == candidate.id)).first()
            if held is None or row is None or not _may_run(row):
                continue  # another runner was first
            if row.attempt - row.released < MAX_ATTEMPTS:
                taken = _take(connection, row.id, owner)
                if taken is None:
                    continue  # it was cancelled, or ended, meanwhile
                return taken
            cause = row.error or "the process that ran it died"
            _end(connection, row.id, row.attempt, f"given up after {row.attempt} attempts: {cause}")
    return None


def _waiting() -> sa.Select[Any]:
    """Return the query for jobs that run, or wait with none of their dataset running; oldest first."""
    busy = sa.select(jobs.c.dataset_uid).where(jobs.c.state == "running").scalar_subquery()
    return (
        sa.select(jobs, now().label("clock"))
        .where(
            sa.or_(
                jobs.c.state == "running",
                sa.and_(jobs.c.state == "queued", jobs.c.dataset_uid.not_in(busy)),
            )
        )
        .order_by(jobs.c.created_at, jobs.c.id)
    )


def _may_run(row: sa.Row[Any]) -> bool:
    if row.state == "queued":
        return row.lease_until is None or bool(row.lease_until <= row.clock)
    return may_take_over(row)


def heartbeat(catalog: Catalog, job: Job, progress: Mapping[str, Any]) -> None:
    """Prolong the lease and record progress. Raises `LeaseLost` where the attempt is no longer current."""
    with write(catalog.engine) as connection:
        changed = connection.execute(
            jobs.update()
            .where(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "running")
            .values(lease_until=now() + LEASE_SECONDS, progress=dict(progress))
        ).rowcount
        if changed == 1:
            return
        found = _one(connection, job.id)
    became = f"was {found.error}" if found.state == "cancelled" else "was taken over or ended"
    raise LeaseLost(f"job {job.id} {became}; attempt {job.attempt} stops")


def succeed_unchanged(catalog: Catalog, job: Job, progress: Mapping[str, Any]) -> None:
    """End a job that found nothing changed: no version."""
    with write(catalog.engine) as connection:
        finish(connection, job, None, progress)


def finish(
    connection: sa.Connection, job: Job, number: int | None, progress: Mapping[str, Any] | None
) -> None:
    """End a job in the caller's transaction, with the version it made or none.

    The fence is (job, attempt, running): raises `LeaseLost` unless exactly one row changes.
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
    changed = connection.execute(
        jobs.update()
        .where(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "running")
        .values(values)
    ).rowcount
    if changed != 1:
        raise LeaseLost(f"job {job.id} is no longer attempt {job.attempt}'s: nothing was published by it")


def fail(catalog: Catalog, job: Job, error: str, progress: Mapping[str, Any] | None = None) -> None:
    """End a job with the cause; an attempt that lost its lease changes nothing."""
    with write(catalog.engine) as connection:
        _end(connection, job.id, job.attempt, error, progress=progress)


def cancel(catalog: Catalog, job_id: str) -> Job:
    """End a job that is queued or running; whoever runs it stops at its next heartbeat.

    The last version stays, and what was counted is kept for the next job. Cancelling twice is
    cancelling once. Raises `NotFound`, or `Conflict` where it has ended by itself already.
    """
    with write(catalog.engine) as connection:
        connection.execute(
            jobs.update()
            .where(jobs.c.id == job_id, jobs.c.state.in_(("queued", "running")))
            .values(state="cancelled", error="cancelled on request", finished_at=now(), owner=None)
        )
    job = get(catalog, job_id)
    if job.state != "cancelled":
        raise Conflict(f"job {job_id} has {job.state} already; there is nothing to cancel")
    return job


def cancel_own(catalog: Catalog, job: Job) -> None:
    """End a job because the person who ran it stopped it."""
    with write(catalog.engine) as connection:
        _end(connection, job.id, job.attempt, "stopped by its user", state="cancelled")


def give_back(catalog: Catalog, job: Job, cause: str, *, orderly: bool = False) -> None:
    """Put a job back in the queue after an unexpected end, or fail it when its attempts are used up.

    An orderly end, of a runner asked to stop, does not use up an attempt. After another one a runner
    takes it again when a pause has passed, longer each time.
    """
    tries = job.attempt - job.released
    later = None if orderly else now() + PAUSES[min(tries, len(PAUSES)) - 1]
    with write(catalog.engine) as connection:
        connection.execute(
            sa.select(datasets.c.uid).where(datasets.c.uid == job.dataset_uid).with_for_update()
        )
        now_running = connection.execute(_running(job.dataset_uid)).first()
        if now_running is None or (now_running.id, now_running.attempt) != (job.id, job.attempt):
            return  # taken over or ended: no longer this attempt's to give
        newer = connection.scalar(_queued(job.dataset_uid))
        if not orderly and tries >= MAX_ATTEMPTS:
            _end(connection, job.id, job.attempt, f"given up after {job.attempt} attempts: {cause}")
        elif newer is not None and _widen(
            connection, newer, job.full, job.max_removed, changed_paths.read(connection, job)
        ):
            # One queued job a dataset: the newer one does this one's work as well.
            _end(connection, job.id, job.attempt, f"superseded by job {newer} after: {cause}")
        else:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "running")
                .values(
                    state="queued",
                    owner=None,
                    lease_until=later,
                    error=cause,
                    released=jobs.c.released + int(orderly),
                )
            )


def get(catalog: Catalog, job_id: str) -> Job:
    """Return a job. Raises `NotFound`."""
    with catalog.engine.begin() as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}; list them with: statsvc jobs")
    return Job.from_row(row)


def lapsed(catalog: Catalog, job_id: str) -> bool:
    """Whether another process may take the job over: its lease has ended, or its process is dead."""
    with catalog.engine.begin() as connection:
        row = connection.execute(
            sa.select(jobs.c.owner, jobs.c.lease_until, now().label("clock")).where(jobs.c.id == job_id)
        ).one()
    return may_take_over(row)


def several(catalog: Catalog, job_ids: Iterable[str]) -> list[tuple[Job, str]]:
    """Return those of the jobs that there are, each with its dataset's name."""
    query = sa.select(jobs, datasets.c.name.label("dataset_name")).join(datasets)
    with catalog.engine.begin() as connection:
        rows = connection.execute(query.where(jobs.c.id.in_(list(job_ids)))).all()
    return [(Job.from_row(row), row.dataset_name) for row in rows]


def recent(
    catalog: Catalog,
    dataset: Dataset | None = None,
    limit: int = 20,
    *,
    state: str | None = None,
    before: str | None = None,
) -> list[tuple[Job, str]]:
    """Return the newest jobs, each with its dataset's name.

    state   only jobs in that state
    before  only jobs older than the job of that id

    Raises `InvalidParameter` for a state, or a job in `before`, that there is not.
    """
    query = sa.select(jobs, datasets.c.name.label("dataset_name")).join(datasets)
    if dataset is not None:
        query = query.where(jobs.c.dataset_uid == dataset.uid)
    if state is not None:
        if state not in STATES:
            raise InvalidParameter(("state", f"{state!r} is none of {', '.join(STATES)}"))
        query = query.where(jobs.c.state == state)
    with catalog.engine.begin() as connection:
        if before is not None:
            last = connection.execute(
                sa.select(jobs.c.created_at, jobs.c.id).where(jobs.c.id == before)
            ).first()
            if last is None:
                raise InvalidParameter(("before", f"there is no job {before!r}; take `next` of a page"))
            query = query.where(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(*last))
        rows = connection.execute(
            query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        ).all()
    return [(Job.from_row(row), row.dataset_name) for row in rows]


def hold(connection: sa.Connection, dataset: Dataset) -> None:
    """Take the dataset's row for this transaction. Raises `NotFound` where it was deleted meanwhile."""
    row = connection.execute(
        sa.select(datasets.c.deleted_at).where(datasets.c.uid == dataset.uid).with_for_update()
    ).one()
    if row.deleted_at is not None:
        raise NotFound(f"the dataset {dataset.name!r} was deleted meanwhile")


def _queued(dataset_uid: str) -> sa.Select[Any]:
    return sa.select(jobs.c.id).where(jobs.c.dataset_uid == dataset_uid, jobs.c.state == "queued")


def _running(dataset_uid: str) -> sa.Select[Any]:
    return sa.select(jobs, now().label("clock")).where(
        jobs.c.dataset_uid == dataset_uid, jobs.c.state == "running"
    )


def _insert(connection: sa.Connection, dataset: Dataset, full: bool, max_removed: float) -> str:
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
            created_at=now(),
        )
    )
    return job_id


def _widen(
    connection: sa.Connection, job_id: str, full: bool, max_removed: float, paths: Collection[str] | None
) -> bool:
    """Let a job do what a second request asks for as well; return whether it has not ended."""
    row = _locked(connection, job_id)
    if row is None:
        return False
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id)
        .values(full=row.full or full, max_removed=max(row.max_removed, max_removed))
    )
    if row.named is not None:
        changed_paths.add(connection, job_id, paths)
    return True


def _locked(connection: sa.Connection, job_id: str) -> sa.Row[Any] | None:
    """Return a job's row, locked, or None where it has ended.

    Who cancels or ends a job does not hold its dataset's row, and may have done so since it was read.
    """
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    return row if row.state in ("queued", "running") else None


def _take(connection: sa.Connection, job_id: str, owner: str) -> Job | None:
    """Start the next attempt of a job that has not ended.

    Its group is reserved in the row before the first byte is written.
    """
    row = _locked(connection, job_id)
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
    return _one(connection, job_id)


def _end(
    connection: sa.Connection,
    job_id: str,
    attempt: int,
    error: str,
    state: str = "failed",
    progress: Mapping[str, Any] | None = None,
) -> None:
    values: dict[str, Any] = {"state": state, "error": error, "finished_at": now(), "owner": None}
    if progress is not None:
        values["progress"] = dict(progress)
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(("queued", "running")))
        .values(values)
    )


def _one(connection: sa.Connection, job_id: str) -> Job:
    return Job.from_row(connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())
