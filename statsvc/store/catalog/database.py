"""The connection pool of one catalog, on which every module of this package runs its transactions."""

from __future__ import annotations

import time
from typing import Self

import sqlalchemy as sa

from statsvc.store.catalog import sqlite
from statsvc.store.catalog.engine import open_engine

CLOSE_SECONDS = 2.0
"""How long `close` waits for threads that still use a connection."""

_POLL_SECONDS = 0.01


class Database:
    """The catalog's database."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the catalog at a database URL. Raises `CatalogError`."""
        return cls(open_engine(url))

    def changes(self) -> sqlite.Changes | None:
        """Return a detector of changes; None where only a query can tell."""
        return sqlite.Changes(self.engine.url) if self.engine.dialect.name == "sqlite" else None

    def close(self) -> None:
        """Close every connection."""
        pool = self.engine.pool
        # A connection that a thread returns after the pool is disposed of would stay open, so wait for it.
        end = time.monotonic() + CLOSE_SECONDS
        while isinstance(pool, sa.QueuePool) and pool.checkedout() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        self.engine.dispose()
