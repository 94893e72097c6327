"""Joining a trainer's paths with those of the statistics.

The statistics' paths are relative to the folder that was scanned. A trainer's path belongs to the one
whose folders and name it ends in (`/data/camvid/train/0001.png` to `train/0001.png`), or, if there is
none, to the one that ends in it (`0001.png` to `train/0001.png`). Where more than one fits, `root` must
say which folder was scanned; then a path belongs to what is left of it behind the root, and to nothing
else. File names are compared as they are: give the paths of label maps, not of images.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

_EXAMPLES = 3


def join(
    given: Sequence[str | os.PathLike[str]], known: Sequence[str], root: str | os.PathLike[str] | None = None
) -> Int64:
    """Return the index in `known` of each given path, −1 for one that belongs to none; int64 [len(given)].

    Raises `InvalidParameter` naming paths that belong to more than one.
    """
    parts = [_parts(path) for path in given]
    at = {_parts(path): k for k, path in enumerate(known)}
    if root is not None:
        folder = _parts(root)
        inside = [one[len(folder) :] if one[: len(folder)] == folder else one for one in parts]
        return np.array([at.get(one, -1) for one in inside], np.int64)
    depth = max((len(one) for one in at), default=0)
    found = np.full(len(parts), -1, np.int64)
    ambiguous: list[tuple[str, list[str]]] = []
    short: list[int] = []
    for row, one in enumerate(parts):
        fits = [at[tail] for n in range(1, min(depth, len(one)) + 1) if (tail := one[-n:]) in at]
        if len(fits) == 1:
            found[row] = fits[0]
        elif fits:
            ambiguous.append((str(given[row]), [known[k] for k in fits]))
        elif len(one) < depth:
            short.append(row)
    if short:
        _join_short(short, parts, at, found, ambiguous, given, known)
    if ambiguous:
        path, fits_ = ambiguous[0]
        raise InvalidParameter(
            (
                "paths",
                f"{len(ambiguous)} of {len(given)} paths belong to more than one of the statistics, for "
                f"instance {path} to {' and '.join(fits_[:_EXAMPLES])}: give root=, the folder that was "
                "scanned, and paths below it",
            )
        )
    return found


def _join_short(
    rows: Sequence[int],
    parts: Sequence[tuple[str, ...]],
    at: dict[tuple[str, ...], int],
    found: Int64,
    ambiguous: list[tuple[str, list[str]]],
    given: Sequence[str | os.PathLike[str]],
    known: Sequence[str],
) -> None:
    """Join the paths that are shorter than those of the statistics, in place."""
    lengths = {len(parts[row]) for row in rows}
    longer: dict[tuple[str, ...], list[int]] = {}
    for whole, k in at.items():
        for n in lengths:
            if n < len(whole):
                longer.setdefault(whole[-n:], []).append(k)
    for row in rows:
        fits = longer.get(parts[row], [])
        if len(fits) == 1:
            found[row] = fits[0]
        elif fits:
            ambiguous.append((str(given[row]), [known[k] for k in fits]))


def _parts(path: str | os.PathLike[str]) -> tuple[str, ...]:
    text = os.fspath(path)
    if os.sep == "\\":
        text = text.replace("\\", "/")
    return tuple(part for part in PurePosixPath(text).parts if part != "/")


def unmatched_text(given: Sequence[str | os.PathLike[str]], found: Int64, known: Sequence[str]) -> str:
    """Return which given paths belong to none of the statistics, and what to look at."""
    missing = np.flatnonzero(found < 0)
    named = ", ".join(str(given[row]) for row in missing[:_EXAMPLES])
    more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
    there = f"the statistics have {len(known)}, such as {known[0]}" if known else "the statistics have none"
    return f"{len(missing)} of {len(given)} paths are not in the statistics: {named}{more}; {there}"
