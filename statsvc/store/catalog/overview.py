"""Queries over all datasets, each in one SQL statement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.store.catalog.records import Dataset, Job, VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.database import Database

_SCHEMA_ROW = -1
"""The revision of the row of `_REVISIONS` that contains the schema."""

# One statement, because it runs for every request for a current version.
_REVISIONS = """
SELECT uid, revision FROM datasets WHERE deleted_at IS NULL
UNION ALL SELECT 'tokens', count(id) + count(revoked_at) FROM tokens
UNION ALL SELECT version_num, -1 FROM alembic_version
"""


def current(
    database: Database, limit: int | None = None, after: str | None = None
) -> list[tuple[Dataset, VersionRecord | None]]:
    """Return the datasets sorted by name, each with its current version, if any.

    limit  maximum number of datasets
    after  only datasets whose names sort after this one
    """
    joined = datasets.outerjoin(
        versions,
        sa.and_(versions.c.dataset_uid == datasets.c.uid, versions.c.number == datasets.c.current_number),
    )
    query = (
        sa.select(datasets, versions)
        .select_from(joined)
        .where(datasets.c.deleted_at.is_(None))
        .order_by(datasets.c.name)
        .limit(limit)
        .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
    )
    if after is not None:
        query = query.where(datasets.c.name > after)
    with database.engine.begin() as connection:
        rows = connection.execute(query).all()
    return [(Dataset.from_row(_without_prefix(row, datasets)), _current_version(row)) for row in rows]


def newest_jobs(database: Database, selected: Sequence[Dataset]) -> dict[str, Job]:
    """Return the newest job of each of some datasets, by the dataset's uid."""
    of_dataset = jobs.alias("of_dataset")
    newest = (
        sa.select(of_dataset.c.id)
        .where(of_dataset.c.dataset_uid == datasets.c.uid)
        .order_by(of_dataset.c.created_at.desc(), of_dataset.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(jobs).select_from(datasets).join(jobs, jobs.c.id == newest)
    with database.engine.begin() as connection:
        rows = connection.execute(query.where(datasets.c.uid.in_([dataset.uid for dataset in selected])))
        return {row.dataset_uid: Job.from_row(row) for row in rows}


def revisions(database: Database) -> tuple[str, list[tuple[str, int]]]:
    """Return the schema, and (uid, revision) of every dataset and ("tokens", number of changes of them).

    The result differs whenever the schema, a dataset, version, tag or token changes. It is cheap to poll.
    """
    with database.engine.begin() as connection:
        rows = connection.exec_driver_sql(_REVISIONS).all()
    schema = next((key for key, revision in rows if revision == _SCHEMA_ROW), "")
    return schema, sorted((key, revision) for key, revision in rows if revision != _SCHEMA_ROW)


def _current_version(row: sa.Row[Any]) -> VersionRecord | None:
    return None if row.versions_number is None else VersionRecord.from_row(_without_prefix(row, versions))


def _without_prefix(row: sa.Row[Any], table: sa.Table) -> Any:
    """Return the columns of one table of a joined row, under their plain names."""
    return SimpleNamespace(**{column.name: getattr(row, f"{table.name}_{column.name}") for column in table.c})
