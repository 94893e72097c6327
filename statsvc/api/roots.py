"""Which folders a request may name as a source."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from statsvc.errors import InvalidParameter, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ForbiddenSource(SourceError):
    """The source lies outside the folders that the server may read."""


def allowed_source(source: str, roots: Sequence[Path]) -> Path:
    """Return the source as an absolute path without links, checked to lie below one of the roots.

    Raises `InvalidParameter` for what is no absolute path, `ForbiddenSource` outside the roots, whether
    or not something is there, and `SourceError` where there is no folder.
    """
    if "\0" in source or not source.startswith("/"):
        raise InvalidParameter(
            ("source", f"{source!r} is not an absolute path, such as /data/camvid, on the server's machine")
        )
    folder = Path(source).resolve()
    if not any(folder.is_relative_to(root.resolve()) for root in roots):
        there = ", ".join(str(root) for root in roots) or "none"
        raise ForbiddenSource(
            f"{source} lies outside the folders that this server may read ({there}); "
            "allow another one with: statsvc serve --root FOLDER"
        )
    if not folder.is_dir():
        raise SourceError(
            f"there is no folder {source} on the server's machine; check the path and the mount"
        )
    return folder


def checked_pattern(pattern: str) -> str:
    """Return a glob of paths relative to the source. Raises `InvalidParameter` for one that leaves it."""
    parts = PurePosixPath(pattern).parts
    if not parts or "\0" in pattern or pattern.startswith("/") or ".." in parts:
        raise InvalidParameter(
            ("pattern", f"{pattern!r}: give a glob relative to the source, for instance **/*_labelIds.png")
        )
    return pattern
