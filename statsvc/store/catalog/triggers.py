"""What makes jobs by itself: schedules and watched sources, kept in the catalog a dataset.

They are no part of a version's configuration, and are forgotten with their dataset.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import Conflict, NotFound
from statsvc.store.catalog import jobs as queue
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.records import Dataset, Job
from statsvc.store.catalog.schema import datasets, jobs, now, triggers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from statsvc.store.catalog.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a dataset is scanned by itself.

    every   seconds between scheduled scans, None for no schedule
    watch   whether a change in the source makes a scan
    due_at  when the next scheduled scan is due, by the database's clock
    """

    every: float | None = None
    watch: bool = False
    due_at: float | None = None


def of(catalog: Catalog, found: Iterable[Dataset]) -> dict[str, Trigger]:
    """Return the triggers of some datasets, by the dataset's uid."""
    uids = {dataset.uid: Trigger() for dataset in found}
    with catalog.engine.begin() as connection:
        rows = connection.execute(sa.select(triggers).where(triggers.c.dataset_uid.in_(list(uids)))).all()
    return uids | {row.dataset_uid: Trigger(row.every, row.watch, row.due_at) for row in rows}


def change(catalog: Catalog, dataset: Dataset, changes: Mapping[str, float | bool | None]) -> None:
    """Change `every` or `watch` of a dataset; a new schedule begins now.

    Raises `Conflict` for imported counts, `NotFound` once deleted.
    """
    if not changes:
        return
    if dataset.source is None:
        raise Conflict(f"{dataset.name} was imported: it has no source to scan or watch")
    own = triggers.c.dataset_uid == dataset.uid
    values: dict[str, object] = dict(changes)
    if "every" in changes:
        every = changes["every"]
        values["due_at"] = None if every is None else now() + float(every)
    with write(catalog.engine) as connection:
        queue.hold(connection, dataset)
        if connection.execute(triggers.update().where(own).values(values)).rowcount == 0:
            connection.execute(
                triggers.insert().values({"dataset_uid": dataset.uid, "watch": False} | values)
            )


def watched(catalog: Catalog) -> list[tuple[Dataset, Trigger]]:
    """Return the datasets whose sources are watched."""
    query = sa.select(datasets, triggers.c.every, triggers.c.watch, triggers.c.due_at).join(triggers)
    with catalog.engine.begin() as connection:
        rows = connection.execute(query.where(triggers.c.watch, datasets.c.deleted_at.is_(None))).all()
    return [(Dataset.from_row(row), Trigger(row.every, row.watch, row.due_at)) for row in rows]


def queue_due(catalog: Catalog) -> list[tuple[Dataset, Job]]:
    """Queue a scan of each dataset whose schedule is due; return them with the jobs.

    Whoever moves `due_at` on queues the job, so that several runners make one. A schedule that was
    missed, for instance while no runner ran, makes one job however often.
    """
    overdue = sa.and_(triggers.c.due_at <= now(), datasets.c.deleted_at.is_(None))
    with catalog.engine.begin() as connection:
        # Looking takes no lock, so idle runners keep nobody waiting.
        rows = connection.execute(
            sa.select(datasets, triggers.c.due_at, triggers.c.every).join(triggers).where(overdue)
        ).all()
    made = []
    for row in rows:
        dataset = Dataset.from_row(row)
        # One that was deleted meanwhile keeps no other from its scan.
        with contextlib.suppress(NotFound), write(catalog.engine) as connection:
            queue.hold(connection, dataset)
            moved = connection.execute(
                triggers.update()
                .where(triggers.c.dataset_uid == dataset.uid, triggers.c.due_at == row.due_at)
                .values(due_at=now() + row.every)
            ).rowcount
            if moved == 1:
                job, _ = queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)
                made.append((dataset, job))
    return made


def queue_unless_since(catalog: Catalog, dataset: Dataset, seconds: float) -> Job | None:
    """Queue a scan unless one that lists the source was asked for in the last `seconds`.

    That one began after whatever was seen so long ago, so it sees it too: several runners that watch
    the same source make one job. Raises `NotFound` once deleted.
    """
    with write(catalog.engine) as connection:
        queue.hold(connection, dataset)
        since = connection.scalar(
            sa.select(jobs.c.id)
            .where(
                jobs.c.dataset_uid == dataset.uid, jobs.c.named.is_(None), jobs.c.created_at > now() - seconds
            )
            .limit(1)
        )
        if since is not None:
            return None
        return queue.submit_in(connection, dataset, full=False, max_removed=queue.MAX_REMOVED)[0]
