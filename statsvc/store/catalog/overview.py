"""Queries over all datasets, each in one SQL statement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from statsvc.store.catalog.records import Dataset, Job, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.connection import Row
    from statsvc.store.catalog.database import Database

_SCHEMA_ROW = -1
"""The revision of the row of `_REVISIONS` that contains the schema."""

# One statement, because it runs for every request for a current version.
_REVISIONS = """
    SELECT uid AS "key", revision FROM datasets WHERE deleted_at IS NULL
    UNION ALL SELECT 'tokens', count(id) + count(revoked_at) FROM tokens
    UNION ALL SELECT version_num, -1 FROM alembic_version
"""

_CURRENT = """
    SELECT
        datasets.*,
        versions.configuration AS version_configuration,
        versions.created_at AS version_created_at,
        versions.dataset_uid, versions.number, versions.job_id, versions.kind, versions.group_uri,
        versions.arrays_uri, versions.reader, versions.digests, versions.samples, versions.failed,
        versions.pixels, versions.expired_at
    FROM datasets
    LEFT JOIN versions ON versions.dataset_uid = datasets.uid AND versions.number = datasets.current_number
    WHERE datasets.deleted_at IS NULL
"""


def current(
    database: Database, limit: int | None = None, after: str | None = None
) -> list[tuple[Dataset, VersionRecord | None]]:
    """Return the datasets sorted by name, each with its current version, if any.

    limit  maximum number of datasets
    after  only datasets whose names sort after this one
    """
    query = [_CURRENT]
    values: dict[str, Any] = {}
    if after is not None:
        query.append("AND datasets.name > :after")
        values["after"] = after
    query.append("ORDER BY datasets.name")
    if limit is not None:
        query.append("LIMIT :limit")
        values["limit"] = limit
    with database.read() as connection:
        rows = connection.rows("\n".join(query), **values)
    return [(Dataset.from_row(row), _current_version(row)) for row in rows]


def newest_jobs(database: Database, selected: Sequence[Dataset]) -> dict[str, Job]:
    """Return the newest job of each of some datasets, by the dataset's uid."""
    with database.read() as connection:
        rows = connection.rows(
            """
            SELECT jobs.*
            FROM datasets
            JOIN jobs ON jobs.id = (
                SELECT of_dataset.id
                FROM jobs AS of_dataset
                WHERE of_dataset.dataset_uid = datasets.uid
                ORDER BY of_dataset.created_at DESC, of_dataset.id DESC
                LIMIT 1
            )
            WHERE datasets.uid IN :uids
            """,
            uids=[dataset.uid for dataset in selected],
        )
    return {row.dataset_uid: Job.from_row(row) for row in rows}


def revisions(database: Database) -> tuple[str, list[tuple[str, int]]]:
    """Return the schema, and (uid, revision) of every dataset and ("tokens", number of changes of them).

    The result differs whenever the schema, a dataset, version, tag or token changes. It is cheap to poll.
    """
    with database.read() as connection:
        rows = connection.rows(_REVISIONS)
    schema = next((row.key for row in rows if row.revision == _SCHEMA_ROW), "")
    return schema, sorted((row.key, row.revision) for row in rows if row.revision != _SCHEMA_ROW)


def _current_version(row: Row) -> VersionRecord | None:
    """Return the version of a row of `_CURRENT`."""
    if row.number is None:
        return None
    own = {"configuration": row.version_configuration, "created_at": row.version_created_at}
    return VersionRecord.from_row(SimpleNamespace(**vars(row) | own))
