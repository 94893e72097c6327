"""Transactions and SQL statements, as the rest of this package uses them on SQLite and PostgreSQL.

Statements are SQL that both databases understand. Values are named parameters, `:name`; a parameter after IN
is a list. JSON is stored and returned as text. SQLite returns booleans as 0 and 1. `dialects` translates what
the databases write differently: `clock()`, `FOR UPDATE` and lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from statsvc.store.catalog.database_errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from statsvc.store.catalog.sqlite_changes import Changes

Row = SimpleNamespace
"""A row: its columns are attributes."""


class Connection(ABC):
    """A connection with an open transaction. Every method raises `DatabaseError`."""

    def rows(self, statement: str, /, **values: Any) -> list[Row]:
        """Return the rows of a query."""
        names, rows = self._fetch(statement, values)
        return [Row(**dict(zip(names, row, strict=True))) for row in rows]

    def first(self, statement: str, /, **values: Any) -> Row | None:
        """Return the first row of a query, None if it has none."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def one(self, statement: str, /, **values: Any) -> Row:
        """Return the row of a query that has exactly one."""
        rows = self.rows(statement, **values)
        if len(rows) != 1:
            raise DatabaseError(f"{len(rows)} rows instead of one for: {' '.join(statement.split())}")
        return rows[0]

    def scalars(self, statement: str, /, **values: Any) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in self._fetch(statement, values)[1]]

    def scalar(self, statement: str, /, **values: Any) -> Any:
        """Return the first column of the first row of a query, None if it has no row."""
        found = self.scalars(statement, **values)
        return found[0] if found else None

    def clock(self) -> float:
        """Return the database's time, in seconds since 1970."""
        return float(self.scalar("SELECT clock()"))

    @abstractmethod
    def execute(self, statement: str, /, **values: Any) -> int:
        """Execute a statement that returns no rows; return how many rows it changed."""

    @abstractmethod
    def execute_many(self, statement: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Execute a statement once for the values of each row."""

    @abstractmethod
    def has_table(self, name: str) -> bool:
        """Whether a table exists."""

    @abstractmethod
    def _fetch(self, statement: str, values: Mapping[str, Any]) -> tuple[Iterable[str], Sequence[Any]]:
        """Return the names of the columns of a query, and its rows."""


class Engine(ABC):
    """A database and its pool of connections; every method may be called from several threads."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads."""

    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """Open a writing transaction, which is committed at the end and rolled back on an exception."""

    @abstractmethod
    def exclusive(self, task: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """Hold the lock of a task, which one process at a time may run; it ends with the process.

        If another process holds the lock, wait for it with `wait`, else raise `Conflict`.
        """

    @abstractmethod
    def changes(self) -> Changes | None:
        """Return a detector of changes; None where only a query can tell."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection, after waiting a moment for the threads that use one."""


CLOSE_SECONDS = 2.0
"""How long `close` waits for threads that still use a connection."""


def taken(task: str) -> str:
    """Return the message of the `Conflict` if another process holds the lock of a task."""
    return f"another {task} is running on this catalog; wait until it ends"
