"""Disk space and inodes that are kept next to an SQLite database, for when the disk is full."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RESERVE_BYTES, RESERVE_FILES = 2**20, 4
"""Size and number of files of the reserve: more than SQLite needs to open a database and delete rows."""


def is_full(folder: Path) -> bool:
    """Whether a folder's disk has less space than the reserve, or no free inodes."""
    try:
        status = os.statvfs(folder)
    except OSError:  # the folder is gone, for instance because its disk was unmounted
        return False
    return status.f_bavail * status.f_frsize < RESERVE_BYTES or (status.f_files > 0 and status.f_favail < 2)


def _reserve(file: Path) -> list[Path]:
    return [file.with_name(f".{file.name}.reserve-{number}") for number in range(RESERVE_FILES)]


def create(file: Path) -> None:
    """Occupy space and inodes next to the database, for when the disk is full; not if it nearly is."""
    with suppress(OSError):
        status = os.statvfs(file.parent)
        if status.f_bavail * status.f_frsize < 4 * RESERVE_BYTES:
            return
        for part in _reserve(file):
            if not part.exists():
                part.write_bytes(bytes(RESERVE_BYTES // RESERVE_FILES))


def release(file: Path) -> bool:
    """Remove the reserve; return whether there was one."""
    existing = [part for part in _reserve(file) if part.exists()]
    for part in existing:
        part.unlink(missing_ok=True)
    return bool(existing)
