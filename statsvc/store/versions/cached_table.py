"""A stored version that caches what is computed from its rows."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

from statsvc.common.lru import Lru
from statsvc.dataset.table import EXAMPLES, T, Table
from statsvc.store.versions.row_access import may_read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.grid import Cells, Grid
    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.objects import Objects
    from statsvc.dataset.table import Block, Int64
    from statsvc.store.versions.version import Version

HISTOGRAM_BYTES = 64 * 2**20
"""Size limit of cached histograms in bytes; that of 150 ids takes 180 kB."""

MAX_DERIVED = 32
"""Other cached values of one version, such as sampling plans; each is a few arrays over the classes."""

MAX_EXAMPLES = 64
"""Cached lists of example samples of one version."""


HistogramCache: TypeAlias = "Lru[tuple[Hashable, str | None, ClassMap | None], Histogram]"
"""Histograms by version, split and class map."""


def histogram_cache() -> HistogramCache:
    """Return an empty cache of at most `HISTOGRAM_BYTES`."""
    return Lru(HISTOGRAM_BYTES, _size)


class CachedTable(Table):
    """A stored version that computes each histogram and list of examples from its rows once.

    Thread-safe: a second thread waits for the result of the first one, unless it must not read rows.

    histograms  cache that several versions share; by default, this version has its own
    key         identifies the version in it
    """

    def __init__(
        self, stored: Version, histograms: HistogramCache | None = None, key: Hashable = None
    ) -> None:
        self.stored, self._key = stored, key
        self.dataset, self.version = stored.dataset, stored.version
        self.configuration, self.has_rows = stored.configuration, stored.has_rows
        self.sampled_from = stored.sampled_from
        self._reading = threading.RLock()
        self._histograms = histogram_cache() if histograms is None else histograms
        self._derived: Lru[Hashable, Any] = Lru(MAX_DERIVED)
        self._examples: Lru[tuple[tuple[int, ...], str | None, int], dict[int, list[str]]] = Lru(MAX_EXAMPLES)

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        return self.stored.totals()

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, one chunk at a time."""
        return self.stored.blocks()

    @property
    def grid(self) -> Grid | None:
        """The grid of the version, as `Table.grid`."""
        return self.stored.grid

    def placed_blocks(self) -> Iterator[tuple[Block, Int64, Cells]]:
        """Yield all rows with their places and their histograms on the grid, as `Table.placed_blocks`."""
        return self.stored.placed_blocks()

    @property
    def has_objects(self) -> bool:
        """Whether the objects of each counted sample are known."""
        return self.stored.has_objects

    def object_blocks(self) -> Iterator[tuple[Block, Objects | None]]:
        """Yield all rows with their objects, as `Table.object_blocks`."""
        return self.stored.object_blocks()

    def why_no_grid(self) -> str:
        """Return why there is no grid, as `Table.why_no_grid`."""
        return self.stored.why_no_grid()

    def failed(self) -> int:
        """Return the number of samples that could not be read."""
        return self.stored.failed()

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the counts of a split after a class map, as `Table.histogram`."""
        key = self._key, split, class_map
        if (known := self._histograms.get(key)) is not None:
            return known
        with self._computing():
            histogram = self._histograms.get(key)
            if histogram is None:
                histogram = self.stored.histogram(split, class_map)
                self._histograms.put(key, histogram)
            return histogram

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, computed once for each key."""
        known: T | None = self._derived.get(key)
        if known is not None:
            return known
        with self._computing():
            value: T | None = self._derived.get(key)
            if value is None:
                value = make()
                self._derived.put(key, value)
            return value

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute one thing at a time; what needs no rows is quick, and does not wait for what does."""
        with self._reading if may_read_rows.get() else nullcontext():
            yield

    def why_no_rows(self) -> str:
        """Return why there are no rows, as `Table.why_no_rows`."""
        return self.stored.why_no_rows()

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return the unreadable samples, as `Table.failures`."""
        return self.stored.failures(split, limit)

    def samples_with(
        self, raw_ids: Sequence[int], split: str | None = None, limit: int = EXAMPLES
    ) -> dict[int, list[str]]:
        """Return example samples of raw ids, as `Table.samples_with`."""
        key = (tuple(raw_ids), split, limit)
        with self._computing():
            examples = self._examples.get(key)
            if examples is None:
                examples = self.stored.samples_with(raw_ids, split, limit)
                self._examples.put(key, examples)
            return examples


def _size(histogram: Histogram) -> int:
    arrays = (
        histogram.class_id,
        histogram.mapped,
        histogram.pixels,
        histogram.images,
        histogram.cooccurrence,
        None if histogram.objects is None else histogram.objects.sizes,
    )
    return sum(array.nbytes for array in arrays if array is not None)
