"""An SQLite file as the catalog's database: its connections, transactions and lock."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from statsvc.errors import Conflict
from statsvc.store.catalog import sqlite_reserve
from statsvc.store.catalog.connection import CLOSE_SECONDS, Connection, Engine, taken
from statsvc.store.catalog.database_errors import DatabaseError, IntegrityError
from statsvc.store.catalog.dialects import sqlite_statement, sqlite_values
from statsvc.store.catalog.sqlite_changes import Changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

BUSY_SECONDS = 30
"""How long an SQLite statement waits for another process's lock."""

MOST_CONNECTIONS = 15
"""Most connections of a process. All stay open: SQLite closes no file while another one has locks on it."""

_RETRY_SECONDS = 0.02

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_SECONDS * 1000}",
)


class SqliteEngine(Engine):
    """The database in an SQLite file, which is created by the first connection if it does not exist.

    Once the engine has connected, a removed file is an error, and a replaced file is opened: an open
    connection would go on writing to the old file, and nobody would see these changes.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.absolute()
        self._may_create = True
        self._changed = threading.Condition()
        self._in_use = 0
        self._idle: list[_Opened] = []
        self._times_closed = 0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a writing transaction, which is committed at the end and rolled back on an exception."""
        # A writer takes the write lock first: a transaction that upgrades its lock later can fail at COMMIT.
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def exclusive(self, task: str, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock of a task, which is also that of any other task; see `Engine.exclusive`."""
        # The lock is on the folder, so that it needs no new file on a disk without free inodes. Locking the
        # database's file itself would release SQLite's own locks.
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Conflict(taken(task)) from None
            yield
        finally:
            os.close(folder)

    def changes(self) -> Changes:
        """Return a detector of changes."""
        return Changes(self.file)

    def close(self) -> None:
        """Close every connection, after waiting a moment for the threads that use one.

        A connection that a thread still uses then is closed when the thread returns it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._in_use == 0, CLOSE_SECONDS)
            self._times_closed += 1
            idle, self._idle = self._idle, []
        for opened in idle:
            opened.connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._changed:
            if not self._changed.wait_for(lambda: self._in_use < MOST_CONNECTIONS, BUSY_SECONDS):
                raise DatabaseError(
                    f"all {MOST_CONNECTIONS} connections to {self.file} were in use for {BUSY_SECONDS} s"
                )
            self._in_use += 1
        opened = None
        is_usable = False
        try:
            opened = self._take()
            connection = SqliteConnection(opened.connection)
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
                is_usable = True
            except BaseException:
                is_usable = _rolled_back(opened.connection)
                raise
        finally:
            self._give_back(opened, is_usable)

    def _take(self) -> _Opened:
        """Return an idle connection to the present file, or a new one. Raises `DatabaseError`."""
        while True:
            with self._changed:
                opened = self._idle.pop() if self._idle else None
                times_closed = self._times_closed
            if opened is None:
                identity = _identity(
                    self.file
                )  # before connecting: a file replaced since then is opened again
                try:
                    return _Opened(self._connect(), identity, times_closed)
                except sqlite3.Error as error:
                    raise _translated(error) from error
            if opened.identity is not None and opened.identity == _identity(self.file):
                return opened
            opened.connection.close()  # the file was removed or replaced

    def _give_back(self, opened: _Opened | None, is_usable: bool) -> None:
        with self._changed:
            self._in_use -= 1
            if opened is not None and is_usable and opened.times_closed == self._times_closed:
                self._idle.append(opened)
                opened = None
            self._changed.notify_all()
        if opened is not None:
            opened.connection.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = connect(self.file, create=self._may_create)
        except sqlite3.OperationalError:
            # SQLite needs two more files even to read. On a full disk, the reserve makes room for them.
            if not (sqlite_reserve.is_full(self.file.parent) and sqlite_reserve.release(self.file)):
                raise
            log.warning(
                "The disk of %s is full. Free space on it, for example with: statsvc gc", self.file.parent
            )
            connection = connect(self.file, create=self._may_create)
        else:
            if self._may_create:
                sqlite_reserve.create(self.file)
        self._may_create = False
        return connection


class _Opened:
    """An open connection of the pool.

    identity      of the file before it was opened; None if that created it
    times_closed  how often the pool had been closed before
    """

    __slots__ = ("connection", "identity", "times_closed")

    def __init__(
        self, connection: sqlite3.Connection, identity: tuple[int, int] | None, times_closed: int
    ) -> None:
        self.connection, self.identity, self.times_closed = connection, identity, times_closed


class SqliteConnection(Connection):
    """A connection to SQLite with an open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, /, **values: Any) -> int:
        """Execute a statement that returns no rows; return how many rows it changed."""
        return self._cursor(statement, values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Execute a statement once for the values of each row."""
        try:
            self._connection.executemany(sqlite_statement(statement), rows)
        except sqlite3.Error as error:
            raise _translated(error) from error

    def has_table(self, name: str) -> bool:
        """Whether a table exists."""
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
        return self.scalar(query, name=name) is not None

    def _fetch(self, statement: str, values: Mapping[str, Any]) -> tuple[Iterable[str], list[Any]]:
        cursor = self._cursor(statement, values)
        try:
            return [column[0] for column in cursor.description], cursor.fetchall()
        except sqlite3.Error as error:
            raise _translated(error) from error

    def _cursor(self, statement: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sqlite_statement(statement), sqlite_values(values))
        except sqlite3.Error as error:
            raise _translated(error) from error


def _translated(error: sqlite3.Error) -> DatabaseError:
    kind = IntegrityError if isinstance(error, sqlite3.IntegrityError) else DatabaseError
    return kind(str(error), error)


def _rolled_back(connection: sqlite3.Connection) -> bool:
    """Roll a transaction back, unless SQLite did already; return whether the connection is usable."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def connect(file: Path, *, create: bool) -> sqlite3.Connection:
    """Return a new connection in autocommit mode, which threads may use one at a time."""
    # As a URI, because only a URI can forbid creation. `quote` keeps "?", "%" and "#" part of the path.
    uri = f"file:{quote(os.fsencode(file))}?mode={'rwc' if create else 'rw'}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
    )
    try:
        for pragma in _PRAGMAS:
            _set(connection, pragma)
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # creates the two files
    except BaseException:
        connection.close()
        raise
    return connection


def _set(connection: sqlite3.Connection, pragma: str) -> None:
    """Execute a pragma; SQLite does not wait for other connections before it changes the journal's mode."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error of the database means that its disk is full."""
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def _identity(file: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if it does not exist or cannot be reached."""
    try:
        status = file.stat()
    except OSError:  # SQLite reports why when it opens the file
        return None
    return status.st_dev, status.st_ino
