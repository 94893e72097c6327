"""Joining a trainer's paths with those of the statistics, and with their probabilities.

The statistics' paths are relative to the folder that was scanned. A trainer's path belongs to the one
whose folders and name it ends in (`/data/camvid/train/0001.png` to `train/0001.png`), or, if there is
none, to the one that ends in it (`0001.png` to `train/0001.png`). Where more than one fits, `root` must
say which folder was scanned; then a path belongs to what is left of it behind the root, and to nothing
else. File names are compared as they are: give the paths of label maps, not of images.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from typing import TYPE_CHECKING

import numpy as np

from statsvc.errors import InvalidParameter, StatsvcError, Unanswerable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.splits import Split
    from statsvc.sampling.result import Sampling

    Int64 = NDArray[np.int64]

UNMATCHED = ("error", "skip", "average")
"""What may become of a path without statistics."""

_EXAMPLES = 3


def join(
    given: Sequence[str | os.PathLike[str]], known: Sequence[str], root: str | os.PathLike[str] | None = None
) -> Int64:
    """Return the index in `known` of each given path, −1 for one that belongs to none; int64 [len(given)].

    Raises `InvalidParameter` naming paths that belong to more than one.
    """
    texts = [_text(path) for path in given]
    at = {_text(path): k for k, path in enumerate(known)}
    if root is not None:
        folder = _text(root).rstrip("/") + "/"
        inside = (text.removeprefix(folder) for text in texts)
        return np.array([at.get(text, -1) for text in inside], np.int64)
    depth = max((text.count("/") + 1 for text in at), default=0)
    found = np.full(len(texts), -1, np.int64)
    ambiguous: list[tuple[str, list[str]]] = []
    short: list[int] = []
    for row, text in enumerate(texts):
        fits = [at[tail] for tail in _tails(text, depth) if tail in at]
        if len(fits) == 1:
            found[row] = fits[0]
        elif fits:
            ambiguous.append((str(given[row]), [known[k] for k in fits]))
        elif text.count("/") + 1 < depth:
            short.append(row)
    if short:
        longer: dict[str, list[int]] = {}
        for text, k in at.items():
            for tail in _tails(text, depth):
                longer.setdefault(tail, []).append(k)
        for row in short:
            fits = longer.get(texts[row], [])
            if len(fits) == 1:
                found[row] = fits[0]
            elif fits:
                ambiguous.append((str(given[row]), [known[k] for k in fits]))
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


def _tails(text: str, depth: int) -> Iterator[str]:
    """Yield the last 1, 2, … `depth` components of a path."""
    end = len(text)
    for _ in range(depth):
        end = text.rfind("/", 0, end)
        yield text[end + 1 :]
        if end < 0:
            return


def _text(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if os.sep == "\\":
        text = text.replace("\\", "/")
    return posixpath.normpath(text)


def unmatched_text(given: Sequence[str | os.PathLike[str]], found: Int64, known: Sequence[str]) -> str:
    """Return which given paths belong to none of the statistics, and what to look at."""
    missing = np.flatnonzero(found < 0)
    named = ", ".join(str(given[row]) for row in missing[:_EXAMPLES])
    more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
    there = f"the statistics have {len(known)}, such as {known[0]}" if known else "the statistics have none"
    return f"{len(missing)} of {len(given)} paths are not in the statistics: {named}{more}; {there}"


def elsewhere(
    missing: Sequence[str | os.PathLike[str]],
    asked: str,
    whole: Callable[[], tuple[Sequence[str], Mapping[str, Split]]],
    root: str | os.PathLike[str] | None,
) -> str:
    """Return in which splits paths are that the split asked for has not, and what to do; "" where unknown.

    whole  returns all paths of the dataset, and its splits
    """
    try:
        known, splits = whole()
        found = join(missing, known, root)
    except StatsvcError:
        return ""  # without an answer, what is said of the paths must do
    there = [known[k] for k in found if k >= 0]
    if not there:
        return ""
    numbers = {name: sum(map(split.contains, there)) for name, split in splits.items() if name != asked}
    named = " and ".join(f"{number} in split {name!r}" for name, number in numbers.items() if number)
    other = next((name for name, number in numbers.items() if number), None)
    do = "leave split= out to draw from all" if other is None else f"ask with split={other!r} for these"
    return f". The dataset has {len(there)} of them, {named or 'in no other split'}: {do}"


def probabilities(
    paths: Sequence[str | os.PathLike[str]],
    sampling: Sampling,
    root: str | os.PathLike[str] | None,
    unmatched: str,
    whole: Callable[[], tuple[Sequence[str], Mapping[str, Split]]] = lambda: ([], {}),
) -> NDArray[np.float64]:
    """Return the probability of each path among the statistics' images, float64 [len(paths)].

    They add up to 1 where paths and images are the same. Raises `InvalidParameter` for paths that are
    ambiguous, or have no statistics and `unmatched` does not say what becomes of them; warns of images
    that are not among the paths. `whole` is as in `elsewhere`, asked only for an error's message.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise InvalidParameter(
            ("paths", f"{paths!r} is one path; give a list, the path of each item's label map")
        )
    if len(paths) == 0:
        raise InvalidParameter(("paths", "there are none: give the path of each item's label map"))
    found = join(paths, sampling.paths, root)
    missing = found < 0
    if missing.all() or (missing.any() and unmatched == "error"):
        failed = (
            f". {sampling.failed} label maps could not be read and have none (statsvc datasets "
            f"{sampling.dataset})"
            if sampling.failed
            else ""
        )
        split = sampling.spec.get("split")
        if split is not None:
            lost = [paths[row] for row in np.flatnonzero(missing).tolist()]
            failed += elsewhere(lost, split, whole, root)
        raise InvalidParameter(
            (
                "paths",
                f"{unmatched_text(paths, found, sampling.paths)}. Give the paths of label maps, "
                'scan those that are new, or choose unmatched="skip" or "average"' + failed,
            )
        )
    filled = 1.0 / len(sampling) if unmatched == "average" else 0.0
    scores = np.where(missing, filled, sampling.probability[found])
    unused = len(sampling) - len(np.unique(found[~missing]))
    if unused:
        warnings.warn(
            f"{unused} of the {len(sampling)} images in the statistics of {sampling.dataset} are not among "
            "the paths: their part of the draws goes to the others in proportion. To choose images for each "
            "class among the paths only, ask for a split that is these paths (split=)",
            UserWarning,
            stacklevel=4,
        )
    if not scores.any():
        raise Unanswerable(f"{sampling.dataset}: every one of the {len(paths)} paths has the probability 0")
    return scores
