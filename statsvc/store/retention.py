"""`statsvc gc`: remove the rows of old versions, and the remains of dead attempts and deleted datasets.

The order of the steps guarantees that no reader fails. First a version's aggregates are written. Then the
catalog marks the version as expired, so that new readers answer from the aggregates. The rows are removed
after a grace period, when no reader uses them any more. If gc dies halfway, the next run finishes its work.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import Conflict, DamagedVersion, StoreError
from statsvc.store.catalog import dataset_rows
from statsvc.store.catalog.engine import exclusive, write
from statsvc.store.catalog.records import VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, now, tags, versions
from statsvc.store.publication import open_version
from statsvc.store.versions.aggregates import write_aggregates
from statsvc.store.versions.arrays import SAMPLE_ARRAYS
from statsvc.store.versions.checkpoints import FOLDER as CHECKPOINTS

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.location import Location

log = logging.getLogger(__name__)

GRACE_SECONDS = 3600.0
"""Grace period between marking a version as expired and removing its rows.

It must exceed the duration of any request, and how long a server may answer from an old state of the catalog.
"""

PAUSED = ".gc-paused"
"""A file in the version store that prevents gc."""


@dataclass(slots=True)
class Collected:
    """What one run of gc did: versions as (dataset, number), groups and folders as paths in the store.

    expired   versions that were marked as expired; their rows are removed after the grace period
    removed   versions whose rows were removed
    orphans   groups of dead attempts, and folders of deleted datasets, that were removed
    unknown   folders that the catalog does not know; they are kept
    damaged   errors of versions that could not be marked
    """

    expired: list[tuple[str, int]] = field(default_factory=list)
    removed: list[tuple[str, int]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def collect(catalog: Catalog, store: Location, grace: float = GRACE_SECONDS) -> Collected:
    """Remove what is no longer needed; `grace` is in seconds.

    Raises `Conflict` while gc is paused or already running.
    """
    result = Collected()
    if not store.folders():
        return result  # nothing has been published yet, or the disk is not mounted
    with exclusive(catalog.engine, "gc"):
        if (store / PAUSED).exists():
            raise Conflict("gc is paused, possibly for a backup; resume it with: statsvc gc --resume")
        for dataset in catalog.datasets():
            _expire(catalog, store, dataset, result)
            _remove_rows(catalog, store, dataset, grace, result)
        _remove_orphans(catalog, store, grace, result)
    return result


def pause(catalog: Catalog, store: Location) -> None:
    """Prevent gc until `resume` is called; waits until a running gc has ended."""
    with exclusive(catalog.engine, "gc", wait=True):
        (store / PAUSED).write(b"")


def resume(store: Location) -> None:
    """Allow gc again. Raises `StoreError` if the file that prevents it cannot be removed."""
    (store / PAUSED).remove()
    if (store / PAUSED).exists():
        raise StoreError(f"gc stays paused because {store / PAUSED} could not be removed; remove it by hand")


def _expire(catalog: Catalog, store: Location, dataset: Dataset, result: Collected) -> None:
    """Mark the versions as expired that are not among the `keep` newest and have no tag."""
    expirable = (
        versions.c.dataset_uid == dataset.uid,
        versions.c.expired_at.is_(None),
        versions.c.number != dataset.current_number,
        versions.c.number.not_in(sa.select(tags.c.number).where(tags.c.dataset_uid == dataset.uid)),
    )
    newest = (
        sa.select(versions.c.number)
        .where(versions.c.dataset_uid == dataset.uid)
        .order_by(versions.c.number.desc())
        .limit(dataset.keep)
    )
    with catalog.engine.begin() as connection:
        kept = set(connection.scalars(newest))
        rows = connection.execute(sa.select(versions).where(*expirable))
        records = [VersionRecord.from_row(row) for row in rows]
    for record in records:
        if record.number in kept or "path" not in record.digests:
            continue  # imported totals have no rows
        try:
            write_aggregates(open_version(store, dataset.name, record), store / record.group_uri)
        except DamagedVersion as damage:
            result.damaged.append(str(damage))
            continue
        with write(catalog.engine) as connection:
            dataset_rows.update(connection, dataset)
            # Check the conditions again under the lock: the version may have been tagged meanwhile.
            marked = connection.execute(
                versions.update()
                .where(versions.c.number == record.number, *expirable)
                .values(expired_at=now())
            ).rowcount
        if marked:
            result.expired.append((dataset.name, record.number))


def _remove_rows(
    catalog: Catalog, store: Location, dataset: Dataset, grace: float, result: Collected
) -> None:
    """Remove the per-sample arrays that only versions beyond their grace period use."""
    of_dataset = sa.select(versions).where(versions.c.dataset_uid == dataset.uid)
    beyond_grace: dict[str, list[int]] = {}
    in_use = set()
    with write(catalog.engine) as connection:
        connection.execute(sa.select(datasets.c.uid).where(datasets.c.uid == dataset.uid).with_for_update())
        running = connection.scalar(
            sa.select(jobs.c.id).where(jobs.c.dataset_uid == dataset.uid, jobs.c.state == "running")
        )
        if running is not None:
            return  # the job may read the rows of the version that it started from
        clock = _clock(connection)
        for row in connection.execute(of_dataset):
            if row.expired_at is None or row.expired_at > clock - grace:
                in_use.add(row.arrays_uri)
            elif row.rows_removed_at is None:
                beyond_grace.setdefault(row.arrays_uri, []).append(row.number)
        numbers = [n for uri, sharing in beyond_grace.items() if uri not in in_use for n in sharing]
        connection.execute(
            versions.update()
            .where(versions.c.dataset_uid == dataset.uid, versions.c.number.in_(numbers))
            .values(rows_removed_at=now())
        )
        # Include the versions of earlier runs: such a run may have died before it removed the arrays.
        marked = connection.execute(of_dataset.where(versions.c.rows_removed_at.is_not(None))).all()
    for uri in {row.arrays_uri for row in marked} - in_use:
        for array in (store / uri).folders():
            if array.name == "counts" or array.name in SAMPLE_ARRAYS:
                array.remove()
    result.removed += [(dataset.name, number) for number in sorted(numbers)]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalog knows at one moment.

    clock       the database's time, in seconds since 1970
    deleted_at  when each dataset was deleted, or None, by uid
    groups      URIs of the groups that versions or running jobs use
    jobs        ids of all jobs
    """

    clock: float
    deleted_at: dict[str, float | None]
    groups: set[str]
    jobs: set[str]


