"""`statsvc gc`: remove the rows of old versions, and the remains of dead attempts and deleted datasets.

The order of the steps guarantees that no reader fails. First a version's aggregates are written. Then the
catalog marks the version as expired, so that new readers answer from the aggregates. The rows are removed
after a grace period, when no reader uses them any more. If gc dies halfway, the next run finishes its work.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from statsvc.errors import Conflict, DamagedVersion, StoreError
from statsvc.store.catalog import dataset_rows, idempotency, old_jobs
from statsvc.store.catalog.records import VersionRecord
from statsvc.store.publication import open_version
from statsvc.store.versions.aggregates import write_aggregates
from statsvc.store.versions.arrays import GRID_ARRAYS, OBJECT_ARRAYS, PLACE, SAMPLE_ARRAYS
from statsvc.store.versions.attributes import group_attributes, is_unfinished_import
from statsvc.store.versions.location import CHECKPOINTS

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.location import Location

log = logging.getLogger(__name__)

GRACE_SECONDS = 3600.0
"""Grace period between marking a version as expired and removing its rows.

It must exceed the duration of any request, and how long a server may answer from an old state of the catalog.
"""

KEEP_JOBS = 1000
"""How many of the newest jobs of each dataset are kept by default."""

SKIPPED_NUMBERS = 1000
"""Least number of version numbers that are skipped after a restore."""

UNFINISHED_SECONDS = 86400.0
"""Age of an unfinished import into a new dataset from which it cannot be running any more."""

STOP_SECONDS = 60.0
"""Time after which a cancelled job no longer writes or reads its group: it checks every second."""

PAUSED = ".gc-paused"
"""A file in the version store that prevents gc."""


class Collected(Struct):
    """What one run of gc did: versions as (dataset, number), groups and folders as paths in the store.

    expired   versions that were marked as expired; their rows are removed after the grace period
    removed   versions whose rows were removed
    orphans   groups of dead attempts, and folders of deleted datasets, that were removed
    unknown   folders that the catalog does not know; they are kept
    damaged   errors of versions that could not be marked
    jobs      number of old jobs that were deleted
    """

    expired: list[tuple[str, int]] = field(default_factory=list)
    removed: list[tuple[str, int]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    jobs: int = 0


def collect(
    catalog: Catalog, store: Location, grace: float = GRACE_SECONDS, keep_jobs: int = KEEP_JOBS
) -> Collected:
    """Remove what is no longer needed; what needs no new disk space first, because the disk may be full.

    grace      in seconds
    keep_jobs  how many of the newest jobs of each dataset are kept

    Raises `Conflict` while gc is paused or already running.
    """
    result = Collected()
    with catalog.engine.exclusive("gc"):
        if (store / PAUSED).exists():
            raise Conflict("gc is paused, possibly for a backup; resume it with: statsvc gc --resume")
        if store.folders():  # else nothing has been published yet, or the disk is not mounted
            _remove_orphans(catalog, store, grace, result)
            for dataset in catalog.datasets():
                _remove_rows(catalog, store, dataset, grace, result)
            for dataset in catalog.datasets():
                _expire(catalog, store, dataset, result)
                _remove_rows(catalog, store, dataset, grace, result)
        with catalog.write() as connection:
            idempotency.delete_old(connection)
        result.jobs = old_jobs.delete(catalog, keep_jobs)
    return result


def pause(catalog: Catalog, store: Location) -> None:
    """Prevent gc until `resume` is called; waits until a running gc has ended."""
    with catalog.engine.exclusive("gc", wait=True):
        (store / PAUSED).write(b"")


def resume(store: Location) -> None:
    """Allow gc again. Raises `StoreError` if the file that prevents it cannot be removed."""
    (store / PAUSED).remove()
    if (store / PAUSED).exists():
        raise StoreError(f"gc stays paused because {store / PAUSED} could not be removed; remove it by hand")


def skip_numbers(catalog: Catalog, store: Location) -> int:
    """Skip version numbers in a catalog that was restored from a backup; return how many at least.

    Numbers that were assigned after the backup were served as immutable, so other versions must not get them.
    It is unknown how many there were: as many as there were seconds since the last change in the catalog, at
    least `SKIPPED_NUMBERS`, and more where the version store contains a higher number.
    """
    used = _numbers_in_store(store)
    with catalog.write() as connection:
        times = connection.scalars(
            """
            SELECT max(finished_at) FROM jobs
            UNION ALL SELECT max(created_at) FROM versions
            UNION ALL SELECT max(created_at) FROM datasets
            """
        )
        known = [at for at in times if at is not None]
        elapsed = connection.clock() - max(known) if known else 0.0
        skipped = max(SKIPPED_NUMBERS, math.ceil(elapsed))
        first = 1 + skipped + max(used.values(), default=0)
        for row in connection.rows("SELECT uid, next_number FROM datasets"):
            number = max(row.next_number + skipped, used.get(row.uid, 0) + 1)
            first = max(first, number)
            connection.execute(
                """
                UPDATE datasets
                SET next_number = :number
                WHERE uid = :uid
                """,
                uid=row.uid,
                number=number,
            )
        # For datasets that were registered after the backup: another one may get the same name.
        dataset_rows.set_first_number(connection, first)
    return skipped


def _numbers_in_store(store: Location) -> dict[str, int]:
    """Return the highest version number of each dataset's groups, by the dataset's uid."""
    numbers: dict[str, int] = {}
    for folder in store.folders():
        for group in folder.folders():
            with suppress(OSError, ValueError, KeyError):
                numbers[folder.name] = max(numbers.get(folder.name, 0), group_attributes(group)["number"])
    return numbers


def _expire(catalog: Catalog, store: Location, dataset: Dataset, result: Collected) -> None:
    """Mark the versions as expired that are not among the `keep` newest and have no tag."""
    with catalog.read() as connection:
        kept = connection.scalars(
            """
            SELECT number
            FROM versions
            WHERE dataset_uid = :uid
            ORDER BY number DESC
            LIMIT :keep
            """,
            uid=dataset.uid,
            keep=dataset.keep,
        )
        rows = connection.rows(
            """
            SELECT *
            FROM versions
            WHERE dataset_uid = :uid
              AND expired_at IS NULL
              AND number <> :current
              AND number NOT IN (SELECT number FROM tags WHERE dataset_uid = :uid)
            """,
            uid=dataset.uid,
            current=dataset.current_number,
        )
    records = [VersionRecord.from_row(row) for row in rows]
    for record in records:
        if record.number in kept or "path" not in record.digests:
            continue  # imported totals have no rows
        try:
            write_aggregates(open_version(store, dataset.name, record), store / record.group_uri)
        except DamagedVersion as damage:
            result.damaged.append(str(damage))
            continue
        with catalog.write() as connection:
            dataset_rows.touch(connection, dataset)
            # Check the conditions again under the lock: the version may have been tagged meanwhile.
            marked = connection.execute(
                """
                UPDATE versions
                SET expired_at = clock()
                WHERE dataset_uid = :uid
                  AND number = :number
                  AND expired_at IS NULL
                  AND number NOT IN (SELECT number FROM tags WHERE dataset_uid = :uid)
                """,
                uid=dataset.uid,
                number=record.number,
            )
        if marked:
            result.expired.append((dataset.name, record.number))


def _remove_rows(
    catalog: Catalog, store: Location, dataset: Dataset, grace: float, result: Collected
) -> None:
    """Remove the per-sample arrays that only versions beyond their grace period use."""
    beyond_grace: dict[str, list[int]] = {}
    in_use = set()
    with catalog.write() as connection:
        dataset_rows.lock_uid(connection, dataset.uid)
        running = connection.scalar(
            """
            SELECT id
            FROM jobs
            WHERE dataset_uid = :uid AND state = 'running'
            """,
            uid=dataset.uid,
        )
        if running is not None:
            return  # the job may read the rows of the version that it started from
        clock = connection.clock()
        rows = connection.rows(
            """
            SELECT number, arrays_uri, expired_at, rows_removed_at
            FROM versions
            WHERE dataset_uid = :uid
            """,
            uid=dataset.uid,
        )
        for row in rows:
            if row.expired_at is None or row.expired_at > clock - grace:
                in_use.add(row.arrays_uri)
            elif row.rows_removed_at is None:
                beyond_grace.setdefault(row.arrays_uri, []).append(row.number)
        numbers = [n for uri, sharing in beyond_grace.items() if uri not in in_use for n in sharing]
        connection.execute(
            """
            UPDATE versions
            SET rows_removed_at = clock()
            WHERE dataset_uid = :uid AND number IN :numbers
            """,
            uid=dataset.uid,
            numbers=numbers,
        )
    # Include the versions of earlier runs: such a run may have died before it removed the arrays.
    marked = [row for row in rows if row.rows_removed_at is not None or row.number in numbers]
    for uri in {row.arrays_uri for row in marked} - in_use:
        for array in (store / uri).folders():
            if array.name in {"counts", PLACE, *SAMPLE_ARRAYS, *GRID_ARRAYS, *OBJECT_ARRAYS}:
                array.remove()
    result.removed += [(dataset.name, number) for number in sorted(numbers)]


class _Known(Struct, frozen=True):
    """What the catalog knows at one moment.

    clock       the database's time, in seconds since 1970
    deleted_at  when each dataset was deleted, or None, by uid
    groups      URIs of the groups that versions or running jobs use, or that a cancelled job may still use
    jobs        ids of all jobs
    """

    clock: float
    deleted_at: dict[str, float | None]
    groups: set[str]
    jobs: set[str]


def _known(catalog: Catalog, grace: float) -> _Known:
    with catalog.read() as connection:
        clock = connection.clock()
        # Jobs before versions: on PostgreSQL each statement sees all earlier commits. In the other order, the
        # group of a job that publishes in between would be in neither result, and gc would remove it.
        groups = connection.scalars(
            """
            SELECT group_uri
            FROM jobs
            WHERE group_uri IS NOT NULL
              AND (state = 'running' OR (state = 'cancelled' AND finished_at > :stopped))
            """,
            stopped=clock - min(grace, STOP_SECONDS),
        )
        groups += connection.scalars("SELECT group_uri FROM versions UNION SELECT arrays_uri FROM versions")
        return _Known(
            clock,
            {row.uid: row.deleted_at for row in connection.rows("SELECT uid, deleted_at FROM datasets")},
            set(groups),
            set(connection.scalars("SELECT id FROM jobs")),
        )


def _remove_orphans(catalog: Catalog, store: Location, grace: float, result: Collected) -> None:
    """Remove the folders of deleted datasets, and the groups of dead attempts."""
    # List the groups before reading the catalog: what is published in between is not in the list.
    groups = [(folder, group) for folder in store.folders() for group in folder.folders()]
    known = _known(catalog, grace)
    for folder in {folder for folder, _ in groups}:
        if folder.name not in known.deleted_at:
            contained = [group for parent, group in groups if parent == folder]
            if not all(map(is_unfinished_import, contained)):
                result.unknown.append(folder.name)
            elif min(map(_age, contained)) > max(grace, UNFINISHED_SECONDS):
                folder.remove()
                result.orphans.append(folder.name)
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
    """Return the seconds since the last change of a group that may still be published."""
    modified_at = group.modified_at()
    return 0.0 if modified_at is None else time.time() - modified_at
