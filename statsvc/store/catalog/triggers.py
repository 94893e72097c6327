"""Triggers: schedules and watched sources that queue scans automatically.

A dataset has at most one row of triggers. Triggers are not part of a version's configuration, and are removed
with their dataset.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import sqlalchemy as sa
from msgspec import Struct

from statsvc.errors import Conflict, NotFound
from statsvc.store.catalog import dataset_rows
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.owners import CLOCK_TOLERANCE_SECONDS
from statsvc.store.catalog.records import ENDED, Dataset, Job
from statsvc.store.catalog.schema import datasets, jobs, now, triggers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    with database.engine.begin() as connection:
        rows = connection.execute(sa.select(triggers).where(triggers.c.dataset_uid.in_(list(by_uid)))).all()
    return by_uid | {row.dataset_uid: Trigger(row.every, row.watch, row.due_at) for row in rows}


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
    of_dataset = triggers.c.dataset_uid == dataset.uid
    values: dict[str, object] = dict(changes)
    if "every" in changes:
        every = changes["every"]
        values["due_at"] = None if every is None else now() + float(every)
    with write(database.engine) as connection:
        dataset_rows.lock(connection, dataset)
        if connection.execute(triggers.update().where(of_dataset).values(values)).rowcount == 0:
            connection.execute(
                triggers.insert().values({"dataset_uid": dataset.uid, "watch": False} | values)
            )


def watched(database: Database) -> list[tuple[Dataset, Trigger]]:
    """Return the datasets whose sources are watched."""
    query = sa.select(datasets, triggers.c.every, triggers.c.watch, triggers.c.due_at).join(triggers)
    with database.engine.begin() as connection:
        rows = connection.execute(query.where(triggers.c.watch, datasets.c.deleted_at.is_(None))).all()
    return [(Dataset.from_row(row), Trigger(row.every, row.watch, row.due_at)) for row in rows]


def queue_due(database: Database) -> list[tuple[Dataset, Job]]:
    """Queue a scan of each dataset whose schedule is due; return the datasets with the jobs.

    Only the runner that advances `due_at` queues the job, so several runners queue one. A schedule that
    missed several scans, for example while no runner was up, queues one job. After failed scans in a row, a
    schedule queues fewer: see `_pause`.
    """
    # A time further away than the interval was stored before the clock was set back.
    is_due = sa.or_(
        triggers.c.due_at <= now(), triggers.c.due_at > now() + triggers.c.every + CLOCK_TOLERANCE_SECONDS
    )
    with database.engine.begin() as connection:
        # Read without a lock, so that idle runners block nobody.
        rows = connection.execute(
            sa.select(datasets, triggers.c.due_at, triggers.c.every)
            .join(triggers)
            .where(is_due, datasets.c.deleted_at.is_(None))
        ).all()
    queued = []
    for row in rows:
        dataset = Dataset.from_row(row)
        # A dataset that was deleted meanwhile must not prevent the scans of the others.
        with contextlib.suppress(NotFound), write(database.engine) as connection:
            dataset_rows.lock(connection, dataset)
            advanced = connection.execute(
                triggers.update()
                .where(triggers.c.dataset_uid == dataset.uid, triggers.c.due_at == row.due_at)
                .values(due_at=now() + row.every)
            ).rowcount
            if advanced == 1 and not _is_paused(connection, dataset, row.every):
                job, _ = queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)
                queued.append((dataset, job))
    return queued


def _is_paused(connection: sa.Connection, dataset: Dataset, every: float) -> bool:
    """Whether the newest scans of a dataset failed, and its schedule waits before it tries again."""
    newest = connection.execute(
        sa.select(jobs.c.state, jobs.c.finished_at, now().label("clock"))
        .where(jobs.c.dataset_uid == dataset.uid, jobs.c.state.in_(sorted(ENDED)))
        .order_by(jobs.c.created_at.desc())
        .limit(_MOST_FAILURES)
    ).all()
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
    with write(database.engine) as connection:
        dataset_rows.lock(connection, dataset)
        recent = connection.scalar(
            sa.select(jobs.c.id)
            .where(
                jobs.c.dataset_uid == dataset.uid,
                jobs.c.named.is_(None),
                jobs.c.created_at > now() - seconds,
                jobs.c.created_at <= now(),  # else the clock was set back since, and the job may be old
            )
            .limit(1)
        )
        if recent is not None:
            return None
        return queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)[0]