def _known(catalog: Catalog) -> _Known:
    with catalog.engine.begin() as connection:
        # Jobs before versions: on PostgreSQL each statement sees all earlier commits. In the other order, the
        # group of a job that publishes in between would be in neither result, and gc would remove it.
        groups = set(connection.scalars(sa.select(jobs.c.group_uri).where(jobs.c.state == "running")))
        groups |= set(connection.scalars(sa.select(versions.c.group_uri)))
        groups |= set(connection.scalars(sa.select(versions.c.arrays_uri)))
        return _Known(
            _clock(connection),
            {row.uid: row.deleted_at for row in connection.execute(sa.select(datasets))},
            groups,
            set(connection.scalars(sa.select(jobs.c.id))),
        )


def _remove_orphans(catalog: Catalog, store: Location, grace: float, result: Collected) -> None:
    """Remove the folders of deleted datasets, and the groups of dead attempts."""
    # List the groups before reading the catalog: what is published in between is not in the list.
    groups = [(folder, group) for folder in store.folders() for group in folder.folders()]
    known = _known(catalog)
    for folder in {folder for folder, _ in groups}:
        if folder.name not in known.deleted_at:
            result.unknown.append(folder.name)
            continue
        deleted_at = known.deleted_at[folder.name]
        if deleted_at is not None and deleted_at < known.clock - grace:
            folder.remove()
            result.orphans.append(folder.name)
    for folder, group in groups:
        uri = f"{folder.name}/{group.name}"
        live = folder.name in known.deleted_at and known.deleted_at[folder.name] is None
        if not live or group.name == CHECKPOINTS or uri in known.groups:
            continue
        job_id = group.name.rpartition("-")[0]
        if job_id in known.jobs or _age(group) > grace:
            group.remove()
            result.orphans.append(uri)


def _age(group: Location) -> float:
    """Return the seconds since the last change of a group without a job, which may still be published."""
    modified_at = group.modified_at()
    return 0.0 if modified_at is None else time.time() - modified_at


def _clock(connection: sa.Connection) -> float:
    clock: float | None = connection.scalar(sa.select(now()))
    assert clock is not None
    return clock
