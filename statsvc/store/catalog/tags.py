"""Tags: names that users give to versions. A tagged version keeps its rows forever."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from statsvc.errors import InvalidParameter, NotFound, nearest
from statsvc.store.catalog import dataset_rows

if TYPE_CHECKING:
    from statsvc.store.catalog.connection import Connection
    from statsvc.store.catalog.database import Database
    from statsvc.store.catalog.records import Dataset

TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
"""A tag starts with a letter, so that it cannot be confused with a version number."""


def validate_tag(tag: str, parameter: str = "tag") -> str:
    """Return the tag. Raises `InvalidParameter`, which names `parameter`, if it is malformed."""
    if not TAG.fullmatch(tag):
        raise InvalidParameter(
            (
                parameter,
                f"{tag!r} must consist of at most 100 letters, digits, '-', '_' and '.', "
                "starting with a letter",
            )
        )
    return tag


def of(database: Database, dataset: Dataset) -> dict[str, int]:
    """Return the version number of each tag of a dataset, by tag."""
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT tag, number
            FROM tags
            WHERE dataset_uid = :uid
            ORDER BY tag
            """,
            uid=dataset.uid,
        )
    return {row.tag: row.number for row in rows}


def all_tags(database: Database) -> dict[str, dict[str, int]]:
    """Return the version number of each tag, by dataset uid and tag."""
    by_uid: dict[str, dict[str, int]] = {}
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT dataset_uid, tag, number
            FROM tags
            ORDER BY tag
            """
        )
    for row in rows:
        by_uid.setdefault(row.dataset_uid, {})[row.tag] = row.number
    return by_uid


def number_of(dataset: str, numbers: dict[str, int], tag: str) -> int:
    """Return the version number of a tag. Raises `NotFound`, which lists the existing tags."""
    if tag not in numbers:
        existing = ", ".join(numbers) or "none"
        raise NotFound(f"{dataset} has no version tagged {tag!r}{nearest(tag, numbers)}; tags: {existing}")
    return numbers[tag]


def put(database: Database, dataset: Dataset, tag: str, number: int) -> None:
    """Tag a version, moving the tag from another version if needed.

    A version that has expired but still has its rows becomes a full version again. Raises
    `InvalidParameter` for a malformed tag, `NotFound` for an unknown version.
    """
    validate_tag(tag)
    with database.write() as connection:
        dataset_rows.touch(connection, dataset)
        updated = connection.execute(
            """
            UPDATE versions
            SET expired_at = CASE WHEN rows_removed_at IS NOT NULL THEN expired_at END
            WHERE dataset_uid = :uid AND number = :number
            """,
            uid=dataset.uid,
            number=number,
        )
        if not updated:
            raise NotFound(
                f"{dataset.name} has no version {number}; "
                f"list the versions with: statsvc versions {dataset.name}"
            )
        _delete(connection, dataset, tag)
        connection.execute(
            """
            INSERT INTO tags (dataset_uid, tag, number)
            VALUES (:uid, :tag, :number)
            """,
            uid=dataset.uid,
            tag=tag,
            number=number,
        )


def remove(database: Database, dataset: Dataset, tag: str) -> None:
    """Remove a tag. Raises `NotFound`."""
    with database.write() as connection:
        dataset_rows.touch(connection, dataset)
        removed = _delete(connection, dataset, tag)
    if not removed:
        number_of(dataset.name, of(database, dataset), tag)  # raises, with the existing tags


def _delete(connection: Connection, dataset: Dataset, tag: str) -> int:
    return connection.execute(
        """
        DELETE FROM tags
        WHERE dataset_uid = :uid AND tag = :tag
        """,
        uid=dataset.uid,
        tag=tag,
    )
