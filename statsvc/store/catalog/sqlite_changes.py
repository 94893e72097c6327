"""Detects commits to an SQLite database, without reading any table."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path


class Changes:
    """Detects commits of other connections and processes in a few microseconds, without reading any table.

    Only for use in one thread at a time.
    """

    def __init__(self, file: Path) -> None:
        self._name = str(file)
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
