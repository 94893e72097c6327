"""Datasets and jobs in a catalog, for tests that need no label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.dataset.configuration import Configuration

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job

ELSEWHERE = "another-host/boot/pid:[1]/17/12345"
"""An owner on another machine: only its lease shows whether it is alive."""

LEASER = """
import sys
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
catalog = Catalog.open(sys.argv[1])
job = jobs.lease(catalog, jobs.process_identity())
print(job.id, flush=True)
sys.stdin.read()
"""
"""A program that leases a job of the catalog at a URL, prints its id, and runs until its input ends."""


def add(catalog: Catalog, name: str = "streets") -> Dataset:
    return catalog.create_dataset(name, f"/labels/{name}", "*.png", Configuration())


def sql(catalog: Catalog, statement: str, **values: object) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def expire(catalog: Catalog, job: Job) -> None:
    """Let the lease of a job expire."""
    sql(catalog, "UPDATE jobs SET lease_until = 1 WHERE id = :id", id=job.id)
