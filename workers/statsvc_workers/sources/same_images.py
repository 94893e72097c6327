"""Evidence on whether two groups of label maps with equal file names belong to the same images.

`left/0.png` and `right/0.png` are two images, `expert_a/0.png` and `expert_b/0.png` two readings of one
image, which must not be counted together. In this order, the following decides:

1. The images: each label map has an image of its own, or both share one.
2. The names: a camera, the number of a patient, the person who annotated; or names such as `2007_000032`,
   which no other image has, unlike `000`, `001`, ….
3. The pixels: label maps of one image have more in common than those of different images.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc_workers.sources.file_names import image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.sources.file_names import NamedFile

    Sample = Callable[[str], NDArray[np.int64] | None]

NAMES = 1000
"""Pairs of files whose names are compared with those of the images."""

PAIRS = 4
"""Pairs of files whose pixels are compared."""

COMMON = 0.5
"""Least mean normalized mutual information of label maps of the same images."""

EXCESS = 0.25
"""By so much it exceeds that of label maps of different images."""


class Pair(Struct, frozen=True):
    """Two groups of label maps that share file names.

    names   what distinguishes the groups, such as two folder names
    first   label maps of the first group whose counterpart is at the same position of `second`
    """

    names: tuple[str, str]
    first: Sequence[NamedFile]
    second: Sequence[NamedFile]


class Images:
    """The images of a source, by the words of their paths that name them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for path in paths:
            self._paths[image_name(path)].add(path)

    def say(self, pair: Pair) -> bool | None:
        """Whether two groups belong to the same images; None if the images do not show it."""
        own = shared = 0
        pairs = list(zip(pair.first, pair.second, strict=True))
        pairs = pairs[:: 1 + len(pairs) // NAMES]
        for files in pairs:
            names = [image_name(file.path) for file in files]
            paths = {file.path for file in files}
            if names[0] == names[1]:
                shared += self._contain(names[0], paths)
            elif all(self._contain(name, paths) for name in names):
                own += 1
            else:
                bases = (image_name(file.path, part) for file, part in zip(files, pair.names, strict=True))
                shared += any(self._contain(name, paths) for name in bases)
        if 2 * own > len(pairs):
            return False
        return True if 2 * shared > len(pairs) else None

    def _contain(self, name: tuple[str, ...], without: set[str]) -> bool:
        return bool(self._paths.get(name, set()) - without)


def pixels_agree(sample: Sample, pair: Pair) -> bool | None:
    """Whether the pixels of two groups show the same images; None if they cannot be compared.

    sample  returns some ids of a file, or None
    The normalized mutual information I(A; B) / min(H(A), H(B)) of label maps with equal names is compared
    with that of label maps with different names.
    """
    step = max(1, len(pair.first) // PAIRS)
    first, second = (
        [sample(file.path) for file in files[::step][:PAIRS]] for files in (pair.first, pair.second)
    )
    same = [information(a, b) for a, b in zip(first, second, strict=True)]
    known = [value for value in same if value is not None]
    if not known:
        return None
    shifted = [*second[1:], second[0]] if len(second) > 1 else []
    other = [value for a, b in zip(first, shifted, strict=False) if (value := information(a, b)) is not None]
    chance = float(np.mean(other)) if other else 0.0
    return float(np.mean(known)) >= max(COMMON, chance + EXCESS)


def pixels_equal(sample: Sample, pair: Pair) -> bool:
    """Whether most of the compared label maps with equal names are copies, with more than one id."""
    step = max(1, len(pair.first) // PAIRS)
    equal = []
    for a, b in list(zip(pair.first, pair.second, strict=True))[::step][:PAIRS]:
        first, second = sample(a.path), sample(b.path)
        if first is not None and first.min() != first.max():
            equal.append(second is not None and np.array_equal(first, second))
    return 2 * sum(equal) > len(equal)


def information(first: NDArray[Any] | None, second: NDArray[Any] | None) -> float | None:
    """Return I(A; B) / min(H(A), H(B)) of two label maps [n] of equal size, from 0 to 1; None without it.

    Mutual information and entropy: T. M. Cover and J. A. Thomas, Elements of Information Theory, chapter 2.
    """
    if first is None or second is None or first.shape != second.shape:
        return None
    entropies = [_entropy(np.unique(ids, return_counts=True)[1]) for ids in (first, second)]
    if not min(entropies):
        return None
    joint = _entropy(np.unique(np.stack([first, second]), axis=1, return_counts=True)[1])
    return (sum(entropies) - joint) / min(entropies)


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
