"""Datasets and versions in the catalog, and the single transaction that publishes a version."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from msgspec.structs import replace

from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable, printable
from statsvc.errors import Conflict, InvalidParameter, NotFound, nearest
from statsvc.store.catalog import dataset_rows, job_rows, tags
from statsvc.store.catalog.database import Database
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.owners import may_take_over
from statsvc.store.catalog.records import Dataset, Job, NewVersion, VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, now, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.selection import Selection
    from statsvc.dataset.splits import Split

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
            with write(self.engine) as connection:
                if dataset_rows.by_name(connection, name) is not None:
                    raise name_taken
                return dataset_rows.insert(connection, name, source, pattern, configuration, uid or new_uid())
        except sa.exc.IntegrityError:
            raise name_taken from None  # on PostgreSQL, another transaction inserted the name meanwhile

    def dataset(self, name: str) -> Dataset:
        """Return a dataset by name. Raises `NotFound`, which lists the existing datasets."""
        with self.engine.begin() as connection:
            dataset = dataset_rows.by_name(connection, name)
            if dataset is not None:
                return dataset
            names = connection.scalars(
                sa.select(datasets.c.name).where(datasets.c.deleted_at.is_(None)).order_by(datasets.c.name)
            ).all()
        existing = (
            ", ".join(names[:LISTED_NAMES]) or "none yet; add one with: statsvc scan SOURCE --name NAME"
        )
        raise NotFound(f"there is no dataset {name!r}{nearest(name, names)}; datasets: {existing}")

    def dataset_by_uid(self, uid: str) -> Dataset:
        """Return a dataset by uid, even if it was deleted."""
        with self.engine.begin() as connection:
            return dataset_rows.by_uid(connection, uid)

    def datasets(self) -> list[Dataset]:
        """Return all datasets, sorted by name."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                sa.select(datasets).where(datasets.c.deleted_at.is_(None)).order_by(datasets.c.name)
            )
            return [Dataset.from_row(row) for row in rows]

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset and cancel its queued job; its version numbers are never reused.

        Raises `NotFound`, or `Conflict` while a job of the dataset runs.
        """
        with write(self.engine) as connection:
            dataset = dataset_rows.by_name(connection, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}")
            connection.execute(
                sa.select(datasets.c.uid).where(datasets.c.uid == dataset.uid).with_for_update()
            )
            unfinished = connection.execute(
                sa.select(jobs, now().label("clock")).where(
                    jobs.c.dataset_uid == dataset.uid, jobs.c.state.in_(job_rows.UNFINISHED)
                )
            ).all()
            for job in unfinished:
                if job.state == "running" and not may_take_over(job):
                    raise Conflict(
                        f"{name!r} cannot be deleted while its job {job.id} is running; "
                        "cancel the job or wait until it ends"
                    )
            connection.execute(
                jobs.update()
                .where(jobs.c.id.in_([job.id for job in unfinished]))
                .values(state="cancelled", error="its dataset was deleted", finished_at=now(), owner=None)
            )
            dataset_rows.update(connection, dataset, deleted_at=now())

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
        with write(self.engine) as connection:
            _lock_current(connection, dataset)
            dataset_rows.update(
                connection, dataset, source=source, pattern=pattern, configuration=configuration.to_dict()
            )
            return dataset_rows.by_uid(connection, dataset.uid)

    def configure_unversioned(self, dataset: Dataset, configuration: Configuration) -> Dataset:
        """Change the configuration of a dataset that has no version yet. Raises `Stale`."""
        with write(self.engine) as connection:
            _lock_current(connection, dataset)
            dataset_rows.update(connection, dataset, configuration=configuration.to_dict())
            return dataset_rows.by_uid(connection, dataset.uid)

    def set_keep(self, dataset: Dataset, keep: int) -> Dataset:
        """Set how many of the newest versions keep their rows, at least 1. Raises `InvalidParameter`."""
        if not 1 <= keep <= MOST_KEPT:
            raise InvalidParameter(("keep", f"{keep} is out of range: it must be from 1 to {MOST_KEPT}"))
        with write(self.engine) as connection:
            dataset_rows.update(connection, dataset, keep=keep)
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
        with self.engine.begin() as connection:
            row = connection.execute(
                sa.select(versions).where(versions.c.dataset_uid == dataset.uid, versions.c.number == number)
            ).first()
        if row is None:
            raise NotFound(
                f"{dataset.name} has no version {number}; its newest version is {dataset.current_number}"
            )
        return VersionRecord.from_row(row)

    def why_unversioned(self, dataset: Dataset) -> str:
        """Return one line on why a dataset has no version yet, from the state of its newest job."""
        with self.engine.begin() as connection:
            job = connection.execute(
                sa.select(jobs)
                .where(jobs.c.dataset_uid == dataset.uid)
                .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
            ).first()
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
        query = sa.select(versions).where(versions.c.dataset_uid == dataset.uid)
        if before is not None:
            query = query.where(versions.c.number < before)
        with self.engine.begin() as connection:
            rows = connection.execute(query.order_by(versions.c.number.desc()).limit(limit))
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
            with write(self.engine) as connection:
                # Lock the dataset's row before the job's, as every transaction does, to prevent deadlocks.
                _lock_current(connection, dataset)
                if job is not None:
                    job_rows.finish(connection, job, dataset.next_number, progress)
                _insert_version(connection, dataset, new, job)
        except sa.exc.DBAPIError as error:
            # If the connection was lost in COMMIT, read whether the commit took effect.
            record = self._published(dataset, new) if error.connection_invalidated else None
            if record is None:
                raise
            return record
        record = self._published(dataset, new)
        assert record is not None
        return record

    def _published(self, dataset: Dataset, new: NewVersion) -> VersionRecord | None:
        with self.engine.begin() as connection:
            row = connection.execute(
                sa.select(versions).where(
                    versions.c.dataset_uid == dataset.uid, versions.c.group_uri == new.group_uri
                )
            ).first()
        return None if row is None else VersionRecord.from_row(row)


def _insert_version(connection: sa.Connection, dataset: Dataset, new: NewVersion, job: Job | None) -> None:
    """Insert a version and make it the dataset's current one."""
    connection.execute(
        versions.insert().values(
            **new.to_row(),
            dataset_uid=dataset.uid,
            number=dataset.next_number,
            job_id=None if job is None else job.id,
            created_at=now(),
        )
    )
    dataset_rows.update(
        connection,
        dataset,
        configuration=new.configuration.to_dict(),
        current_number=dataset.next_number,
        next_number=dataset.next_number + 1,
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


def _lock_current(connection: sa.Connection, dataset: Dataset) -> None:
    """Lock the dataset's row and check that it is unchanged. Raises `Stale`, or `NotFound` if deleted."""
    current = dataset_rows.lock(connection, dataset)
    if current.revision != dataset.revision:
        raise Stale(current)
