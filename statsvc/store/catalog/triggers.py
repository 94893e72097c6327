"""Triggers: schedules and watched sources that queue scans automatically.

A dataset has at most one row of triggers. Triggers are not part of a version's configuration, and are removed
with their dataset.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.errors import Conflict, NotFound
from statsvc.store.catalog import dataset_rows
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.owners import CLOCK_TOLERANCE_SECONDS
from statsvc.store.catalog.records import Dataset, Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from statsvc.store.catalog.connection import Connection, Row
    from statsvc.store.catalog.database import Database

LONGEST_PAUSE_SECONDS = 3600.0
"""Longest pause of a schedule whose scans fail, unless its interval is longer."""

_MOST_FAILURES = 20
"""Failed scans after which the pause grows no further."""


class Trigger(Struct, frozen=True):
    """When scans of a dataset are queued automatically.

    every   seconds between scheduled scans, None for no schedule
    watch   whether a change in the source queues a scan
    due_at  when the next scheduled scan is due, in seconds since 1970 by the database's clock
    """

    every: float | None = None
    watch: bool = False
    due_at: float | None = None


def of(database: Database, selected: Iterable[Dataset]) -> dict[str, Trigger]:
    """Return the triggers of some datasets, by the dataset's uid."""
    by_uid = {dataset.uid: Trigger() for dataset in selected}
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT dataset_uid, every, watch, due_at
            FROM triggers
            WHERE dataset_uid IN :uids
            """,
            uids=list(by_uid),
        )
    return by_uid | {row.dataset_uid: _trigger(row) for row in rows}


def _trigger(row: Row) -> Trigger:
    return Trigger(row.every, bool(row.watch), row.due_at)


def change(database: Database, dataset: Dataset, changes: Mapping[str, float | bool | None]) -> None:
    """Change `every` or `watch` of a dataset; a new schedule starts now.

    Raises `Conflict` for imported counts, `NotFound` if the dataset was deleted.
    """
    if not changes:
        return
    if dataset.source is None:
        raise Conflict(
            f"{dataset.name} contains imported counts, so it has no source to scan or watch; "
            "register the label maps as a dataset to use --every and --watch"
        )
    with database.write() as connection:
        dataset_rows.lock(connection, dataset)
        connection.execute(
            """
            INSERT INTO triggers (dataset_uid, watch)
            VALUES (:uid, FALSE)
            ON CONFLICT (dataset_uid) DO NOTHING
            """,
            uid=dataset.uid,
        )
        if "every" in changes:
            connection.execute(
                """
                UPDATE triggers
                SET every = :every, due_at = clock() + :every
                WHERE dataset_uid = :uid
                """,
                uid=dataset.uid,
                every=changes["every"],
            )
        if "watch" in changes:
            connection.execute(
                """
                UPDATE triggers
                SET watch = :watch
                WHERE dataset_uid = :uid
                """,
                uid=dataset.uid,
                watch=changes["watch"],
            )


def watched(database: Database) -> list[tuple[Dataset, Trigger]]:
    """Return the datasets whose sources are watched."""
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT datasets.*, triggers.every, triggers.watch, triggers.due_at
            FROM datasets
            JOIN triggers ON triggers.dataset_uid = datasets.uid
            WHERE triggers.watch AND datasets.deleted_at IS NULL
            """
        )
    return [(Dataset.from_row(row), _trigger(row)) for row in rows]


def queue_due(database: Database) -> list[tuple[Dataset, Job]]:
    """Queue a scan of each dataset whose schedule is due; return the datasets with the jobs.

    Only the runner that advances `due_at` queues the job, so several runners queue one. A schedule that
    missed several scans, for example while no runner was up, queues one job. After failed scans in a row, a
    schedule queues fewer: see `_pause`.
    """
    with database.read() as connection:
        # Read without a lock, so that idle runners block nobody. A time further away than the interval was
        # stored before the clock was set back.
        rows = connection.rows(
            """
            SELECT datasets.*, triggers.due_at, triggers.every
            FROM datasets
            JOIN triggers ON triggers.dataset_uid = datasets.uid
            WHERE (triggers.due_at <= clock() OR triggers.due_at > clock() + triggers.every + :tolerance)
              AND datasets.deleted_at IS NULL
            """,
            tolerance=CLOCK_TOLERANCE_SECONDS,
        )
    queued = []
    for row in rows:
        dataset = Dataset.from_row(row)
        # A dataset that was deleted meanwhile must not prevent the scans of the others.
        with contextlib.suppress(NotFound), database.write() as connection:
            dataset_rows.lock(connection, dataset)
            advanced = connection.execute(
                """
                UPDATE triggers
                SET due_at = clock() + :every
                WHERE dataset_uid = :uid AND due_at = :due_at
                """,
                uid=dataset.uid,
                every=row.every,
                due_at=row.due_at,
            )
            if advanced == 1 and not _is_paused(connection, dataset, row.every):
                job, _ = queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)
                queued.append((dataset, job))
    return queued


def _is_paused(connection: Connection, dataset: Dataset, every: float) -> bool:
    """Whether the newest scans of a dataset failed, and its schedule waits before it tries again."""
    newest = connection.rows(
        """
        SELECT state, finished_at, clock() AS clock
        FROM jobs
        WHERE dataset_uid = :uid AND state IN ('succeeded', 'failed', 'cancelled')
        ORDER BY created_at DESC
        LIMIT :limit
        """,
        uid=dataset.uid,
        limit=_MOST_FAILURES,
    )
    failures = list(itertools.takewhile(lambda row: row.state == "failed", newest))
    if not failures or failures[0].finished_at is None:
        return False
    since = failures[0].clock - failures[0].finished_at
    # A negative time: the clock was set back.
    return bool(0 <= since < _pause(len(failures), every) - every / 2)


def _pause(failures: int, every: float) -> float:
    """Return how long a schedule waits after so many failed scans in a row: from the second one on, doubled.

    The pause ends at the due time that is nearest to it. It is at most an hour, or the interval if longer.
    """
    if failures < 2:
        return 0.0
    return float(min(every * 2 ** (failures - 1), max(every, LONGEST_PAUSE_SECONDS)))


def queue_unless_since(database: Database, dataset: Dataset, seconds: float) -> Job | None:
    """Queue a scan unless a scan of the whole source was queued in the last `seconds`.

    Such a scan sees every change that is at least `seconds` old, so several runners that watch the same
    source queue one job. Raises `NotFound` if the dataset was deleted.
    """
    with database.write() as connection:
        dataset_rows.lock(connection, dataset)
        # A job of the future was created before the clock was set back, and may be old.
        recent = connection.scalar(
            """
            SELECT id
            FROM jobs
            WHERE dataset_uid = :uid
              AND named IS NULL
              AND created_at > clock() - :seconds
              AND created_at <= clock()
            LIMIT 1
            """,
            uid=dataset.uid,
            seconds=seconds,
        )
        if recent is not None:
            return None
        return queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)[0]
