"""A folder for the sockets and scratch files of a local cluster, which only its owner can enter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from statsvc.errors import JobFailed

PREFIX = "statsvc-dask-"

LOCK = "lock"
"""File in the folder that its process keeps locked, so that the folder of a killed process can be removed."""

NEW_SECONDS = 60.0
"""Age from which a folder may be removed; the process of a newer one may not have locked it yet."""

MAX_PATH_BYTES = 80
"""Longest path of the folder; the path of a Unix socket in it has at most 107 bytes, and 103 on macOS."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - `mkdtemp` creates a folder with mode 0700
"""Used if the path of the temporary folder is too long for a socket."""


class PrivateFolder:
    """A new folder with mode 0700, removed by `remove`.

    Folders that killed processes of this user left behind are removed first.
    """

    def __init__(self) -> None:
        self.path = _create()
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _create() -> Path:
    import tempfile

    for parent in (tempfile.gettempdir(), *SHORT_FOLDERS):
        length = len(os.fsencode(parent)) + 1 + len(PREFIX) + 8
        # Dask splits an address at ":".
        if length > MAX_PATH_BYTES or ":" in parent:
            continue
        _remove_stale(Path(parent))
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    raise JobFailed(
        "worker processes need a temporary folder for their sockets: set TMPDIR to a writable folder with a "
        f"path of at most {MAX_PATH_BYTES - 10 - len(PREFIX)} bytes without a colon"
    )


def _remove_stale(parent: Path) -> None:
    """Remove folders of this user whose process has ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < NEW_SECONDS:
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
