"""`statsvc gc`: the rows of old versions, and what dead attempts and deleted datasets left, are removed.

In an order in which no reader fails. A version's aggregates are written first. Then the catalog marks the
version expired, and whoever looks from then on answers from the aggregates. The rows go after a grace
period, when nobody reads them any more. What a dead process left half done, the next run finishes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import Conflict, DamagedVersion, StoreError
from statsvc.store.catalog.engine import alone, write
from statsvc.store.catalog.records import VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, now, tags, versions
from statsvc.store.publication import open_version
from statsvc.store.versions.aggregates import keep as keep_aggregates
from statsvc.store.versions.arrays import SAMPLE_ARRAYS

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.location import Location

log = logging.getLogger(__name__)

GRACE_SECONDS = 3600.0
"""How long rows outlive their mark: longer than any request, and than a server's wait for the catalog."""

PAUSED = ".gc-paused"


@dataclass(slots=True)
class Collected:
    """What one run did: versions as (dataset, number), the rest as paths in the store.

    expired   versions marked: their rows will go after the grace period
    removed   versions whose rows went
    orphans   groups of dead attempts that went, and folders of deleted datasets
    unknown   folders that the catalog knows nothing of: left alone
    damaged   versions that could not be marked, and why
    """

    expired: list[tuple[str, int]] = field(default_factory=list)
    removed: list[tuple[str, int]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def collect(catalog: Catalog, store: Location, grace: float = GRACE_SECONDS) -> Collected:
    """Remove what retention and dead attempts leave. Raises `Conflict` while paused or already running."""
    done = Collected()
    if not store.folders():
        return done  # nothing was ever published, or its disk is not mounted
    with alone(catalog.engine, "gc"):
        if (store / PAUSED).exists():
            raise Conflict("gc is paused, for a backup perhaps; let it go on with: statsvc gc --resume")
        for dataset in catalog.datasets():
            _expire(catalog, store, dataset, done)
            _remove_rows(catalog, store, dataset, grace, done)
        _remove_orphans(catalog, store, grace, done)
    return done


def pause(catalog: Catalog, store: Location) -> None:
    """Let no gc run until `resume`; waits for one that runs now."""
    with alone(catalog.engine, "gc", wait=True):
        (store / PAUSED).write(b"")


def resume(store: Location) -> None:
    """Let gc run again."""
    (store / PAUSED).remove()
    if (store / PAUSED).exists():
        raise StoreError(f"{store / PAUSED} cannot be removed, and gc stays paused")


def _expire(catalog: Catalog, store: Location, dataset: Dataset, done: Collected) -> None:
    """Mark the versions beyond the `keep` newest that carry no tag."""
    old = sa.select(versions).where(
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
        records = [VersionRecord.from_row(row) for row in connection.execute(old)]
    for record in records:
        if record.number in kept or "path" not in record.digests:
            continue  # imported totals have no rows
        try:
            keep_aggregates(open_version(store, dataset.name, record), store / record.group_uri)
        except DamagedVersion as damage:
            done.damaged.append(str(damage))
            continue
        with write(catalog.engine) as connection:
            _hold(connection, dataset)
            # The conditions once more, now that nobody can tag it meanwhile.
            marked = connection.execute(
                versions.update()
                .where(versions.c.number == record.number, *old.whereclause.clauses)  # type: ignore[union-attr]
                .values(expired_at=now())
            ).rowcount
        if marked:
            done.expired.append((dataset.name, record.number))


def _remove_rows(catalog: Catalog, store: Location, dataset: Dataset, grace: float, done: Collected) -> None:
    """Delete the arrays of samples that only versions marked long enough ago stand on."""
    of_dataset = sa.select(versions).where(versions.c.dataset_uid == dataset.uid)
    lapsed: dict[str, list[int]] = {}
    with write(catalog.engine) as connection:
        connection.execute(sa.select(datasets.c.uid).where(datasets.c.uid == dataset.uid).with_for_update())
        busy = connection.scalar(
            sa.select(jobs.c.id).where(jobs.c.dataset_uid == dataset.uid, jobs.c.state == "running")
        )
        if busy is not None:
            return  # what it compares with must stay until it ends
        clock = connection.scalar(sa.select(now()))
        assert clock is not None
        in_use = set()
        for row in connection.execute(of_dataset):
            if row.expired_at is None or row.expired_at > clock - grace:
                in_use.add(row.arrays_uri)
            elif row.rows_removed_at is None:
                lapsed.setdefault(row.arrays_uri, []).append(row.number)
        numbers = [n for uri, those in lapsed.items() if uri not in in_use for n in those]
        connection.execute(
            versions.update()
            .where(versions.c.dataset_uid == dataset.uid, versions.c.number.in_(numbers))
            .values(rows_removed_at=now())
        )
        # Those of an earlier run as well, which may have died before it was done.
        gone = connection.execute(of_dataset.where(versions.c.rows_removed_at.is_not(None))).all()
    for uri in {row.arrays_uri for row in gone} - in_use:
        for array in (store / uri).folders():
            if array.name == "counts" or array.name in SAMPLE_ARRAYS:
                array.remove()
    done.removed += [(dataset.name, number) for number in sorted(numbers)]


def _remove_orphans(catalog: Catalog, store: Location, grace: float, done: Collected) -> None:
    # The folders first: what is published after they were listed is not among them.
    groups = [(folder, group) for folder in store.folders() for group in folder.folders()]
    with catalog.engine.begin() as connection:
        clock = connection.scalar(sa.select(now()))
        assert clock is not None
        known = {row.uid: row.deleted_at for row in connection.execute(sa.select(datasets))}
        used = set(connection.scalars(sa.select(versions.c.group_uri)))
        used |= set(connection.scalars(sa.select(versions.c.arrays_uri)))
        used |= set(connection.scalars(sa.select(jobs.c.group_uri).where(jobs.c.state == "running")))
        ended = set(connection.scalars(sa.select(jobs.c.id)))
    for folder in {folder for folder, _ in groups}:
        if folder.name not in known:
            done.unknown.append(folder.name)
        elif known[folder.name] is not None and known[folder.name] < clock - grace:
            folder.remove()
            done.orphans.append(folder.name)
    for folder, group in groups:
        uri = f"{folder.name}/{group.name}"
        if known.get(folder.name, 0.0) is not None or group.name == "parts" or uri in used:
            continue
        attempt_of = group.name.rpartition("-")[0]
        if attempt_of in ended or _age(group) > grace:
            group.remove()
            done.orphans.append(uri)


def _age(group: Location) -> float:
    """Return the seconds since a group that no job reserved was changed: it may be on its way in."""
    changed = group.changed()
    return 0.0 if changed is None else time.time() - changed


def _hold(connection: sa.Connection, dataset: Dataset) -> None:
    """Hold the dataset's row and let its revision rise: servers look at it then."""
    connection.execute(
        datasets.update().where(datasets.c.uid == dataset.uid).values(revision=datasets.c.revision + 1)
    )
