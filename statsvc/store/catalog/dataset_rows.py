"""SQL on the rows of datasets, in the caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.errors import NotFound
from statsvc.store.catalog.records import Dataset
from statsvc.store.catalog.schema import datasets, now, settings

if TYPE_CHECKING:
    from statsvc.dataset.configuration import Configuration

_FIRST_NUMBER = "first_number"
"""The setting that raises the first version number of new datasets, after a restore."""


def by_name(connection: sa.Connection, name: str) -> Dataset | None:
    """Return a dataset that is not deleted, or None."""
    row = connection.execute(
        sa.select(datasets).where(datasets.c.name == name, datasets.c.deleted_at.is_(None))
    ).first()
    return None if row is None else Dataset.from_row(row)


def by_uid(connection: sa.Connection, uid: str) -> Dataset:
    """Return a dataset that exists or was deleted."""
    return Dataset.from_row(connection.execute(sa.select(datasets).where(datasets.c.uid == uid)).one())


def insert(
    connection: sa.Connection,
    name: str,
    source: str | None,
    pattern: str | None,
    configuration: Configuration,
    uid: str,
) -> Dataset:
    """Insert a dataset and return it."""
    # Continue the numbers of a deleted dataset of the same name, so that a cached pinned version stays true.
    number = connection.scalar(sa.select(sa.func.max(datasets.c.next_number)).where(datasets.c.name == name))
    if number is None:
        number = connection.scalar(sa.select(settings.c.value).where(settings.c.name == _FIRST_NUMBER))
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
    return by_uid(connection, uid)


def set_first_number(connection: sa.Connection, number: int) -> None:
    """Set the first version number of datasets whose names are new."""
    connection.execute(settings.delete().where(settings.c.name == _FIRST_NUMBER))
    connection.execute(settings.insert().values(name=_FIRST_NUMBER, value=number))


def update(connection: sa.Connection, dataset: Dataset, **values: Any) -> None:
    """Change columns and increase the revision, so that servers reload the dataset; this locks the row."""
    connection.execute(
        datasets.update()
        .where(datasets.c.uid == dataset.uid)
        .values(**values, revision=datasets.c.revision + 1)
    )


def lock(connection: sa.Connection, dataset: Dataset) -> Dataset:
    """Lock the row until the transaction ends; return its present state. Raises `NotFound` if deleted."""
    row = connection.execute(sa.select(datasets).where(datasets.c.uid == dataset.uid).with_for_update()).one()
    if row.deleted_at is not None:
        raise NotFound(f"the dataset {dataset.name!r} was deleted meanwhile")
    return Dataset.from_row(row)
