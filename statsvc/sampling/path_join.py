"""Matching the paths of a training program with the paths of the statistics, to find probabilities.

The paths of the statistics are relative to the scanned folder. A path matches the statistics' path that is
its suffix (`/data/camvid/train/0001.png` matches `train/0001.png`) or, without such a path, the one of which
it is a suffix (`0001.png` matches `train/0001.png`). If several match, `root` must name the scanned folder;
then a path matches only its remainder after the root. File names are compared unchanged, so use the paths of
label maps, not of images.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import part_with_verb, plural
from statsvc.errors import InvalidParameter, StatsvcError, Unanswerable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.splits import Split
    from statsvc.sampling.result import Sampling

    Int64 = NDArray[np.int64]

UNMATCHED = ("error", "skip", "average")
"""Ways to handle a path without statistics."""

_EXAMPLES = 3


def join(
    paths: Sequence[str | os.PathLike[str]], known: Sequence[str], root: str | os.PathLike[str] | None = None
) -> Int64:
    """Return the index in `known` that each path matches, −1 for no match; int64 [len(paths)].

    Raises `InvalidParameter` for paths that match more than one known path.
    """
    texts = [_normalized(path) for path in paths]
    index_of = {_normalized(path): k for k, path in enumerate(known)}
    if root is not None:
        prefix = _normalized(root).rstrip("/") + "/"
        relative = (text.removeprefix(prefix) for text in texts)
        return np.array([index_of.get(text, -1) for text in relative], np.int64)
    depth = max((text.count("/") + 1 for text in index_of), default=0)
    indices = np.full(len(texts), -1, np.int64)
    ambiguous: list[tuple[str, list[str]]] = []
    shorter: list[int] = []

    def assign(row: int, matches: Sequence[int]) -> None:
        if len(matches) == 1:
            indices[row] = matches[0]
        elif matches:
            ambiguous.append((str(paths[row]), [known[k] for k in matches]))

    for row, text in enumerate(texts):
        matches = [index_of[tail] for tail in _tails(text, depth) if tail in index_of]
        assign(row, matches)
        if not matches and text.count("/") + 1 < depth:
            shorter.append(row)
    if shorter:
        by_tail: dict[str, list[int]] = {}
        for text, k in index_of.items():
            for tail in _tails(text, depth):
                by_tail.setdefault(tail, []).append(k)
        for row in shorter:
            assign(row, by_tail.get(texts[row], []))
    if ambiguous:
        path, candidates = ambiguous[0]
        raise InvalidParameter(
            (
                "paths",
                f"{part_with_verb(len(ambiguous), len(paths), 'path', 'matches', 'match')} more than one "
                f"path of the statistics, for example {path} matches {' and '.join(candidates[:_EXAMPLES])}. "
                "Set root to the scanned folder, and use paths below it",
            )
        )
    return indices


def _tails(text: str, depth: int) -> Iterator[str]:
    """Yield the last 1, 2, … `depth` components of a path."""
    end = len(text)
    for _ in range(depth):
        end = text.rfind("/", 0, end)
        yield text[end + 1 :]
        if end < 0:
            return


def _normalized(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if os.sep == "\\":
        text = text.replace("\\", "/")
    return posixpath.normpath(text)


def unmatched_text(paths: Sequence[str | os.PathLike[str]], indices: Int64, known: Sequence[str]) -> str:
    """Return which paths have no match in the statistics, with an example of the statistics' paths."""
    missing = np.flatnonzero(indices < 0)
    named = ", ".join(str(paths[row]) for row in missing[:_EXAMPLES])
    more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
    example = (
        f"the statistics have {plural(len(known), 'path')}, such as {known[0]}"
        if known
        else "the statistics are empty"
    )
    subject = part_with_verb(len(missing), len(paths), "path", "is", "are")
    return f"{subject} not in the statistics: {named}{more}; {example}"


def other_splits_text(
    missing: Sequence[str | os.PathLike[str]],
    split: str,
    load_dataset: Callable[[], tuple[Sequence[str], Mapping[str, Split]]],
    root: str | os.PathLike[str] | None,
) -> str:
    """Return which other splits contain paths that `split` does not, and what to do; "" where unknown.

    load_dataset  returns all paths of the dataset, and its splits
    """
    try:
        known, splits = load_dataset()
        indices = join(missing, known, root)
    except StatsvcError:
        return ""  # The message about the missing paths is enough.
    in_dataset = [known[k] for k in indices if k >= 0]
    if not in_dataset:
        return ""
    numbers = {name: sum(map(other.contains, in_dataset)) for name, other in splits.items() if name != split}
    named = " and ".join(f"{number} in split {name!r}" for name, number in numbers.items() if number)
    other_split = next((name for name, number in numbers.items() if number), None)
    advice = (
        "leave out split to draw from all" if other_split is None else f"use split={other_split!r} for these"
    )
    return f". The dataset has {len(in_dataset)} of them, {named or 'in no other split'}: {advice}"


def probabilities(
    paths: Sequence[str | os.PathLike[str]],
    sampling: Sampling,
    root: str | os.PathLike[str] | None,
    unmatched: str,
    load_dataset: Callable[[], tuple[Sequence[str], Mapping[str, Split]]] = lambda: ([], {}),
) -> NDArray[np.float64]:
    """Return the probability of each path among the images of the statistics, float64 [len(paths)].

    They add up to 1 if the paths are exactly those of the statistics. `load_dataset` is as in
    `other_splits_text`, and called only for an error message.

    Raises `InvalidParameter` for ambiguous paths, and for paths without statistics under `unmatched="error"`;
    warns about images of the statistics that are not among the paths.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise InvalidParameter(
            ("paths", f"{paths!r} is a single path; use a list with the label map of each item")
        )
    if len(paths) == 0:
        raise InvalidParameter(("paths", "the list is empty; use the path of each item's label map"))
    indices = join(paths, sampling.paths, root)
    missing = indices < 0
    if missing.all() or (missing.any() and unmatched == "error"):
        raise InvalidParameter(("paths", _missing_text(paths, indices, sampling, root, load_dataset)))
    default = 1.0 / len(sampling) if unmatched == "average" else 0.0
    scores = np.where(missing, default, sampling.probability[indices])
    unused = len(sampling) - len(np.unique(indices[~missing]))
    if unused:
        warnings.warn(
            f"{unused} of the {plural(len(sampling), 'image')} in the statistics of {sampling.dataset} are "
            "not among the paths, so their probability is distributed over the others in proportion. To "
            "draw for each class among the paths only, define a split with these paths and use split=",
            UserWarning,
            stacklevel=4,
        )
    if not scores.any():
        raise Unanswerable(
            f"{sampling.dataset}: every path has probability 0. Use other sampler parameters, or other paths"
        )
    return scores


def _missing_text(
    paths: Sequence[str | os.PathLike[str]],
    indices: Int64,
    sampling: Sampling,
    root: str | os.PathLike[str] | None,
    load_dataset: Callable[[], tuple[Sequence[str], Mapping[str, Split]]],
) -> str:
    text = (
        f"{unmatched_text(paths, indices, sampling.paths)}. Use the paths of label maps, scan new label "
        'maps, or set unmatched to "skip" or "average"'
    )
    if sampling.failed:
        text += (
            f". {plural(sampling.failed, 'label map')} could not be read (see statsvc datasets "
            f"{sampling.dataset})"
        )
    split = sampling.spec.get("split")
    if split is not None:
        missing = [paths[row] for row in np.flatnonzero(indices < 0).tolist()]
        text += other_splits_text(missing, split, load_dataset, root)
    return text
