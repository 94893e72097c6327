"""Connections to a catalog in an SQLite file."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

log = logging.getLogger(__name__)

RESERVE_BYTES, RESERVE_FILES = 2**20, 4
"""Size and number of files of the reserve: more than SQLite needs to open a database and delete rows."""

BUSY_SECONDS = 30
"""How long an SQLite statement waits for another process's lock."""

_RETRY_SECONDS = 0.02

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_SECONDS * 1000}",
)


def create_engine(url: sa.URL) -> sa.Engine:
    """Return the engine for an SQLite file, which is created if it does not exist yet.

    Once the engine has connected, a removed file is an error, and a replaced file is opened: an open
    connection would go on writing to the old file, and nobody would see these changes.
    """
    file = Path(str(url.database)).absolute()
    may_create = True

    def connect() -> sqlite3.Connection:
        nonlocal may_create
        try:
            connection = _connect(file, create=may_create)
        except sqlite3.OperationalError:
            # SQLite needs two more files even to read. On a full disk, the reserve makes room for them.
            if not (_is_full(file.parent) and _release_reserve(file)):
                raise
            log.warning("The disk of %s is full. Free space on it, for example with: statsvc gc", file.parent)
            connection = _connect(file, create=may_create)
        else:
            if may_create:
                _create_reserve(file)
        may_create = False
        return connection

    engine = sa.create_engine(url, creator=connect)

    @sa.event.listens_for(engine, "connect")
    def _remember(_connection: Any, record: Any) -> None:
        record.info["file"] = _identity(file)

    @sa.event.listens_for(engine, "checkout")
    def _check(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get("file") != _identity(file):
            raise sa.exc.DisconnectionError("the file was replaced")  # makes the pool connect again

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes the write lock first: a transaction that upgrades its lock later can fail at COMMIT.
        write = connection.get_execution_options().get("statsvc_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _connect(file: Path, *, create: bool) -> sqlite3.Connection:
    # As a URI, because only a URI can forbid creation. `quote` keeps "?", "%" and "#" part of the path.
    uri = f"file:{quote(os.fsencode(file))}?mode={'rwc' if create else 'rw'}"
    # The pool passes a connection from thread to thread, one at a time. The engine begins transactions.
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


class Changes:
    """Detects commits of other connections and processes in a few microseconds, without reading any table.

    Only for use in one thread at a time.
    """

    def __init__(self, url: sa.URL) -> None:
        self._name = str(Path(str(url.database)).absolute())
        self._opened: tuple[sqlite3.Connection, tuple[int, int]] | None = None
        self._times_opened = 0

    def marker(self) -> tuple[tuple[int, int], int, int] | None:
        """Return a value that is the same as long as nobody commits and the file is not replaced.

        None if it cannot be determined without waiting.
        """
        # https://www.sqlite.org/pragma.html#pragma_data_version
        try:
            status = os.stat(self._name)  # noqa: PTH116 - for every request
            identity = status.st_dev, status.st_ino
            if self._opened is None or self._opened[1] != identity:
                self.close()
                uri = f"file:{quote(os.fsencode(self._name))}?mode=rw"
                connection = sqlite3.connect(uri, uri=True, timeout=0, check_same_thread=False)
                self._opened = connection, identity
                self._times_opened += 1
            [version] = self._opened[0].execute("PRAGMA data_version").fetchone()
        except (sqlite3.Error, OSError):
            self.close()
            return None
        # Each connection counts from the same number on, whatever was committed before it was opened.
        return identity, self._times_opened, version

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error of the database means that its disk is full."""
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def _is_full(folder: Path) -> bool:
    try:
        status = os.statvfs(folder)
    except OSError:  # the folder is gone, for instance because its disk was unmounted
        return False
    return status.f_bavail * status.f_frsize < RESERVE_BYTES or (status.f_files > 0 and status.f_favail < 2)


def _reserve(file: Path) -> list[Path]:
    return [file.with_name(f".{file.name}.reserve-{number}") for number in range(RESERVE_FILES)]


def _create_reserve(file: Path) -> None:
    """Occupy space and inodes next to the database, for when the disk is full; not if it nearly is."""
    with suppress(OSError):
        status = os.statvfs(file.parent)
        if status.f_bavail * status.f_frsize < 4 * RESERVE_BYTES:
            return
        for part in _reserve(file):
            if not part.exists():
                part.write_bytes(bytes(RESERVE_BYTES // RESERVE_FILES))


def _release_reserve(file: Path) -> bool:
    """Remove the reserve; return whether there was one."""
    existing = [part for part in _reserve(file) if part.exists()]
    for part in existing:
        part.unlink(missing_ok=True)
    return bool(existing)


def _identity(file: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if it does not exist."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
