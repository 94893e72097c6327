"""Patterns that select the files of a source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wcmatch import glob

from statsvc.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

GLOB_FLAGS = glob.GLOBSTAR | glob.BRACE | glob.EXTGLOB | glob.FORCEUNIX


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that returns whether a relative path matches. Raises `SourceError`."""
    if not pattern.strip("/"):
        raise SourceError(f"the pattern {pattern!r} cannot match a file; use one such as '*_labelIds.png'")
    match_whole_path = "/" in pattern
    try:
        expressions, _ = glob.translate(pattern.lstrip("/"), flags=GLOB_FLAGS)
        # One expression for all alternatives, because it is evaluated for every file.
        fullmatch = re.compile("|".join(f"(?:{expression})" for expression in expressions)).fullmatch
    except Exception as error:
        raise SourceError(
            f"the pattern {pattern!r} is not a valid glob: {error}; --help describes the syntax"
        ) from error

    def matches(path: str) -> bool:
        return fullmatch(path if match_whole_path else path.rpartition("/")[2]) is not None

    return matches


def pattern_of(name: str) -> str:
    """Return the pattern that matches only the file of this name directly below the root."""
    return "/" + glob.escape(name, unix=True)
