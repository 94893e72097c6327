"""The table of one version: pixels of each raw id in each sample, and the aggregates that weights need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from statsvc.errors import NotFound, Unanswerable, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.splits import Split

    Int64 = NDArray[np.int64]

T = TypeVar("T")

MAX_IDS = 4096
"""Different raw ids that a label map, or a dataset, may hold: beyond that they are no classes."""

ROWS = 4096
"""How many rows `Table.sample_counts` yields at a time at most."""

EXAMPLES = 3
"""How many files an answer names as examples."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a whole table or a split of it, after a class map.

    class_id      int64 [K], ids in ascending order, mapped ones first
    mapped        bool [K], False for a raw id that the class map does not know (always True without a map)
    pixels        int64 [K], pixels of each id
    images        int64 [K], samples in which the id occurs; None where a table was imported without it
    cooccurrence  int64 [K, K], `[c, k]` = pixels of k in the samples that contain c; None as above
    samples       samples counted; None as above
    """

    class_id: Int64
    mapped: NDArray[np.bool_]
    pixels: Int64
    images: Int64 | None
    cooccurrence: Int64 | None
    samples: int | None


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a table, in path order.

    path    n relative paths
    status  uint8 [n], 0 counted, 1 unreadable
    error   n texts, empty where counted
    counts  int64 [n, K], pixels of each raw id
    """

    path: Sequence[str]
    status: NDArray[np.uint8]
    error: Sequence[str]
    counts: Int64


