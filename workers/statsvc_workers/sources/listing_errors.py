"""Errors of a source that cannot be listed, with messages for its owner."""

from __future__ import annotations

from statsvc.common.object_urls import is_url
from statsvc.common.one_line import one_line
from statsvc.dataset.selection import quoted
from statsvc.errors import SourceError

EXAMPLES = 3
"""How many names a message lists."""


def listing_failed(root: str, error: OSError) -> SourceError:
    """Return the error that fails a job whose source cannot be listed."""
    path = error.filename or root
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"{root} cannot be listed: {path} no longer exists; is the disk mounted? If so, scan again"
        )
    return SourceError(
        f"{root} cannot be listed: {path}: {error.strerror or error}. Nothing was changed. Fix the problem "
        "and scan again"
    )


def no_match(root: str, pattern: str, names: list[str]) -> SourceError:
    """Return the error for a source in which no path matches the pattern."""
    if not names:
        return empty(root)
    examples = ", ".join(shown(name) for name in sorted(names)[:EXAMPLES])
    return SourceError(
        f"no file in {root} matches the pattern {quoted(pattern)}; its files are, for example: {examples}"
    )


def printable(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """Return a file name for a message, also without control characters."""
    return one_line(printable(name))


def empty(root: str) -> SourceError:
    """Return the error for a source without any file."""
    advice = "check the URL" if is_url(root) else "check the path: is the disk mounted?"
    return SourceError(f"{root} is empty; {advice}")
