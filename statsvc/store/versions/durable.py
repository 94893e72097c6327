"""Durable, atomic file writes, and advice for errors of the file system."""

from __future__ import annotations

import errno
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SYNC_THREADS = 8
"""Files and folders that are flushed at the same time."""


def sync_path(path: Path) -> None:
    """Flush one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, upto: Path) -> None:
    """Flush `folder` with everything below it, then its parents up to and including `upto`.

    A folder is flushed after its content, so that after a power failure no name refers to missing content.
    """
    from concurrent.futures import ThreadPoolExecutor

    files: list[Path] = []
    folders: dict[int, list[Path]] = {}
    for parent, _folders, names in os.walk(folder):
        path = folder.__class__(parent)
        files += (path / name for name in names)
        folders.setdefault(len(path.parts), []).append(path)
    # Concurrently, because a file system writes its journal once for all that wait for it.
    with ThreadPoolExecutor(SYNC_THREADS) as threads:
        for group in (files, *(folders[depth] for depth in sorted(folders, reverse=True))):
            list(threads.map(sync_path, group))
    current = folder
    while current != upto:
        current = current.parent
        sync_path(current)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and flush each one's parent."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)


def replace(file: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write `data` to a temporary file in the same folder and rename it to `file`.

    With `lasting`, flush the file and its folder, so that the new content survives a power failure.
    """
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
    errno.ENOSPC: "free disk space there, or choose a larger disk with --home or --store",
    errno.EDQUOT: "free some of your disk quota, or choose another disk with --home or --store",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or choose another disk with --home or --store",
    errno.EACCES: "grant this user read and write permission, or choose another --home or --store",
    errno.EPERM: "grant this user read and write permission, or choose another --home or --store",
    errno.EROFS: "mount the file system for writing, or import counts and change configurations with the "
    "command statsvc on a host that may write",
}

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a full disk."""

TRANSIENT_ERRORS = frozenset(
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
"""Errors that a retry may resolve: this process lacks resources, or a network file system is away.

They are not evidence of a damaged file.
"""


def advice(error: BaseException, folder: Path | str) -> str | None:
    """Return the file, the error and how to fix it; None for an error that has no known fix.

    `folder` is the folder that was written to, for an error that does not name a file.
    """
    if not isinstance(error, OSError) or error.errno not in _ADVICE:
        return None
    return f"{error.filename or folder}: {error.strerror}; {_ADVICE[error.errno]}"
