"""Counts summed over samples: pixels, presence and co-occurrence of each id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.objects import ObjectTotals

    Int64 = NDArray[np.int64]

_EXACT_FLOAT64 = 2.0**53
"""Integers below this are exact in float64."""


class Histogram(Struct, frozen=True):
    """Counts summed over all samples of a table or of a split, after a class map.

    class_id      int64 [K], ids; those in the class map first, each group ascending
    mapped        bool [K], False for raw ids that the class map does not contain; True without a map
    pixels        int64 [K], pixels of each id
    images        int64 [K], number of samples in which each id occurs; None if unknown
    cooccurrence  int64 [K, K], `[c, k]` = pixels of id k in the samples that contain id c; None if unknown
    samples       number of counted samples; None if unknown
    objects       number and sizes of the objects of each id; None if unknown

    The last four are unknown in imported totals. `images`, `cooccurrence` and `objects` are also unknown if
    the totals are known only per raw id and the class map merges ids.
    """

    class_id: Int64
    mapped: NDArray[np.bool_]
    pixels: Int64
    images: Int64 | None
    cooccurrence: Int64 | None
    samples: int | None
    objects: ObjectTotals | None = None


class Aggregator:
    """Sums of pixels, presence and co-occurrence over rows that are added in blocks; exact in 64 bits."""

    def __init__(self, columns: int) -> None:
        self.pixels = np.zeros(columns, np.int64)
        self.images = np.zeros(columns, np.int64)
        self.cooccurrence = np.zeros((columns, columns), np.int64)
        self.samples = 0

    def add(self, counts: Int64) -> None:
        """Add the counts of counted samples, int64 [n, K] in pixels."""
        present = counts > 0
        self.pixels += counts.sum(axis=0)
        self.images += present.sum(axis=0)
        self.samples += len(counts)
        # float64 BLAS is exact while every sum stays below 2**53. NumPy's int64 product is always exact, but
        # about 50 times slower.
        if counts.sum(dtype=np.float64) < _EXACT_FLOAT64:
            product = present.T.astype(np.float64) @ counts.astype(np.float64)
            self.cooccurrence += product.astype(np.int64)
        else:
            self.cooccurrence += present.T.astype(np.int64) @ counts

    def histogram(self, class_id: Int64) -> Histogram:
        """Return the histogram of the added rows, whose columns have these ids, int64 [K]."""
        mapped = np.ones(len(class_id), bool)
        return Histogram(class_id, mapped, self.pixels, self.images, self.cooccurrence, self.samples)
