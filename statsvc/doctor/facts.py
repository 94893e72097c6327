"""The evidence that findings are based on, gathered in one pass over the rows, a block at a time.

Memory: a few bytes per sample in addition to the version's own per-sample arrays, and a few [K, K] arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct, field

from statsvc.doctor.finding import MAX_FILES
from statsvc.doctor.interpretation import Interpretation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc.dataset.table import Block, Table

    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

AREA_SHARE = 0.01
"""Share of a label map from which an id covers an area, and not only an edge."""

MASK_SHARE = 0.05
"""Share of 255 in a label map of only 0 and 255 from which it is a mask, and 255 does not mean void."""

MAX_IDS_WITH_EXAMPLES = 64
"""Ids without a class, those with the most pixels, for which examples are collected."""

MAX_PLAUSIBLE_ID = 1000
"""Ids up to this are plausible class ids. With higher ids in use, 65535 can be one of them."""

UNSIGNED_MINUS_ONE = (2**16 - 1, 2**32 - 1)
"""−1 as an unsigned integer of 16 and of 32 bits."""

PHOTO_IDS = 64
"""Distinct ids in one label map from which it is probably an image; few scenes have 40 classes."""

PHOTO_SHARE = 0.5
"""Share of the two most frequent ids below which such a label map is an image, and not a blurred mask."""

COMMON_SIZE_SHARE = 0.9
"""Share of the samples that must have the same size for another size to be odd."""


class FileFacts(Struct, frozen=True):
    """The per-sample arrays of a version other than the counts; n samples in path order.

    path           strings [n], paths relative to the source
    status         uint8 [n], 0 for a counted sample, 1 for an unreadable one
    height, width  int64 [n], size in pixels; 0 if unknown
    mode           uint8 [n], pixel type: 1 gray, 2 palette, 3 array; 0 if unknown
    content        uint64 [n], hash of the file's bytes; 0 if unknown
    """

    path: np.ndarray[Any, Any]
    status: NDArray[np.uint8]
    height: Int64
    width: Int64
    mode: NDArray[np.uint8]
    content: NDArray[np.uint64]

    @classmethod
    def of(cls, array: Callable[[str], np.ndarray[Any, Any]]) -> FileFacts:
        """Read the arrays with `array`, which returns one by name, such as `Version.array`."""
        return cls(*(array(name) for name in cls.__struct_fields__))

    def sizes(self) -> Int64:
        """Return the width and height of each sample as one number, int64 [n]: width · 2³² + height.

        NumPy sorts plain integers without holding the GIL, and ten times as fast as pairs.
        """
        return np.asarray((self.width << 32) + self.height, np.int64)

    def first_paths(self, rows: Bool | Int64) -> tuple[str, ...]:
        """Return the paths of the first `MAX_FILES` rows, selected by a mask [n] or by indices."""
        indices = np.flatnonzero(rows) if rows.dtype == bool else rows
        return tuple(str(self.path[row]) for row in indices[:MAX_FILES].tolist())


class Facts(Struct):
    """The result of one pass over K raw ids, n samples and the T classes that occur. Counts are in pixels.

    members         split → bool [n], the samples in the split
    raw_ids         int64 [K], ascending
    pixels, images  int64 [K], total pixels of each raw id, and samples in which it occurs
    class_id        int64 [T], the classes that occur, ascending
    ids_per_sample  int64 [n], number of distinct raw ids in each sample
    never_area      bool [K], True for ids that cover less than `AREA_SHARE` of every label map
    largest_pixels  int64 [T], pixels of each class in the sample with the most pixels of it
    largest_row     int64 [T], row of that sample; −1 if there is none
    largest_counts  int64 [T, K], counts of that sample
    counted_pixels  int64 [n], pixels of classes in each sample
    histogram_hash  uint64 [n], hash of each sample's counts and size; equal histograms have equal hashes
    background_only  bool [n], samples that contain only the id 0
    consecutive     bool [n], samples whose ids, except 0 and 255, are 1 … k for some k of at least 1
    mask_share      largest share of 255 in a sample of 0 and 255
    flagged         suspicion → bool [n], the samples; `odd`, `copy`, `mask`, `swapped`, `photo`, `white`
    flagged_pixels  suspicion → int64 [K], counts of those samples
    examples        raw id → rows of its first samples, for ids that are neither a class nor ignored
    split_pixels    split → int64 [K]
    mode_pixels     pixel type → int64 [K]
    """

    table: Table
    files: FileFacts
    interpretation: Interpretation
    members: dict[str, Bool]
    raw_ids: Int64
    pixels: Int64
    images: Int64
    class_id: Int64
    ids_per_sample: Int64
    never_area: Bool
    largest_pixels: Int64
    largest_row: Int64
    largest_counts: Int64
    counted_pixels: Int64
    histogram_hash: NDArray[np.uint64]
    consecutive: Bool
    background_only: Bool
    flagged: dict[str, Bool]
    flagged_pixels: dict[str, Int64]
    examples: dict[int, list[int]] = field(default_factory=dict)
    split_pixels: dict[str, Int64] = field(default_factory=dict)
    mode_pixels: dict[int, Int64] = field(default_factory=dict)
    mask_share: float = 0.0

    @property
    def counted(self) -> int:
        """Number of counted samples."""
        return int(np.count_nonzero(self.files.status == 0))

    def class_pixels(self, raw_pixels: Int64 | None = None) -> Int64:
        """Return the pixels of each class, int64 [C], given those of raw ids, int64 [K] (default: all)."""
        return self.interpretation.class_pixels(
            self.raw_ids, self.pixels if raw_pixels is None else raw_pixels
        )

    def flagged_ids(self, suspicion: str) -> Bool:
        """Return the raw ids, bool [K], that occur only in the samples of a suspicion."""
        flagged = self.flagged_pixels[suspicion]
        return np.asarray((flagged > 0) & (flagged == self.pixels), np.bool_)

    def paths_with(self, ids: Int64) -> tuple[str, ...]:
        """Return paths of samples that contain these raw ids: the first of each id, then the second, …."""
        rows_of_ids = [self.examples.get(int(raw_id), []) for raw_id in ids]
        order = [rows[k] for k in range(MAX_FILES) for rows in rows_of_ids if k < len(rows)]
        return self.files.first_paths(np.array(list(dict.fromkeys(order)), np.int64))

    def change_without(self, raw_pixels: Int64) -> dict[str, Any] | None:
        """Return the largest change of a weight if these pixels, int64 [K], were not counted."""
        return self.interpretation.largest_change(
            self.class_pixels(), self.class_pixels(self.pixels - raw_pixels)
        )


def gather(table: Table, files: FileFacts) -> Facts:
    """Return the facts of a table with rows, in one pass over them."""
    interpretation, totals = Interpretation(table), table.totals()
    assert totals.images is not None
    raw_ids, samples = totals.class_id, len(files.path)
    class_of = interpretation.class_of(raw_ids)
    class_id = np.unique(class_of[class_of >= 0])
    splits = table.configuration.splits
    flagged = {"odd": _odd_sizes(files), "copy": _copies(files)}
    flagged |= {name: np.zeros(samples, bool) for name in ("mask", "swapped", "photo", "white")}
    facts = Facts(
        table,
        files,
        interpretation,
        {name: np.zeros(samples, bool) for name in splits},
        raw_ids,
        totals.pixels,
        totals.images,
        class_id,
        ids_per_sample=np.zeros(samples, np.int64),
        never_area=np.ones(len(raw_ids), bool),
        largest_pixels=np.zeros(len(class_id), np.int64),
        largest_row=np.full(len(class_id), -1, np.int64),
        largest_counts=np.zeros((len(class_id), len(raw_ids)), np.int64),
        counted_pixels=np.zeros(samples, np.int64),
        histogram_hash=np.zeros(samples, np.uint64),
        consecutive=np.zeros(samples, bool),
        background_only=np.zeros(samples, bool),
        flagged=flagged,
        flagged_pixels={name: np.zeros(len(raw_ids), np.int64) for name in flagged},
        examples={raw_id: [] for raw_id in _ids_to_exemplify(raw_ids, totals.pixels, class_of)},
    )
    start = 0
    for block in table.blocks():
        for name, split in splits.items():
            facts.members[name][start : start + len(block.path)] = split.select(block.path)
        _add_samples(facts, block, start, class_of)
        _add_sums(facts, block, start)
        _add_largest(facts, block, start, class_of)
        start += len(block.path)
    return facts


def _add_samples(facts: Facts, block: Block, start: int, class_of: Int64) -> None:
    """Add what is known per sample: the number of ids, areas, suspicions and examples."""
    counts, stop = block.counts, start + len(block.path)
    present, pixels = counts > 0, counts.sum(axis=1)
    ids_per_sample = present.sum(axis=1)
    facts.ids_per_sample[start:stop] = ids_per_sample
    facts.never_area &= ~(counts >= np.maximum(1, AREA_SHARE * pixels)[:, None]).any(axis=0)
    masks = _masks(facts.raw_ids, counts, ids_per_sample)
    white = counts[:, facts.raw_ids == 255].sum(axis=1)
    partly = masks & (white < pixels)
    facts.mask_share = max(facts.mask_share, *(white[partly] / pixels[partly]).tolist(), 0.0)
    facts.flagged["mask"][start:stop] = masks
    facts.flagged["white"][start:stop] = white > 0
    facts.flagged["photo"][start:stop] = _photos(counts, pixels, ids_per_sample)
    facts.counted_pixels[start:stop] = counts[:, class_of >= 0].sum(axis=1)
    facts.histogram_hash[start:stop] = _hashes(counts, facts.files, start)
    facts.consecutive[start:stop] = _consecutive(facts.raw_ids, present)
    facts.background_only[start:stop] = (pixels > 0) & (counts[:, facts.raw_ids == 0].sum(axis=1) == pixels)
    facts.flagged["swapped"][start:stop] = _swapped(facts.raw_ids, present)
    # Label maps with a single id are equal whenever their sizes are, so they do not count as copies.
    facts.flagged["copy"][start:stop] &= ids_per_sample > 1
    for raw_id, rows in facts.examples.items():
        if len(rows) < MAX_FILES:
            k = int(np.searchsorted(facts.raw_ids, raw_id))
            rows.extend((start + np.flatnonzero(present[:, k])[: MAX_FILES - len(rows)]).tolist())


def _add_sums(facts: Facts, block: Block, start: int) -> None:
    """Add the counts of the samples of each suspicion, split and pixel type."""
    counts, stop = block.counts, start + len(block.path)
    for name, flags in facts.flagged.items():
        if (flagged := flags[start:stop]).any():
            facts.flagged_pixels[name] += counts[flagged].sum(axis=0)
    for split, member in facts.members.items():
        split_pixels = counts[member[start:stop]].sum(axis=0)
        facts.split_pixels[split] = facts.split_pixels.get(split, 0) + split_pixels
    modes, is_counted = facts.files.mode[start:stop], block.status == 0
    for mode in np.unique(modes[is_counted]).tolist():
        mode_pixels = counts[(modes == mode) & is_counted].sum(axis=0)
        facts.mode_pixels[mode] = facts.mode_pixels.get(mode, 0) + mode_pixels


def _add_largest(facts: Facts, block: Block, start: int, class_of: Int64) -> None:
    """Update, for each class, the sample with the most pixels of it."""
    counts = block.counts
    column = np.searchsorted(facts.class_id, class_of)
    class_counts = np.zeros((len(counts), len(facts.class_id)), np.int64)
    for k in np.flatnonzero(class_of >= 0).tolist():
        class_counts[:, column[k]] += counts[:, k]
    row = class_counts.argmax(axis=0) if len(counts) else np.zeros(0, np.int64)
    largest = class_counts[row, np.arange(len(row))]
    for k in np.flatnonzero(largest > facts.largest_pixels).tolist():
        facts.largest_pixels[k], facts.largest_row[k] = largest[k], start + row[k]
        facts.largest_counts[k] = counts[row[k]]


def _ids_to_exemplify(raw_ids: Int64, pixels: Int64, class_of: Int64) -> list[int]:
    """Return the ids with the most pixels that have no class or look like −1 in an unsigned type."""
    candidates = np.flatnonzero(((class_of < 0) | np.isin(raw_ids, UNSIGNED_MINUS_ONE)) & (pixels > 0))
    most_pixels = candidates[np.argsort(-pixels[candidates], kind="stable")[:MAX_IDS_WITH_EXAMPLES]]
    ids: list[int] = raw_ids[most_pixels].tolist()
    return ids


def _masks(raw_ids: Int64, counts: Int64, ids_per_sample: Int64) -> Bool:
    """Return which rows contain 255 and, except 0, nothing else."""
    extremes = np.isin(raw_ids, (0, 255))
    white = counts[:, raw_ids == 255].sum(axis=1)
    no_other_ids = ids_per_sample == (counts[:, extremes] > 0).sum(axis=1)
    return np.asarray(no_other_ids & (white > 0), np.bool_)


def _photos(counts: Int64, pixels: Int64, ids_per_sample: Int64) -> Bool:
    """Return which rows have as many ids as an image, none of them frequent."""
    photos = ids_per_sample >= PHOTO_IDS
    if photos.any():
        frequent = np.sort(counts[photos], axis=1)[:, -2:].sum(axis=1)
        photos[photos] = frequent < PHOTO_SHARE * pixels[photos]
    return np.asarray(photos, np.bool_)


def _hashes(counts: Int64, files: FileFacts, start: int) -> NDArray[np.uint64]:
    """Return a hash of the counts and the size of each row, uint64 [rows]."""
    factors = np.random.default_rng(0).integers(0, 2**63, counts.shape[1] + 1, np.uint64) * 2 + 1
    sizes = (files.height * files.width)[start : start + len(counts)].astype(np.uint64)
    return np.asarray(counts.astype(np.uint64) @ factors[:-1] + sizes * factors[-1], np.uint64)


def _consecutive(raw_ids: Int64, present: Bool) -> Bool:
    """Return which rows have the ids 1 … k, besides 0 and 255, for some k."""
    numbered = ~np.isin(raw_ids, (0, 255))
    ids = raw_ids[numbered]
    if not len(ids):
        return np.zeros(len(present), bool)
    count = present[:, numbered].sum(axis=1)
    highest = np.where(present[:, numbered], ids, 0).max(axis=1)
    lowest = np.where(present[:, numbered], ids, np.iinfo(np.int64).max).min(axis=1)
    return np.asarray((count > 0) & (lowest == 1) & (highest == count), np.bool_)


def _swapped(raw_ids: Int64, present: Bool) -> Bool:
    """Return which rows contain, except 0, only multiples of 256: small ids in the other byte order."""
    others = raw_ids % 256 != 0
    multiples = present[:, ~others & (raw_ids != 0)]
    return np.asarray(multiples.any(axis=1) & ~present[:, others].any(axis=1), np.bool_)


def _odd_sizes(files: FileFacts) -> Bool:
    """Return which samples differ in size from nearly all others; none if sizes vary."""
    known = (files.status == 0) & (files.height > 0)
    sizes = files.sizes()
    unique, count = np.unique(sizes[known], return_counts=True)
    if not len(unique) or count.max() < COMMON_SIZE_SHARE * known.sum():
        return np.zeros(len(known), bool)
    return np.asarray(known & (sizes != unique[count.argmax()]), np.bool_)


def _copies(files: FileFacts) -> Bool:
    """Return which samples have the same bytes as an earlier one."""
    _, first = np.unique(files.content, return_index=True)
    copies: Bool = (files.status == 0) & (files.content != 0)
    copies[first] = False
    return copies
