"""Tags: names that people give to versions; a tagged version keeps its rows for ever."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import InvalidParameter, NotFound, nearest
from statsvc.store.catalog.engine import write
from statsvc.store.catalog.schema import datasets, tags, versions

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
"""A letter first, so that no tag looks like a number."""


def checked(tag: str, parameter: str = "tag") -> str:
    """Return a tag. Raises `InvalidParameter` for that parameter where it is none."""
    if not _TAG.fullmatch(tag):
        raise InvalidParameter(
            (parameter, f"{tag!r}: use letters, digits, '-', '_' and '.', at most 100, a letter first")
        )
    return tag


def of(catalog: Catalog, dataset: Dataset) -> dict[str, int]:
    """Return the number of each tag of a dataset, by tag."""
    with catalog.engine.begin() as connection:
        rows = connection.execute(
            sa.select(tags).where(tags.c.dataset_uid == dataset.uid).order_by(tags.c.tag)
        )
        return {row.tag: row.number for row in rows}


def every(catalog: Catalog) -> dict[str, dict[str, int]]:
    """Return the tags of all datasets, by uid."""
    found: dict[str, dict[str, int]] = {}
    with catalog.engine.begin() as connection:
        for row in connection.execute(sa.select(tags).order_by(tags.c.tag)):
            found.setdefault(row.dataset_uid, {})[row.tag] = row.number
    return found


def number_of(dataset: str, known: dict[str, int], tag: str) -> int:
    """Return the number that a tag stands for. Raises `NotFound` listing the tags there are."""
    if tag not in known:
        there = ", ".join(known) or "none"
        raise NotFound(f"{dataset} has no version tagged {tag!r}{nearest(tag, known)}; tags: {there}")
    return known[tag]


def put(catalog: Catalog, dataset: Dataset, tag: str, number: int) -> None:
    """Give a version a tag, or move the tag there. Raises `InvalidParameter`, or `NotFound`.

    A version whose rows are marked for removal but not removed yet gets them back.
    """
    checked(tag)
    with write(catalog.engine) as connection:
        _touch(connection, dataset)
        found = connection.execute(
            versions.update()
            .where(versions.c.dataset_uid == dataset.uid, versions.c.number == number)
            .values(
                expired_at=sa.case((versions.c.rows_removed_at.is_(None), None), else_=versions.c.expired_at)
            )
        ).rowcount
        if not found:
            raise NotFound(
                f"{dataset.name} has no version {number}; list them: statsvc versions {dataset.name}"
            )
        connection.execute(tags.delete().where(tags.c.dataset_uid == dataset.uid, tags.c.tag == tag))
        connection.execute(tags.insert().values(dataset_uid=dataset.uid, tag=tag, number=number))


def remove(catalog: Catalog, dataset: Dataset, tag: str) -> None:
    """Take a tag away. Raises `NotFound`."""
    with write(catalog.engine) as connection:
        _touch(connection, dataset)
        gone = connection.execute(
            tags.delete().where(tags.c.dataset_uid == dataset.uid, tags.c.tag == tag)
        ).rowcount
    if not gone:
        number_of(dataset.name, of(catalog, dataset), tag)


def _touch(connection: sa.Connection, dataset: Dataset) -> None:
    """Hold the dataset's row and let its revision rise: servers look at it then."""
    connection.execute(
        datasets.update().where(datasets.c.uid == dataset.uid).values(revision=datasets.c.revision + 1)
    )
