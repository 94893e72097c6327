"""Transactions, statements and errors are the same on both databases; connections to SQLite are limited."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from statsvc.store.catalog import sqlite
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from support.catalogs import add_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.connection import Connection


@pytest.fixture
def catalog(database: str) -> Iterator[Catalog]:
    """An empty catalog, on SQLite and then on PostgreSQL."""
    opened = Catalog.open(database)
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog on SQLite."""
    opened = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    yield opened
    opened.close()


def set_value(connection: Connection, name: str, value: int) -> None:
    connection.execute("INSERT INTO settings (name, value) VALUES (:name, :value)", name=name, value=value)


def values(catalog: Catalog) -> dict[str, int]:
    with catalog.read() as connection:
        return {row.name: row.value for row in connection.rows("SELECT name, value FROM settings")}


def connections(folder: Path) -> int:
    """Return how many connections to a catalog on SQLite this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += link.readlink() == folder / "catalog.sqlite"
    return found


def test_a_transaction_that_raises_leaves_nothing(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.write() as connection:
            set_value(connection, "a", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert values(catalog) == {}
    with catalog.write() as connection:  # the same connection
        set_value(connection, "a", 2)
    assert values(catalog) == {"a": 2}


def test_a_constraint_that_is_violated_is_an_integrity_error(catalog: Catalog) -> None:
    with catalog.write() as connection:
        set_value(connection, "a", 1)
    with pytest.raises(IntegrityError) as caught, catalog.write() as connection:
        set_value(connection, "a", 2)
    assert caught.value.orig is not None
    assert str(caught.value) == str(caught.value.orig)
    assert not caught.value.connection_lost
    assert values(catalog) == {"a": 1}


def test_an_error_in_a_statement_is_a_database_error(catalog: Catalog) -> None:
    with pytest.raises(DatabaseError, match="nowhere") as caught, catalog.read() as connection:
        connection.rows("SELECT * FROM nowhere")
    assert not isinstance(caught.value, IntegrityError)


def test_a_missing_row_is_a_database_error(catalog: Catalog) -> None:
    with catalog.read() as connection:
        assert connection.first("SELECT * FROM jobs") is None
        assert connection.scalar("SELECT id FROM jobs") is None
        with pytest.raises(DatabaseError, match="0 rows instead of one for: SELECT"):
            connection.one("SELECT * FROM jobs")


@pytest.mark.parametrize(
    "chosen", [[], ["a"], ["a", "it's", 'q"', "ä,{}[]\\", "%s :name"]], ids=["none", "one", "any characters"]
)
def test_a_list_after_in_selects_its_elements(catalog: Catalog, chosen: list[str]) -> None:
    everything = ["a", "b", "it's", 'q"', "ä,{}[]\\", "%s :name"]
    with catalog.write() as connection:
        connection.execute_many(
            "INSERT INTO settings (name, value) VALUES (:name, :value)",
            [{"name": name, "value": number} for number, name in enumerate(everything)],
        )
        numbers = [everything.index(name) for name in chosen]
        by_name = connection.scalars("SELECT name FROM settings WHERE name IN :names", names=chosen)
        by_number = connection.scalars("SELECT name FROM settings WHERE value IN :numbers", numbers=numbers)
    assert set(by_name) == set(by_number) == set(chosen)


def test_the_clock_is_that_of_the_database(catalog: Catalog) -> None:
    before = time.time()
    with catalog.read() as connection:
        clock = connection.clock()
    assert before - 0.1 <= clock <= time.time() + 0.1


def test_a_connection_that_is_lost_before_commit_is_reported_and_replaced(postgresql: str) -> None:
    catalog, other = Catalog.open(postgresql), Catalog.open(postgresql)

    def lose_connection() -> None:
        with catalog.write() as connection:
            set_value(connection, "a", 1)
            process = connection.scalar("SELECT pg_backend_pid()")
            with other.read() as killer:
                assert killer.scalar("SELECT pg_terminate_backend(:process, 60000)", process=process)

    with pytest.raises(DatabaseError, match="terminating connection") as caught:
        lose_connection()
    assert caught.value.connection_lost
    assert values(catalog) == {}
    for opened in (catalog, other):
        opened.close()


def test_threads_share_few_connections_to_sqlite(local: Catalog, tmp_path: Path) -> None:
    with local.write() as connection:
        set_value(connection, "count", 0)

    def increase(_: int) -> int:
        with local.write() as connection:
            connection.execute("UPDATE settings SET value = value + 1")
            return connections(tmp_path)

    with ThreadPoolExecutor(40) as pool:
        open_at_once = list(pool.map(increase, range(120)))
    assert values(local) == {"count": 120}
    assert max(open_at_once) <= sqlite.MOST_CONNECTIONS
    local.close()
    assert connections(tmp_path) == 0
    assert values(local) == {"count": 120}  # connects again


def test_a_connection_in_use_is_closed_when_it_is_returned(
    local: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_SECONDS", 0.05)
    with local.write() as connection:
        local.close()
        set_value(connection, "a", 1)
        assert connections(tmp_path) == 1
    assert connections(tmp_path) == 0
    assert values(local) == {"a": 1}


def test_a_thread_that_gets_no_connection_reports_it(local: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with contextlib.ExitStack() as stack:
        for _ in range(sqlite.MOST_CONNECTIONS):
            stack.enter_context(local.read())
        with pytest.raises(DatabaseError, match="all 15 connections"):
            add_dataset(local)
    add_dataset(local)
