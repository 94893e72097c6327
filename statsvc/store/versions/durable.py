"""Making files survive a power failure, replacing them in one step, and what to do where a disk refuses."""

from __future__ import annotations

import errno
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, upto: Path) -> None:
    """Flush every file and folder below `folder`, itself, and its parents up to and with `upto`.

    Zarr never flushes what it writes; a folder is flushed after what it holds, so that a name
    never outlives its content.
    """
    for parent, _folders, files in os.walk(folder, topdown=False):
        for name in files:
            sync_path(folder.__class__(parent) / name)
        sync_path(folder.__class__(parent))
    current = folder
    while current != upto:
        current = current.parent
        sync_path(current)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each flushed into the one above it."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)


def replace(file: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write `data` to a temporary name beside `file`, and rename it; flush both where they are to last."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            if lasting:
                out.flush()
                os.fsync(out.fileno())
        temporary.replace(file)
        if lasting:
            sync_path(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


_ADVICE = {
    errno.ENOSPC: "free some space there, or put --home or --store on a larger disk",
    errno.EDQUOT: "free some of your quota there, or put --home or --store on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or put --home or --store on another disk",
    errno.EACCES: "give this user the right to read and write there, or choose another --home or --store",
    errno.EPERM: "give this user the right to read and write there, or choose another --home or --store",
    errno.EROFS: "mount it for writing, or choose another --home or --store",
}

PASSING = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    }
)
"""Errors that pass by themselves, of this process or of a file system that is away: the file is whole."""


def advice(error: BaseException, folder: Path | str) -> str | None:
    """Return a line on what a person must mend where a disk refused, None for any other error.

    `folder` is where was written to, for an error that names no file.
    """
    if not isinstance(error, OSError) or error.errno not in _ADVICE:
        return None
    return f"{error.filename or folder}: {error.strerror}; {_ADVICE[error.errno]}"
