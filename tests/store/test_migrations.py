"""The catalog's schema: what migrations make equals what the code describes, and anything else is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from statsvc.errors import CatalogError
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import SCHEMA, open_engine, schema_of, upgrade
from statsvc.store.catalog.schema import metadata

OPENER = """
import sys, time
from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog.catalog import Catalog
start = float(sys.argv[3])
time.sleep(max(0, start - time.time()))
catalog = Catalog.open(sys.argv[1])
catalog.create_dataset(sys.argv[2], None, None, Configuration())
catalog.close()
"""


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def migrated_engine(folder: Path) -> sa.Engine:
    """Return a database whose tables were created by the migrations."""
    engine = sa.create_engine(url(folder))
    with engine.begin() as connection:
        upgrade(connection)
    return engine


def test_migrations_create_the_tables_of_the_schema_module(tmp_path: Path) -> None:
    engine = migrated_engine(tmp_path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrations_create_the_indexes_and_constraints_of_the_schema_module(tmp_path: Path) -> None:
    """Alembic does not compare CHECK constraints or the condition of a partial index; SQLite's text does."""
    migrated = migrated_engine(tmp_path)
    described = open_engine(url(tmp_path / "other"))

    def indexes(engine: sa.Engine) -> dict[str, str]:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(query)
            return {name: " ".join(sql.split()).replace('"', "") for name, sql in rows}

    def checks(engine: sa.Engine) -> list[object]:
        return [sa.inspect(engine).get_check_constraints(table) for table in metadata.tables]

    assert indexes(migrated) == indexes(described)
    assert len(indexes(migrated)) >= 4
    assert checks(migrated) == checks(described)
    for table in ("alembic_version", "schema_versions"):
        assert rows_of(migrated, table) == rows_of(described, table)
    migrated.dispose()
    described.dispose()


def rows_of(engine: sa.Engine, table: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    Catalog.open(url(tmp_path)).close()
    before = sa.create_engine(url(tmp_path))
    with before.connect() as connection:
        dump = connection.exec_driver_sql("SELECT sql FROM sqlite_master").all()
    Catalog.open(url(tmp_path)).close()
    with before.connect() as connection:
        assert connection.exec_driver_sql("SELECT sql FROM sqlite_master").all() == dump
    before.dispose()


def test_a_schema_of_a_newer_release_is_rejected(tmp_path: Path) -> None:
    engine = open_engine(url(tmp_path))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(CatalogError, match=r"cannot migrate the catalog.*newer release"):
        open_engine(url(tmp_path))
    with sa.create_engine(url(tmp_path)).connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"
        connection.engine.dispose()


def test_a_migration_that_dies_halfway_leaves_no_tables(tmp_path: Path) -> None:
    """The tables come in one transaction, so the next process starts from an empty catalog."""
    program = (
        "import os, sys, sqlalchemy as sa\n"
        "from statsvc.store.catalog import engine\n"
        "class Killer:\n"
        "    def __call__(self, conn, cursor, statement, *rest):\n"
        "        if 'CREATE TABLE versions' in statement: os._exit(9)\n"
        "sa.event.listen(sa.Engine, 'before_cursor_execute', Killer())\n"
        f"engine.open_engine({url(tmp_path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    engine = open_engine(url(tmp_path))
    assert schema_of(engine) == SCHEMA
    assert set(metadata.tables) <= set(sa.inspect(engine).get_table_names())
    engine.dispose()


def test_concurrent_processes_can_all_open_a_new_catalog(tmp_path: Path) -> None:
    import time

    start = str(time.time() + 3)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, url(tmp_path / "new"), f"name{k}", start],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for k in range(6)
    ]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 6, errors
    catalog = Catalog.open(url(tmp_path / "new"))
    assert [dataset.name for dataset in catalog.datasets()] == [f"name{k}" for k in range(6)]
    catalog.close()
