"""A version's table that remembers what was read from it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from statsvc.api.state.lru import Lru
from statsvc.dataset.table import EXAMPLES, T, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.table import Block, Histogram
    from statsvc.store.versions.version import Version

HISTOGRAM_BYTES = 64 * 2**20
"""How much one version's histograms may take in memory; a common one takes a few kilobytes."""

DERIVED = 32
"""Other values kept of one version, such as what a sampler draws; each a few arrays over the classes."""


class RememberedTable(Table):
    """A stored version whose histograms and examples are read from the rows once.

    Safe between threads; a second thread waits for the first one's read instead of reading as well.
    """

    def __init__(self, stored: Version) -> None:
        self.stored = stored
        self.dataset, self.version = stored.dataset, stored.version
        self.configuration, self.has_rows = stored.configuration, stored.has_rows
        self._reading = threading.RLock()
        self._histograms: Lru[tuple[str | None, ClassMap | None], Histogram] = Lru(HISTOGRAM_BYTES, _bytes)
        self._derived: Lru[Hashable, Any] = Lru(DERIVED)
        self._examples: Lru[tuple[tuple[int, ...], str | None, int], dict[int, list[str]]] = Lru(64)

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        return self.stored.totals()

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, one chunk at a time."""
        return self.stored.blocks()

    def failed(self) -> int:
        """Return how many samples could not be read."""
        return self.stored.failed()

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the counts of a split after a class map, as `Table.histogram`."""
        with self._reading:
            found = self._histograms.get((split, class_map))
            if found is None:
                found = self.stored.histogram(split, class_map)
                self._histograms.put((split, class_map), found)
            return found

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, made once for a key."""
        with self._reading:
            found: T | None = self._derived.get(key)
            if found is None:
                found = make()
                self._derived.put(key, found)
            return found

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
        with self._reading:
            found = self._examples.get(key)
            if found is None:
                found = self.stored.samples_with(raw_ids, split, limit)
                self._examples.put(key, found)
            return found


def _bytes(histogram: Histogram) -> int:
    arrays = (
        histogram.class_id,
        histogram.mapped,
        histogram.pixels,
        histogram.images,
        histogram.cooccurrence,
    )
    return sum(array.nbytes for array in arrays if array is not None)
