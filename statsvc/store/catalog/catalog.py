"""Datasets and versions in the catalog, and the single transaction that publishes a version."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable, printable
from statsvc.errors import Conflict, InvalidParameter, NotFound, nearest
from statsvc.store.catalog import dataset_rows, job_rows, tags
from statsvc.store.catalog.database import Database
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from statsvc.store.catalog.owners import may_take_over
from statsvc.store.catalog.records import Dataset, Job, NewVersion, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.selection import Selection
    from statsvc.dataset.splits import Split
    from statsvc.store.catalog.connection import Connection

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Valid dataset names. `:` and `,` are excluded because they separate datasets and shares in URLs."""

KEEP, MOST_KEPT = 20, 1_000_000
"""How many of the newest versions keep their rows: the default and the maximum."""

LISTED_NAMES = 20
"""Most dataset names that an error message lists."""


class Stale(Exception):
    """The dataset has changed since it was read; `dataset` is its current state."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        super().__init__(dataset.name)


class Catalog(Database):
    """The SQL half of the store. Every method is one transaction and safe to call from several processes."""

    # Datasets

    def create_dataset(
        self,
        name: str,
        source: str | None,
        pattern: str | None,
        configuration: Configuration,
        uid: str | None = None,
    ) -> Dataset:
        """Register a dataset. Raises `InvalidParameter` for its name, `Conflict` if the name is taken.

        uid  from `new_uid`, if arrays were already written for it; None chooses one
        """
        check_name(name)
        _check_encoding(source, pattern)
        name_taken = Conflict(
            f"the dataset {name!r} already exists; choose another name, or delete that dataset first"
        )
        try:
            with self.write() as connection:
                if dataset_rows.by_name(connection, name) is not None:
                    raise name_taken
                return dataset_rows.insert(connection, name, source, pattern, configuration, uid or new_uid())
        except IntegrityError:
            raise name_taken from None  # on PostgreSQL, another transaction inserted the name meanwhile

    def dataset(self, name: str) -> Dataset:
        """Return a dataset by name. Raises `NotFound`, which lists the existing datasets."""
        with self.read() as connection:
            dataset = dataset_rows.by_name(connection, name)
            if dataset is not None:
                return dataset
            names: list[str] = connection.scalars(
                """
                SELECT name
                FROM datasets
                WHERE deleted_at IS NULL
                ORDER BY name
                """
            )
        existing = (
            ", ".join(names[:LISTED_NAMES]) or "none yet; add one with: statsvc scan SOURCE --name NAME"
        )
        raise NotFound(f"there is no dataset {name!r}{nearest(name, names)}; datasets: {existing}")

    def dataset_by_uid(self, uid: str) -> Dataset:
        """Return a dataset by uid, even if it was deleted."""
        with self.read() as connection:
            return dataset_rows.by_uid(connection, uid)

    def datasets(self) -> list[Dataset]:
        """Return all datasets, sorted by name."""
        with self.read() as connection:
            rows = connection.rows(
                """
                SELECT *
                FROM datasets
                WHERE deleted_at IS NULL
                ORDER BY name
                """
            )
        return [Dataset.from_row(row) for row in rows]

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset and cancel its queued job; its version numbers are never reused.

        Raises `NotFound`, or `Conflict` while a job of the dataset runs.
        """
        with self.write() as connection:
            dataset = dataset_rows.by_name(connection, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}")
            dataset_rows.lock_uid(connection, dataset.uid)
            unfinished = connection.rows(
                """
                SELECT *, clock() AS clock
                FROM jobs
                WHERE dataset_uid = :uid AND state IN ('queued', 'running')
                """,
                uid=dataset.uid,
            )
            for job in unfinished:
                if job.state == "running" and not may_take_over(job):
                    raise Conflict(
                        f"{name!r} cannot be deleted while its job {job.id} is running; "
                        "cancel the job or wait until it ends"
                    )
            connection.execute(
                """
                UPDATE jobs
                SET state = 'cancelled',
                    error = 'its dataset was deleted',
                    finished_at = clock(),
                    owner = NULL
                WHERE id IN :ids
                """,
                ids=[job.id for job in unfinished],
            )
            connection.execute(
                """
                UPDATE datasets
                SET deleted_at = clock(), revision = revision + 1
                WHERE uid = :uid
                """,
                uid=dataset.uid,
            )

    def set_source(
        self,
        dataset: Dataset,
        source: str,
        pattern: str | None,
        selection: Selection | None = None,
        splits: Mapping[str, Split] | None = None,
    ) -> Dataset:
        """Change where a dataset's label maps are, and which files are counted. Raises `Stale`.

        splits  splits of a dataset without a version, unless it has splits already
        """
        _check_encoding(source, pattern)
        configuration = replace(dataset.configuration, selection=selection)
        if splits and dataset.current_number is None and not configuration.splits:
            configuration = replace(configuration, splits=splits)
        with self.write() as connection:
            _lock_current(connection, dataset)
            connection.execute(
                """
                UPDATE datasets
                SET source = :source,
                    pattern = :pattern,
                    configuration = :configuration,
                    revision = revision + 1
                WHERE uid = :uid
                """,
                uid=dataset.uid,
                source=source,
                pattern=pattern,
                configuration=json.dumps(configuration.to_dict()),
            )
            return dataset_rows.by_uid(connection, dataset.uid)

    def configure_unversioned(self, dataset: Dataset, configuration: Configuration) -> Dataset:
        """Change the configuration of a dataset that has no version yet. Raises `Stale`."""
        with self.write() as connection:
            _lock_current(connection, dataset)
            connection.execute(
                """
                UPDATE datasets
                SET configuration = :configuration, revision = revision + 1
                WHERE uid = :uid
                """,
                uid=dataset.uid,
                configuration=json.dumps(configuration.to_dict()),
            )
            return dataset_rows.by_uid(connection, dataset.uid)

    def set_keep(self, dataset: Dataset, keep: int) -> Dataset:
        """Set how many of the newest versions keep their rows, at least 1. Raises `InvalidParameter`."""
        if not 1 <= keep <= MOST_KEPT:
            raise InvalidParameter(("keep", f"{keep} is out of range: it must be from 1 to {MOST_KEPT}"))
        with self.write() as connection:
            connection.execute(
                """
                UPDATE datasets
                SET keep = :keep, revision = revision + 1
                WHERE uid = :uid
                """,
                uid=dataset.uid,
                keep=keep,
            )
            return dataset_rows.by_uid(connection, dataset.uid)

    # Versions

    def version(self, dataset: Dataset, number: int | str | None = None) -> VersionRecord:
        """Return a version by number or tag, by default the current one. Raises `NotFound`."""
        if isinstance(number, str):
            number = tags.number_of(dataset.name, tags.of(self, dataset), number)
        if dataset.current_number is None:
            raise NotFound(self.why_unversioned(dataset))
        if number is None:
            number = dataset.current_number
        with self.read() as connection:
            row = connection.first(
                """
                SELECT *
                FROM versions
                WHERE dataset_uid = :uid AND number = :number
                """,
                uid=dataset.uid,
                number=number,
            )
        if row is None:
            raise NotFound(
                f"{dataset.name} has no version {number}; its newest version is {dataset.current_number}"
            )
        return VersionRecord.from_row(row)

    def why_unversioned(self, dataset: Dataset) -> str:
        """Return one line on why a dataset has no version yet, from the state of its newest job."""
        with self.read() as connection:
            job = connection.first(
                """
                SELECT id, state, error
                FROM jobs
                WHERE dataset_uid = :uid
                ORDER BY created_at DESC, id DESC
                LIMIT 1
                """,
                uid=dataset.uid,
            )
        if job is None:
            return (
                f"{dataset.name} has no version yet because it was never scanned; "
                f"scan it with: statsvc scan --name {dataset.name}"
            )
        if job.state == "failed":
            return f"{dataset.name} has no version: job {job.id} failed: {job.error}"
        return f"{dataset.name} has no version yet: job {job.id} is {job.state}; see statsvc jobs {job.id}"

    def versions(self, dataset: Dataset, limit: int = 100, before: int | None = None) -> list[VersionRecord]:
        """Return versions, newest first; with `before`, only those with a smaller number."""
        query = ["SELECT *", "FROM versions", "WHERE dataset_uid = :uid"]
        values = {"uid": dataset.uid, "limit": limit}
        if before is not None:
            query.append("AND number < :before")
            values["before"] = before
        query += ["ORDER BY number DESC", "LIMIT :limit"]
        with self.read() as connection:
            rows = connection.rows("\n".join(query), **values)
        return [VersionRecord.from_row(row) for row in rows]

    # Publication

    def publish(
        self,
        dataset: Dataset,
        new: NewVersion,
        job: Job | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> VersionRecord:
        """Make a version the current one and, in the same transaction, mark its job as succeeded.

        The version's number is `dataset.next_number`, which the group's attributes already contain.
        Raises `Stale` if the dataset has changed since it was read, and `LeaseLost` if the job's attempt no
        longer runs; nothing is written then.
        """
        try:
            with self.write() as connection:
                # Lock the dataset's row before the job's, as every transaction does, to prevent deadlocks.
                _lock_current(connection, dataset)
                if job is not None:
                    job_rows.finish(connection, job, dataset.next_number, progress)
                _insert_version(connection, dataset, new, job)
        except DatabaseError as error:
            # If the connection was lost in COMMIT, read whether the commit took effect.
            record = self._published(dataset, new) if error.connection_lost else None
            if record is None:
                raise
            return record
        record = self._published(dataset, new)
        assert record is not None
        return record

    def _published(self, dataset: Dataset, new: NewVersion) -> VersionRecord | None:
        with self.read() as connection:
            row = connection.first(
                """
                SELECT *
                FROM versions
                WHERE dataset_uid = :uid AND group_uri = :group_uri
                """,
                uid=dataset.uid,
                group_uri=new.group_uri,
            )
        return None if row is None else VersionRecord.from_row(row)


def _insert_version(connection: Connection, dataset: Dataset, new: NewVersion, job: Job | None) -> None:
    """Insert a version and make it the dataset's current one."""
    connection.execute(
        """
        INSERT INTO versions
            (dataset_uid, number, job_id, kind, group_uri, arrays_uri, configuration, reader, digests,
             samples, failed, pixels, created_at)
        VALUES
            (:uid, :number, :job_id, :kind, :group_uri, :arrays_uri, :configuration, :reader, :digests,
             :samples, :failed, :pixels, clock())
        """,
        uid=dataset.uid,
        number=dataset.next_number,
        job_id=None if job is None else job.id,
        **new.to_row(),
    )
    connection.execute(
        """
        UPDATE datasets
        SET configuration = :configuration,
            current_number = next_number,
            next_number = next_number + 1,
            revision = revision + 1
        WHERE uid = :uid
        """,
        uid=dataset.uid,
        configuration=json.dumps(new.configuration.to_dict()),
    )


def new_uid() -> str:
    """Return a uid for a new dataset."""
    return uuid.uuid4().hex


def check_name(name: str) -> None:
    """Raise `InvalidParameter` for an invalid name of a dataset."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            (
                "name",
                f"{name!r} must consist of at most 100 letters, digits, '-', '_' and '.', "
                "starting with a letter or digit",
            )
        )


def _check_encoding(source: str | None, pattern: str | None) -> None:
    errors = [
        (name, f"{printable(text)}: {NOT_ENCODABLE}")
        for name, text in (("source", source), ("pattern", pattern))
        if text is not None and not is_encodable(text)
    ]
    if errors:
        raise InvalidParameter(*errors)


def _lock_current(connection: Connection, dataset: Dataset) -> None:
    """Lock the dataset's row and check that it is unchanged. Raises `Stale`, or `NotFound` if deleted."""
    current = dataset_rows.lock(connection, dataset)
    if current.revision != dataset.revision:
        raise Stale(current)
