"""Which jobs have ended since the last poll, for counters; old jobs are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.store.catalog.records import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.database import Database

_OVERLAP_SECONDS = 60.0
"""How long before the last poll a job may have been created whose transaction was committed after it."""


class EndedJobs:
    """Finds each job that ends, once. Jobs that had ended before the first poll are not reported."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._unfinished: frozenset[str] = frozenset()
        self._reported: frozenset[str] = frozenset()

    def poll(self, database: Database) -> Sequence[Job]:
        """Return the jobs that have ended since the last poll."""
        with database.read() as connection:
            clock = connection.clock()
            # One query for each index.
            rows = connection.rows(
                """
                SELECT *
                FROM jobs
                WHERE created_at > :since
                """,
                since=(clock if self._since is None else self._since) - _OVERLAP_SECONDS,
            )
            rows += connection.rows(
                """
                SELECT *
                FROM jobs
                WHERE state IN ('queued', 'running')
                """
            )
            rows += connection.rows(
                """
                SELECT *
                FROM jobs
                WHERE id IN :ids
                """,
                ids=sorted(self._unfinished),
            )
        # On PostgreSQL, a job may have ended between the queries: the last one decides.
        found = {row.id: Job.from_row(row) for row in rows}
        ended = [job for job in found.values() if job.ended]
        known, is_first = self._reported, self._since is None
        self._since = clock
        self._unfinished = frozenset(job.id for job in found.values() if not job.ended)
        self._reported = frozenset(job.id for job in ended if job.created_at > clock - _OVERLAP_SECONDS)
        return [] if is_first else [job for job in ended if job.id not in known]
