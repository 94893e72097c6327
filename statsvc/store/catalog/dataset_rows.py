"""SQL on the rows of datasets, in the caller's transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from statsvc.errors import NotFound
from statsvc.store.catalog.records import Dataset

if TYPE_CHECKING:
    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.connection import Connection

_FIRST_NUMBER = "first_number"
"""The setting that raises the first version number of new datasets, after a restore."""


def by_name(connection: Connection, name: str) -> Dataset | None:
    """Return a dataset that is not deleted, or None."""
    row = connection.first(
        """
        SELECT *
        FROM datasets
        WHERE name = :name AND deleted_at IS NULL
        """,
        name=name,
    )
    return None if row is None else Dataset.from_row(row)


def by_uid(connection: Connection, uid: str) -> Dataset:
    """Return a dataset that exists or was deleted."""
    row = connection.one(
        """
        SELECT *
        FROM datasets
        WHERE uid = :uid
        """,
        uid=uid,
    )
    return Dataset.from_row(row)


def insert(
    connection: Connection,
    name: str,
    source: str | None,
    pattern: str | None,
    configuration: Configuration,
    uid: str,
) -> Dataset:
    """Insert a dataset and return it."""
    # Continue the numbers of a deleted dataset of the same name, so that a cached pinned version stays true.
    number = connection.scalar(
        """
        SELECT max(next_number)
        FROM datasets
        WHERE name = :name
        """,
        name=name,
    )
    if number is None:
        number = connection.scalar(
            """
            SELECT value
            FROM settings
            WHERE name = :name
            """,
            name=_FIRST_NUMBER,
        )
    connection.execute(
        """
        INSERT INTO datasets
            (uid, name, source, pattern, configuration, revision, next_number, created_at)
        VALUES
            (:uid, :name, :source, :pattern, :configuration, 1, :number, clock())
        """,
        uid=uid,
        name=name,
        source=source,
        pattern=pattern,
        configuration=json.dumps(configuration.to_dict()),
        number=number or 1,
    )
    return by_uid(connection, uid)


def set_first_number(connection: Connection, number: int) -> None:
    """Set the first version number of datasets whose names are new."""
    connection.execute(
        """
        INSERT INTO settings (name, value)
        VALUES (:name, :number)
        ON CONFLICT (name) DO UPDATE SET value = :number
        """,
        name=_FIRST_NUMBER,
        number=number,
    )


def touch(connection: Connection, dataset: Dataset) -> None:
    """Increase the revision, so that servers reload the dataset; this locks the row."""
    connection.execute(
        """
        UPDATE datasets
        SET revision = revision + 1
        WHERE uid = :uid
        """,
        uid=dataset.uid,
    )


def lock(connection: Connection, dataset: Dataset) -> Dataset:
    """Lock the row until the transaction ends; return its present state. Raises `NotFound` if deleted."""
    row = connection.one(
        """
        SELECT *
        FROM datasets
        WHERE uid = :uid
        FOR UPDATE
        """,
        uid=dataset.uid,
    )
    if row.deleted_at is not None:
        raise NotFound(f"the dataset {dataset.name!r} was deleted meanwhile")
    return Dataset.from_row(row)


def lock_uid(connection: Connection, uid: str) -> None:
    """Lock the row of a dataset, also of a deleted one, until the transaction ends."""
    connection.one(
        """
        SELECT uid
        FROM datasets
        WHERE uid = :uid
        FOR UPDATE
        """,
        uid=uid,
    )
