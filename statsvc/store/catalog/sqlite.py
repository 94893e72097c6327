"""Connections to a catalog in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

BUSY_SECONDS = 30
"""How long an SQLite statement waits for another process's lock."""

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
        connection = _connect(file, create=may_create)
        may_create = False
        return connection

    engine = sa.create_engine(url, creator=connect)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        record.info["file"] = _identity(file)
        connection.isolation_level = None  # the handler below begins transactions, not the driver
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

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
    # The pool passes a connection from thread to thread, one at a time.
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def _identity(file: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if it does not exist."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
