"""Messages for samples that cannot be read, for the owner of the file."""

from __future__ import annotations

import errno

from statsvc.common.object_urls import is_url
from statsvc.errors import UnreadableSample

IO_ERRORS = (errno.EIO, errno.ESTALE, errno.ENOTCONN)
"""Errors of a disk or network share, not of the file."""


def explain(error: Exception) -> str:
    """Return what happened to a sample, and what to do next."""
    if isinstance(error, UnreadableSample):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "was removed during the scan; scan again when the folder no longer changes"
    if isinstance(error, OSError) and is_url(str(error.filename)):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file; exclude it with --pattern"
    if isinstance(error, PermissionError):
        return "cannot be opened: permission denied; make it readable (chmod +r) or scan as its owner"
    if isinstance(error, OSError) and error.errno in IO_ERRORS:
        return f"cannot be read: {error.strerror}; check the disk or network share, then scan again"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}; check the file, then scan again"
    return f"cannot be counted ({type(error).__name__}: {error}); report this as a bug and attach the file"
