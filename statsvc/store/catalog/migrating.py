"""Migrations of the catalog by Alembic, which are all that SQLite needs SQLAlchemy for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from statsvc.errors import CatalogError
from statsvc.store.catalog import sqlite
from statsvc.store.catalog.database_errors import DatabaseError

if TYPE_CHECKING:
    from pathlib import Path


def migrate(connection: sa.Connection, schema: str) -> None:
    """Migrate the tables to a schema, in the caller's transaction.

    Raises `CatalogError` if the database was created by a newer release.
    """
    config = Config()
    config.set_main_option("script_location", "statsvc.store.catalog:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, schema)
    except CommandError as error:
        raise CatalogError(
            f"this release of statsvc cannot migrate the catalog ({error}); "
            "the catalog was created by a newer release, so install that release"
        ) from error


def migrate_sqlite(file: Path, schema: str) -> None:
    """Migrate a catalog on SQLite under the database's write lock, so that processes do it one by one.

    Raises `CatalogError` as `migrate` does, and `DatabaseError`.
    """
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite.connect(file, create=False), poolclass=sa.NullPool
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            migrate(connection, schema)
    except sa.exc.DBAPIError as error:
        raise DatabaseError(str(error.orig), error.orig) from error


def upgrade_postgresql(url: sa.URL, schema: str, api_role: str | None) -> None:
    """Create or migrate the tables of a catalog on PostgreSQL, and grant privileges to the API servers' role.

    Raises `CatalogError`, also for an unknown role, and `DatabaseError`.
    """
    from statsvc.store.catalog import postgresql, privileges

    engine = postgresql.create_engine(url, statement_seconds=None)
    try:
        with postgresql.translated(), engine.begin() as connection:
            # Held until the transaction ends: processes that upgrade at the same time do it one by one.
            lock: Any = postgresql.lock_key("upgrade")
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), lock)
            migrate(connection, schema)
            if api_role is not None:
                privileges.grant(connection, api_role)
    finally:
        engine.dispose()
