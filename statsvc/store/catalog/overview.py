"""What there is, over all datasets, in one query each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from statsvc.store.catalog.records import Dataset, Job, VersionRecord
from statsvc.store.catalog.schema import datasets, jobs, tokens, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.catalog.catalog import Catalog


def current(
    catalog: Catalog, limit: int | None = None, after: str | None = None
) -> list[tuple[Dataset, VersionRecord | None]]:
    """Return the datasets by name, those behind the name `after` only, each with its current version."""
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
    with catalog.engine.begin() as connection:
        rows = connection.execute(query).all()
    return [(_labelled(Dataset, datasets, row), _labelled_version(row)) for row in rows]


def newest_jobs(catalog: Catalog, found: Sequence[Dataset]) -> dict[str, Job]:
    """Return the newest job of each of some datasets, by the dataset's uid, in one query."""
    order = (jobs.c.created_at.desc(), jobs.c.id.desc())
    place = sa.func.row_number().over(partition_by=jobs.c.dataset_uid, order_by=order).label("place")
    uids = [dataset.uid for dataset in found]
    ranked = sa.select(jobs, place).where(jobs.c.dataset_uid.in_(uids)).subquery()
    with catalog.engine.begin() as connection:
        rows = connection.execute(sa.select(ranked).where(ranked.c.place == 1)).all()
    return {row.dataset_uid: Job.from_row(row) for row in rows}


def revisions(catalog: Catalog) -> list[tuple[str, int]]:
    """Return (uid, revision) of every dataset, and a number that rises with every change of tokens.

    Cheap to ask often, and changes when anything does.
    """
    with catalog.engine.begin() as connection:
        rows = connection.execute(
            sa.select(datasets.c.uid, datasets.c.revision)
            .where(datasets.c.deleted_at.is_(None))
            .order_by(datasets.c.uid)
        )
        changes = connection.scalar(
            sa.select(sa.func.count(tokens.c.id) + sa.func.count(tokens.c.revoked_at))
        )
        return [*((row.uid, row.revision) for row in rows), ("tokens", changes or 0)]


def _labelled(cls: type[Dataset], table: sa.Table, row: sa.Row[Any]) -> Dataset:
    values = {name: getattr(row, f"{table.name}_{name}") for name in cls.__slots__}
    return cls.from_row(_Plain(values))  # type: ignore[arg-type]


def _labelled_version(row: sa.Row[Any]) -> VersionRecord | None:
    if row.versions_number is None:
        return None
    values = {name: getattr(row, f"versions_{name}") for name in VersionRecord.__slots__}
    return VersionRecord.from_row(_Plain(values))  # type: ignore[arg-type]


class _Plain:
    """A labelled row under its plain column names."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
