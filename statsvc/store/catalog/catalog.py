"""Datasets and versions in the catalog, and the one transaction that publishes a version."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable, printable
from statsvc.errors import Conflict, InvalidParameter, NotFound, nearest
from statsvc.store.catalog import tags
from statsvc.store.catalog.engine import open_engine, write
from statsvc.store.catalog.jobs import finish
from statsvc.store.catalog.owners import may_take_over
from statsvc.store.catalog.records import Dataset, Job, VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, now, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.configuration import Configuration

CLOSE_SECONDS = 2.0
"""How long closing waits for what threads still do with a connection."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Dataset names: they stand in URLs, where `:` and `,` have a meaning of their own."""


KEEP, MOST_KEPT = 20, 1_000_000
"""Newest versions that keep their rows, by default and at most."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What a version's group holds, ready and durable, before the catalog knows of it."""

    kind: str
    group_uri: str
    arrays_uri: str
    configuration: Configuration
    reader: str
    digests: Mapping[str, str]
    samples: int | None
    failed: int
    pixels: int


class Stale(Exception):
    """The dataset changed since it was read; `dataset` is what it is now."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        super().__init__(dataset.name)


class Catalog:
    """The SQL half of the store. Every method is one transaction, safe between processes."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Open the catalog at a database URL. Raises `CatalogError`."""
        return cls(open_engine(url))

    def close(self) -> None:
        """Close every connection."""
        pool = self.engine.pool
        # A thread that is about to give its connection back would give it to a pool that is no more, where it
        # stays open.
        end = time.monotonic() + CLOSE_SECONDS
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < end:
            time.sleep(0.01)
        self.engine.dispose()

    # Datasets

    def create_dataset(
        self, name: str, source: str | None, pattern: str | None, configuration: Configuration
    ) -> Dataset:
        """Register a dataset. Raises `InvalidParameter` for the name, `Conflict` where it is taken."""
        if not NAME.fullmatch(name):
            raise InvalidParameter(
                (
                    "name",
                    f"{name!r}: use letters, digits, '-', '_' and '.', at most 100, a letter or digit first",
                )
            )
        _check_texts(source, pattern)
        taken = Conflict(f"there is a dataset {name!r} already; choose another name, or delete it first")
        try:
            with write(self.engine) as connection:
                if _live(connection, name) is not None:
                    raise taken
                return _insert(connection, name, source, pattern, configuration)
        except sa.exc.IntegrityError:
            raise taken from None  # on PostgreSQL two may have looked at once

    def dataset(self, name: str) -> Dataset:
        """Return a dataset by name. Raises `NotFound` naming those there are."""
        with self.engine.begin() as connection:
            found = _live(connection, name)
            if found is not None:
                return found
            names = connection.scalars(
                sa.select(datasets.c.name).where(datasets.c.deleted_at.is_(None)).order_by(datasets.c.name)
            ).all()
        there = ", ".join(names[:20]) or "none yet; add one with: statsvc scan SOURCE --name NAME"
        raise NotFound(f"there is no dataset {name!r}{nearest(name, names)}; datasets: {there}")

    def dataset_by_uid(self, uid: str) -> Dataset:
        """Return a dataset by uid, a deleted one too."""
        with self.engine.begin() as connection:
            return _by_uid(connection, uid)

    def datasets(self) -> list[Dataset]:
        """Return all datasets by name."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                sa.select(datasets).where(datasets.c.deleted_at.is_(None)).order_by(datasets.c.name)
            )
            return [Dataset.from_row(row) for row in rows]

    def delete_dataset(self, name: str) -> None:
        """Forget a dataset and cancel its queued job; its number sequence is kept.

        Raises `NotFound`, and `Conflict` while a job of it runs.
        """
        with write(self.engine) as connection:
            dataset = _live(connection, name)
            if dataset is None:
                raise NotFound(f"there is no dataset {name!r}")
            connection.execute(
                sa.select(datasets.c.uid).where(datasets.c.uid == dataset.uid).with_for_update()
            )
            unfinished = connection.execute(
                sa.select(jobs, now().label("clock")).where(
                    jobs.c.dataset_uid == dataset.uid, jobs.c.state.in_(("queued", "running"))
                )
            ).all()
            for job in unfinished:
                if job.state == "running" and not may_take_over(job):
                    raise Conflict(f"job {job.id} of {name!r} is running; cancel it, or wait, then delete")
            connection.execute(
                jobs.update()
                .where(jobs.c.id.in_([job.id for job in unfinished]))
                .values(state="cancelled", error="its dataset was deleted", finished_at=now(), owner=None)
            )
            connection.execute(
                datasets.update()
                .where(datasets.c.uid == dataset.uid)
                .values(deleted_at=now(), revision=datasets.c.revision + 1)
            )

    def set_source(self, dataset: Dataset, source: str, pattern: str | None) -> Dataset:
        """Record where a dataset's label maps are and which files it means, if known. Raises `Stale`."""
        _check_texts(source, pattern)
        with write(self.engine) as connection:
            _current(connection, dataset)
            connection.execute(
                datasets.update()
                .where(datasets.c.uid == dataset.uid)
                .values(source=source, pattern=pattern, revision=datasets.c.revision + 1)
            )
            return _by_uid(connection, dataset.uid)

    def configure_unversioned(self, dataset: Dataset, configuration: Configuration) -> Dataset:
        """Change the configuration of a dataset that has no version yet. Raises `Stale`."""
        with write(self.engine) as connection:
            _current(connection, dataset)
            connection.execute(
                datasets.update()
                .where(datasets.c.uid == dataset.uid)
                .values(configuration=configuration.to_dict(), revision=datasets.c.revision + 1)
            )
            return _by_uid(connection, dataset.uid)

    def set_keep(self, dataset: Dataset, keep: int) -> Dataset:
        """Set how many newest versions keep their rows, 1 at least; tagged ones keep them anyway."""
        if not 1 <= keep <= MOST_KEPT:
            raise InvalidParameter(("keep", f"{keep} is out of range: from 1 to {MOST_KEPT}"))
        with write(self.engine) as connection:
            connection.execute(
                datasets.update()
                .where(datasets.c.uid == dataset.uid)
                .values(keep=keep, revision=datasets.c.revision + 1)
            )
            return _by_uid(connection, dataset.uid)

    # Versions

    def version(self, dataset: Dataset, number: int | str | None = None) -> VersionRecord:
        """Return a version by number or tag, by default the current one. Raises `NotFound`."""
        if isinstance(number, str):
            number = tags.number_of(dataset.name, tags.of(self, dataset), number)
        wanted = dataset.current_number if number is None else number
        if wanted is None or (number is not None and dataset.current_number is None):
            raise NotFound(self.why_unversioned(dataset))
        with self.engine.begin() as connection:
            row = connection.execute(
                sa.select(versions).where(versions.c.dataset_uid == dataset.uid, versions.c.number == wanted)
            ).first()
        if row is None:
            newest = dataset.current_number
            raise NotFound(f"{dataset.name} has no version {wanted}; its newest is {newest}")
        return VersionRecord.from_row(row)

    def why_unversioned(self, dataset: Dataset) -> str:
        """Return a line on why a dataset has no version yet: what became of its newest job."""
        with self.engine.begin() as connection:
            job = connection.execute(
                sa.select(jobs)
                .where(jobs.c.dataset_uid == dataset.uid)
                .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
            ).first()
        if job is None:
            return (
                f"{dataset.name} has no version yet: it was never counted; statsvc scan --name {dataset.name}"
            )
        if job.state == "failed":
            return f"{dataset.name} has no version: job {job.id} failed: {job.error}"
        return f"{dataset.name} has no version yet: job {job.id} is {job.state}; see statsvc jobs {job.id}"

    def versions(self, dataset: Dataset, limit: int = 100, before: int | None = None) -> list[VersionRecord]:
        """Return versions, newest first, those below number `before` only."""
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
        """Make a version the current one and, in the same transaction, end its job.

        The number is `dataset.next_number`, which the group's attributes hold already.
        Raises `Stale` where the dataset changed meanwhile (nothing is written), `LeaseLost` where
        the job is no longer this attempt's.
        """
        try:
            with write(self.engine) as connection:
                # The dataset's row before the job's, as everybody takes them: no two wait for each other.
                _current(connection, dataset)
                if job is not None:
                    finish(connection, job, dataset.next_number, progress)
                connection.execute(
                    versions.insert().values(
                        dataset_uid=dataset.uid,
                        number=dataset.next_number,
                        job_id=None if job is None else job.id,
                        kind=new.kind,
                        group_uri=new.group_uri,
                        arrays_uri=new.arrays_uri,
                        configuration=new.configuration.to_dict(),
                        reader=new.reader,
                        digests=dict(new.digests),
                        samples=new.samples,
                        failed=new.failed,
                        pixels=new.pixels,
                        created_at=now(),
                    )
                )
                connection.execute(
                    datasets.update()
                    .where(datasets.c.uid == dataset.uid)
                    .values(
                        configuration=new.configuration.to_dict(),
                        current_number=dataset.next_number,
                        next_number=dataset.next_number + 1,
                        revision=datasets.c.revision + 1,
                    )
                )
        except sa.exc.DBAPIError as error:
            # The connection may have been lost in COMMIT: whether it took effect is looked up, not guessed.
            published = self._published(dataset, new) if error.connection_invalidated else None
            if published is None:
                raise
            return published
        found = self._published(dataset, new)
        assert found is not None
        return found

    def _published(self, dataset: Dataset, new: NewVersion) -> VersionRecord | None:
        with self.engine.begin() as connection:
            row = connection.execute(
                sa.select(versions).where(
                    versions.c.dataset_uid == dataset.uid, versions.c.group_uri == new.group_uri
                )
            ).first()
        return None if row is None else VersionRecord.from_row(row)


