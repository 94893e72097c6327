"""What findings follow from: one pass over the rows, a block at a time.

Memory: a few bytes a sample beside the version's own per-sample arrays, and a few arrays [K, K] at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.doctor.basis import Basis
from statsvc.doctor.finding import NAMED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.dataset.table import Block, Table

    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

BIG = 0.01
"""Share of a label map from which an id in it is more than an edge."""

MASK = 0.05
"""Share of 255 in a map of 0 and 255 alone from which it is a mask and not void."""

WITH_EXAMPLES = 64
"""Ids that are no class, those with most pixels, of which files are named."""

UNSIGNED_MINUS_ONE = (2**16 - 1, 2**32 - 1)

COMMON = 0.9
"""Share of the samples that have one size where the others are odd."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a version keeps of each of its n samples beside counts; see `docs/how-it-works.md`.

    path [n] texts, status uint8 [n], height and width int64 [n] (0 where unknown), mode uint8 [n],
    content uint64 [n] (0 where unknown)
    """

    path: np.ndarray[Any, Any]
    status: NDArray[np.uint8]
    height: Int64
    width: Int64
    mode: NDArray[np.uint8]
    content: NDArray[np.uint64]

    @classmethod
    def of(cls, array: Callable[[str], np.ndarray[Any, Any]]) -> FileFacts:
        """Read the arrays that `array` returns by name, such as `Version.array`."""
        return cls(*(array(name) for name in cls.__slots__))

    def named(self, rows: Bool | Int64) -> tuple[str, ...]:
        """Return the paths of the first rows, chosen by a mask [n] or by index."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        return tuple(str(self.path[row]) for row in index[:NAMED].tolist())


@dataclass(slots=True)
class Facts:
    """What one pass found; K raw ids, n samples, T classes that occur.

    members        split → bool [n], the samples that belong
    ids_in         int64 [n], different ids in each sample
    examples       raw id → rows of the first samples with it, of ids that are neither class nor ignored
    never_big      bool [K], ids that nowhere cover `BIG` of a label map
    split_pixels   split → int64 [K]
    mode_pixels    pixel type → int64 [K]
    flagged        name of a suspicion → bool [n]: `odd`, `copy`, `mask`, `swapped`
    flagged_pixels  the same → int64 [K], pixels of its samples
    class_id       int64 [T]
    most, most_row  int64 [T], pixels of each class in the sample that has most of it, and its row
    most_counts    int64 [T, K], that sample's counts
    """

    table: Table
    files: FileFacts
    basis: Basis
    members: dict[str, Bool]
    raw_ids: Int64
    pixels: Int64
    images: Int64
    class_id: Int64
    ids_in: Int64
    never_big: Bool
    most: Int64
    most_row: Int64
    most_counts: Int64
    flagged: dict[str, Bool]
    flagged_pixels: dict[str, Int64]
    examples: dict[int, list[int]] = field(default_factory=dict)
    split_pixels: dict[str, Int64] = field(default_factory=dict)
    mode_pixels: dict[int, Int64] = field(default_factory=dict)

    @property
    def counted(self) -> int:
        """How many samples were counted."""
        return int(np.count_nonzero(self.files.status == 0))

    def class_pixels(self, raw_pixels: Int64 | None = None) -> Int64:
        """Return the pixels of each class, int64 [C], from those of raw ids (default: all)."""
        return self.basis.pixels(self.raw_ids, self.pixels if raw_pixels is None else raw_pixels)

    def moved_without(self, raw_pixels: Int64) -> dict[str, Any] | None:
        """Return how the weights move where these pixels, int64 [K], are left out."""
        return self.basis.moved(self.class_pixels(), self.class_pixels(self.pixels - raw_pixels))


def gather(table: Table, files: FileFacts) -> Facts:
    """Go over the rows of a table that has them, once."""
    basis, totals = Basis(table), table.totals()
    assert totals.images is not None
    raw_ids, samples = totals.class_id, len(files.path)
    place = basis.place(raw_ids)
    class_id = np.unique(place[place >= 0])
    known = table.configuration.splits
    paths = files.path.tolist()
    flagged = {"odd": _odd(files), "copy": _copies(files)}
    flagged |= {name: np.zeros(samples, bool) for name in ("mask", "swapped")}
    facts = Facts(
        table,
        files,
        basis,
        {name: np.fromiter(map(split.contains, paths), bool, samples) for name, split in known.items()},
        raw_ids,
        totals.pixels,
        totals.images,
        class_id,
        ids_in=np.zeros(samples, np.int64),
        never_big=np.ones(len(raw_ids), bool),
        most=np.zeros(len(class_id), np.int64),
        most_row=np.full(len(class_id), -1, np.int64),
        most_counts=np.zeros((len(class_id), len(raw_ids)), np.int64),
        flagged=flagged,
        flagged_pixels={name: np.zeros(len(raw_ids), np.int64) for name in flagged},
        examples={raw_id: [] for raw_id in _unplaced(raw_ids, totals.pixels, place)},
    )
    target = np.searchsorted(class_id, place)
    start = 0
    for block in table.blocks():
        _add(facts, block, start, place, target)
        start += len(block.path)
    return facts


