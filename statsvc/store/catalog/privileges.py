"""What the PostgreSQL role of API servers may do: everything but publish versions and create tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from statsvc.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIVILEGES: Mapping[str, str] = {
    "alembic_version": "SELECT",
    "changed_paths": "SELECT, INSERT, UPDATE, DELETE",
    "datasets": "SELECT, INSERT, UPDATE",
    "idempotency_keys": "SELECT, INSERT, DELETE",
    "jobs": "SELECT, INSERT, UPDATE",
    "runners": "SELECT",
    "schema_versions": "SELECT",
    "settings": "SELECT",
    "tags": "SELECT, INSERT, DELETE",
    "tokens": "SELECT",
    "triggers": "SELECT, INSERT, UPDATE, DELETE",
    # A tag makes an expired version a full one again.
    "versions": "SELECT, UPDATE (expired_at)",
}
"""Table -> privileges of API servers that only read the version store."""


def grant(connection: sa.Connection, role: str) -> None:
    """Give a role exactly these privileges, in the caller's transaction. Raises `CatalogError`."""
    if connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}) is None:
        raise CatalogError(
            f"PostgreSQL has no role {role!r}; create it first: CREATE ROLE … LOGIN PASSWORD '…'"
        )
    quoted = connection.dialect.identifier_preparer.quote_identifier(role)
    for table, privileges in PRIVILEGES.items():
        connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {quoted}")
        connection.exec_driver_sql(f"GRANT {privileges} ON {table} TO {quoted}")
