"""The same label map in two splits after it was written again or mirrored: equal histograms, equal pixels."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.plurals import plural_with_verb
from statsvc.doctor.files import disjoint_splits
from statsvc.doctor.finding import MAX_FILES, NOTICE, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.doctor.edges import ReadPixels
    from statsvc.doctor.facts import Facts

MAX_READ = 64
"""Maximum number of label maps that are read."""

MAX_PIXELS = 1 << 24
"""Pixels of the largest label map that is read."""

MAX_SAME = 16
"""Label maps of one histogram that are compared with another one."""

MIN_IDS = 3
"""Ids of a label map below which an equal histogram alone can be chance."""

MIN_PIXELS = 4096
"""Pixels of a label map below which an equal histogram alone can be chance."""

Pair = tuple[int, int]


def repeated(facts: Facts, read_pixels: ReadPixels | None) -> Iterator[Finding]:
    """Yield a finding for each pair of splits that share label maps with different bytes.

    The pixels of up to `MAX_READ` label maps are compared. Pairs that cannot be read are a notice if their
    histograms have several ids and many pixels.
    """
    reader = None if read_pixels is None else _Reader(facts, read_pixels)
    for split, other_split in disjoint_splits(list(facts.members)):
        confirmed: list[tuple[Pair, str]] = []
        unread: list[Pair] = []
        for rows, other in _candidates(facts, split, other_split):
            found = [None if reader is None else reader.relation(row, other) for row in rows[:MAX_SAME]]
            equal = next(((row, how) for row, how in zip(rows, found, strict=False) if how), None)
            if equal is not None:
                confirmed.append(((equal[0], other), equal[1]))
            elif None in found and _is_significant(facts, other):
                unread.append((rows[0], other))
        if confirmed:
            texts = [f"{_names(facts, pair)} ({how})" for pair, how in confirmed]
            yield _finding(facts, split, other_split, [pair for pair, _ in confirmed], texts, SERIOUS)
        elif unread:
            texts = [f"{_names(facts, pair)} (equal histograms)" for pair in unread]
            yield _finding(facts, split, other_split, unread, texts, NOTICE)


def _finding(
    facts: Facts, split: str, other: str, pairs: list[Pair], texts: list[str], level: str
) -> Finding:
    verb = plural_with_verb(len(pairs), "label map", "is", "are")
    certainty = f"{verb} in both" if level == SERIOUS else f"{verb} probably in both"
    paths = dict.fromkeys(str(facts.files.path[row]) for pair in pairs for row in pair)
    return Finding(
        "leakage",
        level,
        f"{certainty} {split} and {other}, although the files differ: {list_first(texts, 3)}. A model has "
        f"already seen these images, so scores on {other} are too optimistic.",
        f"Compare the images, and remove them from {split}.",
        tuple(paths)[:MAX_FILES],
        len(pairs),
    )


def _candidates(facts: Facts, split: str, other: str) -> Iterator[tuple[list[int], int]]:
    """Yield (rows, other row) of label maps of two splits with equal histograms and different bytes."""
    usable = (facts.files.status == 0) & (facts.ids_per_sample > 1) & (facts.files.height > 0)
    rows, others = (np.flatnonzero(usable & facts.members[name]) for name in (split, other))
    hashes = facts.histogram_hash
    content = facts.files.content
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        rows_of[int(hashes[row])].append(row)
    for row in others.tolist():
        same = rows_of.get(int(hashes[row]), [])
        # Equal bytes, and the same file in both splits, are findings of `leakage`.
        if same and not any(match == row or content[match] == content[row] != 0 for match in same):
            yield same, row


class _Reader:
    """Compares the pixels of label maps; each is read once, up to `MAX_READ` of them."""

    def __init__(self, facts: Facts, read_pixels: ReadPixels) -> None:
        self.facts, self.read_pixels = facts, read_pixels
        self._pixels: dict[int, NDArray[Any] | None] = {}

    def relation(self, row: int, other: int) -> str | None:
        """Return how two label maps are equal, "" if they are not, and None if they cannot be read."""
        first, second = self._read(row), self._read(other)
        return None if first is None or second is None else _relation(first, second)

    def _read(self, row: int) -> NDArray[Any] | None:
        if row not in self._pixels:
            pixels = self.facts.files.height[row] * self.facts.files.width[row]
            if len(self._pixels) >= MAX_READ or pixels > MAX_PIXELS:
                return None
            self._pixels[row] = _pixels(self.facts, row, self.read_pixels)
        return self._pixels[row]


def _relation(first: NDArray[Any], second: NDArray[Any]) -> str:
    """Return how two label maps are equal; "" if they are not."""
    variants = {
        "equal pixels": second,
        "mirrored": second[:, ::-1],
        "flipped": second[::-1],
        "rotated by 180°": second[::-1, ::-1],
        "transposed": second.T,
        "rotated by 90°": np.rot90(second),
        "rotated by 270°": np.rot90(second, -1),
    }
    return next((how for how, pixels in variants.items() if np.array_equal(first, pixels)), "")


def _pixels(facts: Facts, row: int, read_pixels: ReadPixels) -> NDArray[Any] | None:
    blocks = list(read_pixels(str(facts.files.path[row])))
    shape = int(facts.files.height[row]), int(facts.files.width[row])
    if sum(block.size for block in blocks) != shape[0] * shape[1]:
        return None
    return np.concatenate([block.reshape(-1) for block in blocks]).reshape(shape)


def _is_significant(facts: Facts, row: int) -> bool:
    pixels = int(facts.files.height[row] * facts.files.width[row])
    return bool(facts.ids_per_sample[row] >= MIN_IDS and pixels >= MIN_PIXELS)


def _names(facts: Facts, pair: Pair) -> str:
    return " = ".join(str(facts.files.path[row]) for row in pair)
