"""Validation of the paths of changed label maps that a data pipeline reports."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable, printable
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PATHS = 10_000
"""Maximum number of paths in one request."""

MAX_LENGTH = 4096
"""Maximum length of a path, in characters."""

MAX_ERRORS = 20
"""Maximum number of invalid paths that one error lists."""


def normalize_paths(paths: Sequence[str]) -> list[str]:
    """Return the paths relative to the source, sorted and without duplicates.

    Raises `InvalidParameter` for an empty list, too many paths, and every path that is absolute, malformed
    or contains "..".
    """
    if not paths:
        raise InvalidParameter(
            ("paths", "the list is empty; give at least one path, or omit paths to check the whole source")
        )
    if len(paths) > MAX_PATHS:
        raise InvalidParameter(
            (
                "paths",
                f"{len(paths)} paths exceed the limit of {MAX_PATHS}; omit paths to check the whole source",
            )
        )
    problems = [(f"paths.{index}", why) for index, path in enumerate(paths) if (why := path_problem(path))]
    if problems:
        raise InvalidParameter(*problems[:MAX_ERRORS])
    return sorted({str(PurePosixPath(path)) for path in paths})


def path_problem(path: str) -> str:
    """Return why a path is invalid, or an empty string if it is valid."""
    if not is_encodable(path):
        return f"{printable(path)}: {NOT_ENCODABLE}"
    if "\0" in path:
        return f"{path!r} contains a NUL character; remove it"
    if len(path) > MAX_LENGTH:
        return f"the path has {len(path)} characters; the limit is {MAX_LENGTH}"
    if path.startswith("/"):
        return f"{path!r} is absolute; give the path relative to the source, such as train/0001.png"
    parts = PurePosixPath(path).parts
    if ".." in parts:
        return f"{path!r} contains '..' and may point outside the source; give the path without '..'"
    return "" if parts else f"{path!r} does not name a file; omit paths to check the whole source"
