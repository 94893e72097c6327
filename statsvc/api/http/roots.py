"""Which folders and URLs a request may name as a source."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_below, is_url, normalized
from statsvc.errors import InvalidParameter, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ForbiddenSource(SourceError):
    """The source lies outside the folders that the server may read."""


def allowed_source(source: str, roots: Sequence[Path | str]) -> str:
    """Return the source as an absolute path without links, or a URL, checked to lie below one of the roots.

    Raises `InvalidParameter` for what is no absolute path and no URL, `ForbiddenSource` outside the roots,
    whether or not something is there, and `SourceError` where there is no folder. Whether something is at a
    URL, its first job says.
    """
    if is_url(source):
        try:
            url = normalized(source)
        except SourceError as error:
            raise InvalidParameter(("source", str(error))) from error
        if not any(isinstance(root, str) and is_below(url, root) for root in roots):
            raise _forbidden(url, roots, "URL")
        return url
    if "\0" in source or not source.startswith("/"):
        raise InvalidParameter(
            (
                "source",
                f"{source!r} is not an absolute path, such as /data/camvid, on the server's machine, "
                "nor a URL such as s3://bucket/prefix",
            )
        )
    folder = Path(source).resolve()
    if not any(isinstance(root, Path) and folder.is_relative_to(root.resolve()) for root in roots):
        raise _forbidden(source, roots, "FOLDER")
    if not folder.is_dir():
        raise SourceError(
            f"there is no folder {source} on the server's machine; check the path and the mount"
        )
    return str(folder)


def _forbidden(source: str, roots: Sequence[Path | str], what: str) -> ForbiddenSource:
    there = ", ".join(map(str, roots)) or "none"
    return ForbiddenSource(
        f"{source} lies outside the folders that this server may read ({there}); "
        f"allow another one with: statsvc serve --root {what}"
    )


def checked_pattern(pattern: str) -> str:
    """Return a glob of paths relative to the source. Raises `InvalidParameter` for one that leaves it."""
    parts = PurePosixPath(pattern).parts
    if not parts or "\0" in pattern or pattern.startswith("/") or ".." in parts:
        raise InvalidParameter(
            ("pattern", f"{pattern!r}: give a glob relative to the source, for instance **/*_labelIds.png")
        )
    return pattern
