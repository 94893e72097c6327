"""Datasets and jobs in a catalog, for tests of the catalog that read no label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, Job

REMOTE_OWNER = "another-host/boot/pid:[1]/17/12345"
"""The owner of a job on another machine: only its lease shows whether it is alive."""

LEASING_PROGRAM = """
import sys
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
catalog = Catalog.open(sys.argv[1])
job = jobs.lease(catalog, jobs.process_identity())
print(job.id, flush=True)
sys.stdin.read()
"""
"""A program: leases a job of the catalog at a URL, prints the job's id, and runs until its input ends."""


def add_dataset(catalog: Catalog, name: str = "streets") -> Dataset:
    return catalog.create_dataset(name, f"/labels/{name}", "*.png", Configuration())


def execute_sql(catalog: Catalog, statement: str, **values: object) -> None:
    with catalog.write() as connection:
        connection.execute(statement, **values)


def expire_lease(catalog: Catalog, job: Job) -> None:
    """Set the end of a job's lease to the past."""
    execute_sql(catalog, "UPDATE jobs SET lease_until = 1 WHERE id = :id", id=job.id)


def trace_sql(catalog: Catalog, monkeypatch: pytest.MonkeyPatch, trace: Callable[[int, str], object]) -> None:
    """Call `trace` with the id of the connection and the text of every statement of an SQLite catalog."""
    catalog.close()  # so that every later connection is traced
    connect = sqlite.connect

    def traced(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        connection.set_trace_callback(lambda sql: trace(id(connection), sql))
        return connection

    monkeypatch.setattr(sqlite, "connect", traced)
