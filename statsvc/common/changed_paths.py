"""Paths of changed label maps, as a pipeline names them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from statsvc.common.utf8 import HALF, shown, storable
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 10_000
"""Paths in one request."""

LONGEST = 4096
"""Characters in a path."""

NAMED_ERRORS = 20
"""How many paths that are not accepted are named."""


def checked(paths: Sequence[str]) -> list[str]:
    """Return paths relative to a source, each once and sorted.

    Raises `InvalidParameter` naming those that are absolute, lead out of the source, or are none.
    """
    if not paths:
        raise InvalidParameter(("paths", "name at least one, or leave paths out: then the source is listed"))
    if len(paths) > MOST:
        raise InvalidParameter(
            ("paths", f"{len(paths)} are too many: {MOST} at most; leave paths out, and the source is listed")
        )
    wrong = [(f"paths.{place}", why) for place, path in enumerate(paths) if (why := _wrong(path))]
    if wrong:
        raise InvalidParameter(*wrong[:NAMED_ERRORS])
    return sorted({str(PurePosixPath(path)) for path in paths})


def _wrong(path: str) -> str:
    """Return what is wrong with a path, empty where nothing is."""
    if not storable(path):
        return f"{shown(path)}: {HALF}"
    if "\0" in path or len(path) > LONGEST:
        return f"a path has no NUL and at most {LONGEST} characters"
    if path.startswith("/"):
        return f"{path!r} is absolute; give it relative to the source, as train/0001.png"
    parts = PurePosixPath(path).parts
    if ".." in parts:
        return f"{path!r} may lead out of the source; give it without '..'"
    return "" if parts else f"{path!r} names no file; leave paths out, and the whole source is listed"