def _insert(
    connection: sa.Connection,
    name: str,
    source: str | None,
    pattern: str | None,
    configuration: Configuration,
) -> Dataset:
    # Numbers go on where a deleted dataset of that name stopped: a cached pinned version stays true.
    number = connection.scalar(sa.select(sa.func.max(datasets.c.next_number)).where(datasets.c.name == name))
    uid = uuid.uuid4().hex
    connection.execute(
        datasets.insert().values(
            uid=uid,
            name=name,
            source=source,
            pattern=pattern,
            configuration=configuration.to_dict(),
            revision=1,
            next_number=number or 1,
            created_at=now(),
        )
    )
    return _by_uid(connection, uid)


def _check_texts(source: str | None, pattern: str | None) -> None:
    found = [
        (name, f"{printable(text)}: {NOT_ENCODABLE}")
        for name, text in (("source", source), ("pattern", pattern))
        if text is not None and not is_encodable(text)
    ]
    if found:
        raise InvalidParameter(*found)


def _live(connection: sa.Connection, name: str) -> Dataset | None:
    row = connection.execute(
        sa.select(datasets).where(datasets.c.name == name, datasets.c.deleted_at.is_(None))
    ).first()
    return None if row is None else Dataset.from_row(row)


def _by_uid(connection: sa.Connection, uid: str) -> Dataset:
    return Dataset.from_row(connection.execute(sa.select(datasets).where(datasets.c.uid == uid)).one())


def _current(connection: sa.Connection, dataset: Dataset) -> None:
    """Lock the dataset's row and check that it is as it was read. Raises `Stale` or `NotFound`."""
    row = connection.execute(sa.select(datasets).where(datasets.c.uid == dataset.uid).with_for_update()).one()
    if row.deleted_at is not None:
        raise NotFound(f"the dataset {dataset.name!r} was deleted meanwhile")
    if row.revision != dataset.revision:
        raise Stale(Dataset.from_row(row))