class Table(ABC):
    """Statistics of one version, wherever they are kept.

    dataset        name, for answers
    version        number, or None for a table that is not stored
    configuration  how the counts are read
    exact          False where the counts were taken from a sample of the dataset
    has_rows       False where only totals are known: no splits, and no map that merges presence
    """

    dataset: str
    version: int | None
    configuration: Configuration
    exact: bool = True
    has_rows: bool = True

    @abstractmethod
    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, a bounded number at a time."""

    @abstractmethod
    def failed(self) -> int:
        """Return how many samples of the whole table could not be read."""

    def why_no_rows(self) -> str:
        """Return why there are no rows, where there are none, and what to do."""
        return (
            f"{self.dataset} keeps totals only, and this needs the counts of each image: scan the label maps"
        )

    def raw_ids(self) -> Int64:
        """Return the raw id of each column of `Block.counts`, int64 [K], ascending."""
        return self.totals().class_id

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the counts of a split (default: all samples) after a class map (default: raw ids).

        Reads the rows only where the aggregates cannot answer: for a split, or where the map sends
        two ids to one and presence becomes an OR.

        Raises `NotFound` for an unknown split, `Unanswerable` where rows are needed and not kept.
        """
        totals = self.totals()
        if split is not None:
            chosen = self.split(split)
            if not self.has_rows:
                raise Unanswerable(self.why_no_rows())
        else:
            chosen = None
        if class_map is None:
            columns = _Columns(totals.class_id, np.ones(len(totals.class_id), bool), None)
            if chosen is None:
                return totals
        else:
            columns = _columns(totals.class_id, class_map)
            if chosen is None and columns.order is not None:
                return _permuted(totals, columns)
            if not self.has_rows:
                return under_map(totals, class_map)
        return aggregate(self.blocks(), columns, chosen)

    def sample_counts(
        self, split: str | None = None, class_map: ClassMap | None = None
    ) -> Iterator[tuple[list[str], Int64]]:
        """Yield the paths and counts of a split's counted samples, in path order, `ROWS` at most at a time.

        The counts are int64 [n, K], a column for each id of `histogram(split, class_map)`.

        Raises `NotFound` for an unknown split, `Unanswerable` where no rows are kept.
        """
        chosen = None if split is None else self.split(split)
        if not self.has_rows:
            raise Unanswerable(self.why_no_rows())
        for block in self.blocks():
            take = block.status == 0
            if chosen is not None:
                take &= np.fromiter((chosen.contains(str(p)) for p in block.path), bool, len(block.path))
            kept = np.flatnonzero(take)
            for start in range(0, len(kept), ROWS):
                at = kept[start : start + ROWS]
                yield [str(block.path[row]) for row in at.tolist()], self.mapped(block.counts[at], class_map)

    def mapped(self, counts: Int64, class_map: ClassMap | None) -> Int64:
        """Return counts over raw ids, int64 [n, raw], as counts over the ids of `histogram`, [n, K]."""
        return counts if class_map is None else _merge(counts, _columns(self.totals().class_id, class_map))

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`; a table that remembers makes it once for a key."""
        del key
        return make()

    def split(self, name: str) -> Split:
        """Return the split of that name. Raises `NotFound` listing those there are."""
        known = self.configuration.splits
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise NotFound(f"{self.dataset} has no split {name!r}{nearest(name, known)}; it has: {there}")
        return known[name]

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return how many samples could not be read, and (path, reason) of the first `limit` of them."""
        if self.failed() == 0:
            return 0, []
        chosen = None if split is None else self.split(split)
        count = 0
        examples: list[tuple[str, str]] = []
        for block in self.blocks():
            for row in np.flatnonzero(block.status).tolist():
                path = str(block.path[row])
                if chosen is not None and not chosen.contains(path):
                    continue
                count += 1
                if limit is None or len(examples) < limit:
                    examples.append((path, str(block.error[row])))
        return count, examples

    def samples_with(
        self, raw_ids: Sequence[int], split: str | None = None, limit: int = EXAMPLES
    ) -> dict[int, list[str]]:
        """Return for each raw id the paths of the first `limit` samples in which it occurs."""
        found: dict[int, list[str]] = {raw_id: [] for raw_id in raw_ids}
        if not self.has_rows or not found:
            return found
        chosen = None if split is None else self.split(split)
        column = {int(raw_id): k for k, raw_id in enumerate(self.raw_ids())}
        for block in self.blocks():
            wanting = [raw_id for raw_id in found if len(found[raw_id]) < limit and raw_id in column]
            if not wanting:
                break
            for raw_id in wanting:
                for row in np.flatnonzero(block.counts[:, column[raw_id]]).tolist():
                    path = str(block.path[row])
                    if chosen is None or chosen.contains(path):
                        found[raw_id].append(path)
                        if len(found[raw_id]) == limit:
                            break
        return found


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where each raw column goes under a class map.

    `order` is the permutation of raw columns where no two are merged, else None;
    `target` the output column of each raw column.
    """

    class_id: Int64
    mapped: NDArray[np.bool_]
    target: Int64 | None
    order: Int64 | None = None


def _columns(raw: Int64, class_map: ClassMap) -> _Columns:
    ids, known = class_map.apply(raw)
    # Ids that the map does not know stay apart, after the mapped ones, under their raw id.
    keys = np.stack([~known, np.where(known, ids, raw)], axis=1).astype(np.int64)
    unique, target = np.unique(keys, axis=0, return_inverse=True)
    target = target.reshape(-1).astype(np.int64)
    order = np.argsort(target).astype(np.int64) if len(unique) == len(raw) else None
    return _Columns(unique[:, 1].astype(np.int64), unique[:, 0] == 0, target, order)


def _permuted(totals: Histogram, columns: _Columns) -> Histogram:
    order = columns.order
    return Histogram(
        columns.class_id,
        columns.mapped,
        totals.pixels[order],
        None if totals.images is None else totals.images[order],
        None if totals.cooccurrence is None else totals.cooccurrence[np.ix_(order, order)],  # type: ignore[arg-type]
        totals.samples,
    )


def under_map(totals: Histogram, class_map: ClassMap) -> Histogram:
    """Return aggregates over raw ids after a class map; presence is not known where it merges ids."""
    columns = _columns(totals.class_id, class_map)
    if columns.order is not None:
        return _permuted(totals, columns)
    pixels = _merge(totals.pixels[None, :], columns)[0]
    return Histogram(columns.class_id, columns.mapped, pixels, None, None, totals.samples)


def _merge(counts: Int64, columns: _Columns) -> Int64:
    """Add up the columns of `counts` [n, raw] that share a target: [n, K], exact in int64."""
    if columns.target is None:
        return counts
    merged = np.zeros((len(counts), len(columns.class_id)), np.int64)
    for raw_column, target in enumerate(columns.target):
        merged[:, target] += counts[:, raw_column]
    return merged


class Aggregator:
    """Column sums, presence and co-occurrence of rows that arrive in blocks; exact in 64 bits."""

    def __init__(self, columns: int) -> None:
        self.pixels = np.zeros(columns, np.int64)
        self.images = np.zeros(columns, np.int64)
        self.cooccurrence = np.zeros((columns, columns), np.int64)
        self.samples = 0

    def add(self, counts: Int64) -> None:
        """Add the rows of counted samples, int64 [n, K]."""
        present = counts > 0
        self.pixels += counts.sum(axis=0)
        self.images += present.sum(axis=0)
        self.samples += len(counts)
        # float64 BLAS is exact while every sum stays below 2**53; NumPy's int64 product is
        # exact always and about 50 times slower.
        if counts.sum(dtype=np.float64) < 2.0**53:
            product = present.T.astype(np.float64) @ counts.astype(np.float64)
            self.cooccurrence += product.astype(np.int64)
        else:
            self.cooccurrence += present.T.astype(np.int64) @ counts

    def histogram(self, class_id: Int64) -> Histogram:
        """Return what was added, of columns with these ids."""
        mapped = np.ones(len(class_id), bool)
        return Histogram(class_id, mapped, self.pixels, self.images, self.cooccurrence, self.samples)


def aggregate(blocks: Iterable[Block], columns: _Columns, split: Split | None) -> Histogram:
    """Return the histogram of the blocks' counted rows that belong to the split."""
    total = Aggregator(len(columns.class_id))
    for block in blocks:
        take = block.status == 0
        if split is not None:
            take &= np.fromiter((split.contains(str(p)) for p in block.path), bool, len(block.path))
        if take.any():
            total.add(_merge(block.counts[take], columns))
    return Histogram(
        columns.class_id, columns.mapped, total.pixels, total.images, total.cooccurrence, total.samples
    )


class MemoryTable(Table):
    """A table held in memory, for counting without a store.

    raw_id  int64 [K], ascending
    counts  int64 [n, K]
    """

    def __init__(
        self,
        dataset: str,
        configuration: Configuration,
        raw_id: Int64,
        rows: Block,
        exact: bool = True,
    ) -> None:
        self.dataset, self.version = dataset, None
        self.configuration, self.exact = configuration, exact
        self.rows = rows
        columns = _Columns(raw_id, np.ones(len(raw_id), bool), None)
        self._totals = aggregate([rows], columns, None)

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        return self._totals

    def blocks(self) -> Iterator[Block]:
        """Yield all rows as one block."""
        yield self.rows

    def failed(self) -> int:
        """Return how many samples could not be read."""
        return int(np.count_nonzero(self.rows.status))
