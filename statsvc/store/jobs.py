"""The job queue in the catalog: submit, lease, heartbeat, end."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.errors import LeaseLost, NotFound
from statsvc.store.engine import write
from statsvc.store.records import Job
from statsvc.store.schema import datasets, jobs, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog import Catalog
    from statsvc.store.records import Dataset

LEASE_SECONDS = 15.0
"""How long a lease lasts without a heartbeat."""

MAX_ATTEMPTS = 5
"""Attempts after which a job that keeps dying is failed."""

PAUSES = (1.0, 5.0, 25.0, 125.0)
"""Seconds before the second, third, … attempt of a job that ended unexpectedly."""

MAX_REMOVED = 0.1
"""Share of a version's samples that one job may lose before it asks."""


def submit(
    catalog: Catalog, dataset: Dataset, *, full: bool = False, max_removed: float = MAX_REMOVED
) -> tuple[Job, bool]:
    """Queue a recompute; return it and whether it is new. One already queued is joined, and widened."""
    with write(catalog.engine) as connection:
        queued = connection.execute(
            sa.select(jobs).where(jobs.c.dataset_uid == dataset.uid, jobs.c.state == "queued")
        ).first()
        if queued is not None:
            _widen(connection, queued.id, full, max_removed)
            return _one(connection, queued.id), False
        job_id = _insert(connection, dataset, "queued", full, max_removed)
        return _one(connection, job_id), True


def submit_leased(
    catalog: Catalog, dataset: Dataset, owner: str, *, full: bool = False, max_removed: float = MAX_REMOVED
) -> Job | None:
    """Insert a job already leased to its maker, taking over one that is queued or whose process is dead.

    Returns None while another process runs a job of this dataset.
    """
    with write(catalog.engine) as connection:
        running = connection.execute(
            sa.select(jobs, now().label("clock")).where(
                jobs.c.dataset_uid == dataset.uid, jobs.c.state == "running"
            )
        ).first()
        if running is not None:
            if not may_take_over(running):
                return None
            job_id = running.id
        else:
            queued = connection.scalar(
                sa.select(jobs.c.id).where(jobs.c.dataset_uid == dataset.uid, jobs.c.state == "queued")
            )
            job_id = queued or _insert(connection, dataset, "queued", full, max_removed)
        _widen(connection, job_id, full, max_removed)
        return _take(connection, job_id, owner)


def lease(catalog: Catalog, owner: str) -> Job | None:
    """Take the oldest job that may run: queued with none running, or running with a lapsed lease.

    A queued job whose attempt ended unexpectedly waits until its `lease_until`.

    A job that has used up its attempts is failed here with its last cause.
    """
    with write(catalog.engine) as connection:
        busy = sa.select(jobs.c.dataset_uid).where(jobs.c.state == "running").scalar_subquery()
        candidates = connection.execute(
            sa.select(jobs, now().label("clock"))
            .where(
                sa.or_(
                    sa.and_(
                        jobs.c.state == "queued",
                        jobs.c.dataset_uid.not_in(busy),
                        sa.or_(jobs.c.lease_until.is_(None), jobs.c.lease_until <= now()),
                    ),
                    jobs.c.state == "running",
                )
            )
            .order_by(jobs.c.created_at)
            .with_for_update(skip_locked=True)
        ).all()
        for row in candidates:
            if row.state == "running" and not may_take_over(row):
                continue
            if row.attempt - row.released >= MAX_ATTEMPTS:
                cause = row.error or "the process that ran it died"
                _end(connection, row.id, row.attempt, f"given up after {row.attempt} attempts: {cause}")
                continue
            return _take(connection, row.id, owner)
    return None


def heartbeat(catalog: Catalog, job: Job, progress: Mapping[str, Any]) -> None:
    """Prolong the lease and record progress. Raises `LeaseLost` where the attempt is no longer current."""
    with write(catalog.engine) as connection:
        changed = connection.execute(
            jobs.update()
            .where(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "running")
            .values(lease_until=now() + LEASE_SECONDS, progress=dict(progress))
        ).rowcount
    if changed != 1:
        raise LeaseLost(f"job {job.id} was taken over or ended; attempt {job.attempt} stops")


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
        newer = connection.scalar(
            sa.select(jobs.c.id).where(jobs.c.dataset_uid == job.dataset_uid, jobs.c.state == "queued")
        )
        if not orderly and tries >= MAX_ATTEMPTS:
            _end(connection, job.id, job.attempt, f"given up after {job.attempt} attempts: {cause}")
        elif newer is not None:
            # One queued job a dataset: the newer one does this one's work as well.
            _widen(connection, newer, job.full, job.max_removed)
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


def recent(catalog: Catalog, dataset: Dataset | None = None, limit: int = 20) -> list[tuple[Job, str]]:
    """Return the newest jobs, each with its dataset's name."""
    query = sa.select(jobs, datasets.c.name.label("dataset_name")).join(datasets)
    if dataset is not None:
        query = query.where(jobs.c.dataset_uid == dataset.uid)
    with catalog.engine.begin() as connection:
        rows = connection.execute(query.order_by(jobs.c.created_at.desc()).limit(limit)).all()
    return [(Job.from_row(row), row.dataset_name) for row in rows]


def process_identity() -> str:
    """Return host, process namespace, id and start time: who holds a lease, and whether it still lives."""
    return "/".join((_machine(), str(os.getpid()), _started(os.getpid()) or ""))


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{space}"


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, or None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 22, counted after the command name, which may itself hold spaces and parentheses: proc(5).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def may_take_over(row: sa.Row[Any]) -> bool:
    """Whether a running job's lease, with the database's `clock` beside it, has ended or its process has."""
    return bool(row.lease_until is None or row.lease_until < row.clock or _process_is_dead(row.owner))


def _process_is_dead(owner: str | None) -> bool:
    """Whether a lease's owner ran here and is certainly gone; elsewhere only the lease's end tells."""
    if owner is None:
        return True
    machine, pid, started = owner.rsplit("/", 2)
    if machine != _machine() or not started or not pid.isdigit():
        return False
    return _started(int(pid)) != started


def _insert(connection: sa.Connection, dataset: Dataset, state: str, full: bool, max_removed: float) -> str:
    job_id = uuid.uuid4().hex[:12]
    connection.execute(
        jobs.insert().values(
            id=job_id,
            dataset_uid=dataset.uid,
            state=state,
            full=full,
            max_removed=max_removed,
            attempt=0,
            released=0,
            progress={},
            created_at=now(),
        )
    )
    return job_id


def _widen(connection: sa.Connection, job_id: str, full: bool, max_removed: float) -> None:
    """Let a job do what a second request asks for as well."""
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id)
        .values(full=row.full or full, max_removed=max(row.max_removed, max_removed))
    )


def _take(connection: sa.Connection, job_id: str, owner: str) -> Job:
    """Start the next attempt; its group is reserved in the row before the first byte is written."""
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()
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
