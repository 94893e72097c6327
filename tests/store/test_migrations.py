"""The catalog's schema: what migrations make equals what the code describes, and anything else is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from statsvc.errors import CatalogError
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import SCHEMA, open_engine, schema_of
from statsvc.store.catalog.migrating import migrate
from statsvc.store.catalog.schema import STATEMENTS

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
        migrate(connection, SCHEMA)
    return engine


def description(engine: sa.Engine) -> dict[str, Any]:
    """Return what SQLAlchemy reads from a database: the columns, keys and constraints of every table."""
    inspector = sa.inspect(engine)

    def by_name(items: list[Any]) -> list[dict[str, Any]]:
        return sorted(({k: str(v) for k, v in item.items()} for item in items), key=lambda item: item["name"])

    return {
        table: {
            "columns": by_name(list(inspector.get_columns(table))),
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": by_name(list(inspector.get_foreign_keys(table))),
            "unique": by_name(list(inspector.get_unique_constraints(table))),
            "checks": by_name(list(inspector.get_check_constraints(table))),
        }
        for table in inspector.get_table_names()
    }


def indexes(engine: sa.Engine) -> dict[str, str]:
    """Return the statements that created the indexes, with the conditions of partial indexes."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(query)
        return {name: " ".join(sql.split()).replace('"', "") for name, sql in rows}


def test_a_new_catalog_has_the_tables_that_migrations_create(tmp_path: Path) -> None:
    migrated = migrated_engine(tmp_path)
    open_engine(url(tmp_path / "other")).close()
    created = sa.create_engine(url(tmp_path / "other"))
    tables = description(migrated)
    assert description(created) == tables
    assert len(tables) == 12
    assert indexes(created) == indexes(migrated)
    assert len(indexes(migrated)) == 7
    for table in ("alembic_version", "schema_versions"):
        assert rows_of(created, table) == rows_of(migrated, table)
    migrated.dispose()
    created.dispose()


def test_a_new_catalog_explains_its_columns_as_migrations_do(postgresql: str) -> None:
    engine = sa.create_engine(postgresql)
    inspector = sa.inspect(engine)
    comments = {
        (table, column["name"]): column["comment"]
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
        if column["comment"]
    }
    engine.dispose()
    assert len(comments) >= 20
    for (table, column), comment in comments.items():
        (statement,) = (text for text in STATEMENTS if f"CREATE TABLE {table} (" in text)
        assert comment.lower() in statement.lower(), (table, column)


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
    with engine.write() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    engine.close()
    with pytest.raises(CatalogError, match=r"cannot migrate the catalog.*newer release"):
        open_engine(url(tmp_path))
    with sa.create_engine(url(tmp_path)).connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"
        connection.engine.dispose()


def test_a_migration_that_dies_halfway_leaves_no_tables(tmp_path: Path) -> None:
    """The tables come in one transaction, so the next process starts from an empty catalog."""
    program = (
        "import os\n"
        "from statsvc.store.catalog import engine, schema\n"
        "def dying(statements):\n"
        "    for statement in statements:\n"
        "        if 'CREATE TABLE versions' in statement: os._exit(9)\n"
        "        yield statement\n"
        "schema.STATEMENTS = dying(schema.STATEMENTS)\n"
        f"engine.open_engine({url(tmp_path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    engine = open_engine(url(tmp_path))
    assert schema_of(engine) == SCHEMA
    with engine.read() as connection:
        tables = connection.scalars("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert len(tables) == 12
    engine.close()


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
