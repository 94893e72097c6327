"""Whether scans work: which runners are up, which jobs wait, and which datasets' scans keep failing."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from msgspec import Struct, field

from statsvc.common.durations import rounded_duration

if TYPE_CHECKING:
    from statsvc.store.catalog.connection import Connection
    from statsvc.store.catalog.database import Database

REPORT_SECONDS = 5.0
"""Interval at which a runner reports that it runs."""

MISSING_SECONDS = 60.0
"""Without a report for this long, a runner counts as missing, and a waiting job as neglected."""

_FORGOTTEN_SECONDS = 7 * 86400.0
"""How long a runner that ended unexpectedly is remembered."""

_MOST_FAILURES = 100
"""Failed scans in a row that are counted."""


class FailingScans(Struct, frozen=True):
    """The newest scans of a dataset, all of which failed.

    count         how many, at most `_MOST_FAILURES`
    error         why the newest one failed
    succeeded_at  when the last successful scan ended, in seconds since 1970; None if that is not known
    """

    count: int
    error: str
    succeeded_at: float | None


class Operations(Struct, frozen=True):
    """The state of runners and scans at one moment. Times are in seconds, by the database's clock.

    clock        the present time, since 1970
    runners      number of runners that have reported lately
    seen_at      when a runner last reported, since 1970; None if none is remembered
    queued       number of queued jobs that may run
    waiting      how long the oldest of them has waited
    running      number of running jobs
    stalled      for how long one of them has made no progress, the longest time
    overdue      how long the most overdue schedule has waited for its scan
    watched      number of datasets whose sources are watched
    failing      failing scans by the dataset's uid
    """

    clock: float
    runners: int
    seen_at: float | None
    queued: int
    waiting: float
    running: int
    stalled: float
    overdue: float
    watched: int
    failing: dict[str, FailingScans] = field(default_factory=dict)

    def missing_runner(self) -> str | None:
        """Return that no runner is up although there is work for one, or None."""
        if self.runners or self.running:
            return None
        if not self.watched and max(self.waiting, self.overdue) < MISSING_SECONDS:
            return None
        since = "" if self.seen_at is None else f" for {rounded_duration(self.clock - self.seen_at)}"
        if not self.queued:
            return f"no runner has reported{since}"
        jobs = "1 job has" if self.queued == 1 else f"{self.queued} jobs have"
        return f"no runner has reported{since}; {jobs} waited for {rounded_duration(self.waiting)}"

    def stale_counts(self, uid: str, counted_at: float) -> str | None:
        """Return that a dataset's scans fail and how old its counts are, or None.

        counted_at  when its current version was published
        """
        failing = self.failing.get(uid)
        if failing is None:
            return None
        age = self.clock - max(counted_at, failing.succeeded_at or counted_at)
        scans = "scan" if failing.count == 1 else f"{failing.count} scans"
        return f"the counts are {rounded_duration(max(0.0, age))} old, because the last {scans} failed"


def read(database: Database) -> Operations:
    """Read the present state."""
    with database.read() as connection:
        clock = connection.clock()
        seen = connection.scalars(
            """
            SELECT seen_at
            FROM runners
            """
        )
        unfinished = connection.rows(
            """
            SELECT dataset_uid, state, created_at, progress, started_at
            FROM jobs
            WHERE state IN ('queued', 'running')
            """
        )
        automatic = connection.rows(
            """
            SELECT triggers.watch, triggers.due_at
            FROM triggers
            JOIN datasets ON datasets.uid = triggers.dataset_uid
            WHERE datasets.deleted_at IS NULL
            """
        )
        progressed = [
            json.loads(row.progress).get("progressed_at") or row.started_at
            for row in unfinished
            if row.state == "running"
        ]
        busy = {row.dataset_uid for row in unfinished if row.state == "running"}
        queued = [row for row in unfinished if row.state == "queued" and row.dataset_uid not in busy]
        return Operations(
            clock=clock,
            runners=sum(clock - at < MISSING_SECONDS for at in seen),
            seen_at=max(seen, default=None),
            queued=len(queued),
            waiting=max((clock - row.created_at for row in queued), default=0.0),
            running=len(busy),
            stalled=max((clock - at for at in progressed), default=0.0),
            overdue=max((clock - row.due_at for row in automatic if row.due_at is not None), default=0.0),
            watched=sum(row.watch for row in automatic),
            failing={
                uid: scans
                for uid in _failing(connection)
                if (scans := _failing_scans(connection, uid)) is not None
            },
        )


def _failing(connection: Connection) -> list[str]:
    """Return the uids of the datasets whose newest ended job failed."""
    return connection.scalars(
        """
        SELECT uid
        FROM datasets
        WHERE deleted_at IS NULL
          AND 'failed' = (
              SELECT state
              FROM jobs
              WHERE dataset_uid = datasets.uid AND state IN ('succeeded', 'failed', 'cancelled')
              ORDER BY created_at DESC, id DESC
              LIMIT 1
          )
        """
    )


def _failing_scans(connection: Connection, uid: str) -> FailingScans | None:
    """Return the failed scans since the last successful one; None if there is none.

    On PostgreSQL, a scan may have succeeded since the statement that found the dataset.
    """
    newest = connection.rows(
        """
        SELECT state, error, finished_at
        FROM jobs
        WHERE dataset_uid = :uid AND state IN ('failed', 'succeeded')
        ORDER BY created_at DESC, id DESC
        LIMIT :limit
        """,
        uid=uid,
        limit=_MOST_FAILURES,
    )
    failures = list(itertools.takewhile(lambda row: row.state == "failed", newest))
    if not failures:
        return None
    succeeded_at = newest[len(failures)].finished_at if len(failures) < len(newest) else None
    return FailingScans(len(failures), failures[0].error or "", succeeded_at)


def report_runner(database: Database, owner: str) -> None:
    """Record that a runner runs, and forget runners that ended long ago."""
    with database.write() as connection:
        connection.execute(
            """
            DELETE FROM runners
            WHERE seen_at < clock() - :seconds
            """,
            seconds=_FORGOTTEN_SECONDS,
        )
        connection.execute(
            """
            INSERT INTO runners (owner, started_at, seen_at)
            VALUES (:owner, clock(), clock())
            ON CONFLICT (owner) DO UPDATE SET seen_at = clock()
            """,
            owner=owner,
        )


def remove_runner(database: Database, owner: str) -> None:
    """Forget a runner that stops in order."""
    with database.write() as connection:
        connection.execute(
            """
            DELETE FROM runners
            WHERE owner = :owner
            """,
            owner=owner,
        )
