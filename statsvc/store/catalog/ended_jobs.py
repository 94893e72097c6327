"""Which jobs have ended since the last poll, for counters; old jobs are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.store.catalog.job_rows import UNFINISHED
from statsvc.store.catalog.schema import jobs, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.database import Database

_OVERLAP_SECONDS = 60.0
"""How long before the last poll a job may have been created whose transaction was committed after it."""

_COLUMNS = (
    jobs.c.id,
    jobs.c.state,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.progress,
)


class EndedJobs:
    """Finds each job that ends, once. Jobs that had ended before the first poll are not reported."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._unfinished: frozenset[str] = frozenset()
        self._reported: frozenset[str] = frozenset()

    def poll(self, database: Database) -> Sequence[sa.Row[Any]]:
        """Return the jobs that have ended since the last poll: state, times and progress."""
        with database.engine.begin() as connection:
            clock = connection.scalar(sa.select(now())) or 0.0
            newer = jobs.c.created_at > (clock if self._since is None else self._since) - _OVERLAP_SECONDS
            found: dict[str, sa.Row[Any]] = {}
            # One query for each index.
            for condition in (newer, jobs.c.state.in_(UNFINISHED), jobs.c.id.in_(self._unfinished)):
                query: sa.Select[Any] = sa.select(*_COLUMNS).where(condition)
                found.update((row.id, row) for row in connection.execute(query))
        ended = [row for row in found.values() if row.state not in UNFINISHED]
        known, is_first = self._reported, self._since is None
        self._since = clock
        self._unfinished = frozenset(row.id for row in found.values() if row.state in UNFINISHED)
        self._reported = frozenset(row.id for row in ended if row.created_at > clock - _OVERLAP_SECONDS)
        return [] if is_first else [row for row in ended if row.id not in known]