def _add(facts: Facts, block: Block, start: int, place: Int64, target: Int64) -> None:
    counts, stop = block.counts, start + len(block.path)
    present = counts > 0
    pixels = counts.sum(axis=1)
    facts.ids_in[start:stop] = present.sum(axis=1)
    facts.never_big &= ~(counts >= np.maximum(1, BIG * pixels)[:, None]).any(axis=0)
    facts.flagged["mask"][start:stop] = _masks(facts.raw_ids, counts, pixels, facts.ids_in[start:stop])
    facts.flagged["swapped"][start:stop] = _swapped(facts.raw_ids, present)
    # A map of one id is the same as every other of its size: that is no copy.
    facts.flagged["copy"][start:stop] &= facts.ids_in[start:stop] > 1
    for name, rows in facts.flagged.items():
        if (chosen := rows[start:stop]).any():
            facts.flagged_pixels[name] += counts[chosen].sum(axis=0)
    for split, member in facts.members.items():
        inside = counts[member[start:stop]].sum(axis=0)
        facts.split_pixels[split] = facts.split_pixels.get(split, 0) + inside
    for mode in np.unique(facts.files.mode[start:stop][block.status == 0]).tolist():
        inside = counts[(facts.files.mode[start:stop] == mode) & (block.status == 0)].sum(axis=0)
        facts.mode_pixels[mode] = facts.mode_pixels.get(mode, 0) + inside
    for raw_id, found in facts.examples.items():
        if len(found) < NAMED:
            k = int(np.searchsorted(facts.raw_ids, raw_id))
            found.extend((start + np.flatnonzero(present[:, k])[: NAMED - len(found)]).tolist())
    merged = np.zeros((len(counts), len(facts.class_id)), np.int64)
    for k in np.flatnonzero(place >= 0).tolist():
        merged[:, target[k]] += counts[:, k]
    row = merged.argmax(axis=0) if len(merged) else np.zeros(0, np.int64)
    for k in np.flatnonzero(merged[row, np.arange(len(row))] > facts.most).tolist():
        facts.most[k], facts.most_row[k] = merged[row[k], k], start + row[k]
        facts.most_counts[k] = counts[row[k]]


def _unplaced(raw_ids: Int64, pixels: Int64, place: Int64) -> list[int]:
    """Return the ids that are no class or look like −1 in another type, those with most pixels."""
    which = np.flatnonzero(((place < 0) | np.isin(raw_ids, UNSIGNED_MINUS_ONE)) & (pixels > 0))
    most = which[np.argsort(-pixels[which], kind="stable")[:WITH_EXAMPLES]]
    found: list[int] = raw_ids[most].tolist()
    return found


def _masks(raw_ids: Int64, counts: Int64, pixels: Int64, ids_in: Int64) -> Bool:
    """Return which rows hold 0 and 255 alone, with more 255 than void would be."""
    ends = np.isin(raw_ids, (0, 255))
    white = counts[:, raw_ids == 255].sum(axis=1)
    alone = ids_in == (counts[:, ends] > 0).sum(axis=1)
    return np.asarray(alone & (white >= np.maximum(1, MASK * pixels)), np.bool_)


def _swapped(raw_ids: Int64, present: Bool) -> Bool:
    """Return which rows hold, beside 0, multiples of 256 alone: what ids are in the other byte order."""
    other = raw_ids % 256 != 0
    multiples = present[:, ~other & (raw_ids != 0)]
    return np.asarray(multiples.any(axis=1) & ~present[:, other].any(axis=1), np.bool_)


def _odd(files: FileFacts) -> Bool:
    """Return which samples have another size than nearly all others; none where sizes vary."""
    there = (files.status == 0) & (files.height > 0)
    sizes = np.stack([files.height, files.width], axis=1)
    unique, count = np.unique(sizes[there], axis=0, return_counts=True)
    if not len(unique) or count.max() < COMMON * there.sum():
        return np.zeros(len(there), bool)
    return np.asarray(there & (sizes != unique[count.argmax()]).any(axis=1), np.bool_)


def _copies(files: FileFacts) -> Bool:
    """Return which samples have the bytes of one before."""
    _, first = np.unique(files.content, return_index=True)
    copies: Bool = (files.status == 0) & (files.content != 0)
    copies[first] = False
    return copies
