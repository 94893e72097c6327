"""The catalog's database, on which every module of this package runs its transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from statsvc.store.catalog.engine import open_engine

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from statsvc.store.catalog.connection import Connection, Engine
    from statsvc.store.catalog.sqlite_changes import Changes


class Database:
    """The catalog's database; its methods are those of `Engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the catalog at a database URL. Raises `CatalogError`."""
        return cls(open_engine(url))

    def read(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads."""
        return self.engine.read()

    def write(self) -> AbstractContextManager[Connection]:
        """Open a writing transaction, which is committed at the end and rolled back on an exception."""
        return self.engine.write()

    def changes(self) -> Changes | None:
        """Return a detector of changes; None where only a query can tell."""
        return self.engine.changes()

    def close(self) -> None:
        """Close every connection."""
        self.engine.close()
