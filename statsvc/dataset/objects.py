"""Objects: how many instances of each class the samples contain, and how large they are.

A source knows its objects where its files number them: segments of COCO panoptic, annotations of COCO
instances, and instance ids such as those of Cityscapes. The size of an object is its number of pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.dataset.grid import entries_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

SIZES = 50
"""Number of size classes: class k has the objects of 2^k to 2^(k+1) − 1 pixels."""

STRIDES = (16, 32)
"""Strides of common networks: an object of fewer than stride² pixels can be smaller than one output cell."""

UNKNOWN = -1
"""The number of objects of a sample whose source does not number them."""

_BUFFERED = 1 << 20
"""Objects that an `ObjectAggregator` collects before it sorts them."""


class Objects(Struct, frozen=True):
    """The objects of consecutive samples.

    lengths   int64 [n], number of objects of each sample; `UNKNOWN` where the source does not number them
    class_id  int64 [e], raw id of each object; objects are in the order of samples, ids and sizes
    pixels    int64 [e], size of each object in pixels, at least 1
    """

    lengths: Int64
    class_id: Int64
    pixels: Int64

    @property
    def row(self) -> Int64:
        """The sample of each object, int64 [e]."""
        return np.repeat(np.arange(len(self.lengths)), np.maximum(self.lengths, 0))

    def take(self, rows: NDArray[Any]) -> Objects:
        """Return the objects of some samples, in this order."""
        entries = entries_of(np.maximum(self.lengths, 0), rows)
        return Objects(self.lengths[rows], self.class_id[entries], self.pixels[entries])

    def dense(self, class_id: Int64) -> Int64:
        """Return the number of objects over ascending ids that include theirs, int64 [n, K]."""
        dense = np.zeros((len(self.lengths), len(class_id)), np.int64)
        np.add.at(dense, (self.row, np.searchsorted(class_id, self.class_id)), 1)
        return dense


def unknown(samples: int) -> Objects:
    """Return what is known about the objects of samples whose source does not number them."""
    empty = np.zeros(0, np.int64)
    return Objects(np.full(samples, UNKNOWN), empty, empty)


def concatenate(parts: Sequence[Objects]) -> Objects:
    """Return the objects of all parts, in order."""
    parts = [unknown(0), *parts]
    return Objects(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("lengths", "class_id", "pixels")
        )
    )


class ObjectTotals(Struct, frozen=True):
    """The objects of each of K ids in all samples of a table or split.

    sizes     int64 [K, `SIZES`], objects of 2^k to 2^(k+1) − 1 pixels
    smallest  int64 [K], size of the smallest object in pixels; 0 without objects
    median    float64 [K], median size in pixels; 0 without objects
    """

    sizes: Int64
    smallest: Int64
    median: NDArray[np.float64]

    @property
    def count(self) -> Int64:
        """Number of objects of each id, int64 [K]."""
        return np.asarray(self.sizes.sum(axis=1), np.int64)

    def below(self, stride: int) -> Int64:
        """Return the number of objects of fewer than stride² pixels of each id, int64 [K].

        stride  a power of two, so that the number follows from the size classes
        """
        return np.asarray(self.sizes[:, : 2 * (stride.bit_length() - 1)].sum(axis=1), np.int64)

    def take(self, columns: Int64) -> ObjectTotals:
        """Return the totals of some ids, in this order."""
        return ObjectTotals(self.sizes[columns], self.smallest[columns], self.median[columns])


class ObjectAggregator:
    """Totals of objects that are added in blocks; exact.

    Memory grows with the number of distinct pairs of id and size, not with the number of objects.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._added: list[Int64] = []
        self._waiting = 0

    def add(self, column: Int64, pixels: Int64) -> None:
        """Add objects by their columns, 0 to K − 1, and sizes in pixels, int64 [e] each."""
        # At most 4096 columns, and sizes below 2 ** SIZES, so a key fits into 62 bits.
        self._added.append((column << SIZES) | pixels)
        self._waiting += len(column)
        # Sorting when as many have been added as there are keys keeps the total effort linear.
        if self._waiting > max(_BUFFERED, len(self._keys)):
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, *self._added])
        counts = np.ones(len(keys), np.int64)
        counts[: len(self._counts)] = self._counts
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys, self._counts = keys[first], np.add.reduceat(counts, first) if len(first) else counts
        self._added, self._waiting = [], 0

    def totals(self) -> ObjectTotals:
        """Return the totals of all added objects."""
        self._merge()
        column, pixels = self._keys >> SIZES, self._keys & ((1 << SIZES) - 1)
        sizes = np.zeros((self._columns, SIZES), np.int64)
        # frexp is exact below 2 ** 53: pixels = fraction * 2 ** exponent with a fraction from 0.5 to 1.
        np.add.at(sizes, (column, np.frexp(pixels.astype(np.float64))[1] - 1), self._counts)
        count = sizes.sum(axis=1)
        smallest, median = np.zeros(self._columns, np.int64), np.zeros(self._columns)
        some = np.flatnonzero(count)
        smallest[some] = pixels[np.searchsorted(column, some)]
        # The objects in order of column and size: those in the middle of each column.
        up_to, before = np.cumsum(self._counts), np.cumsum(count) - count
        middle = [
            pixels[np.searchsorted(up_to, before[some] + position[some], side="right")]
            for position in ((count - 1) // 2, count // 2)
        ]
        median[some] = (middle[0] + middle[1]) / 2
        return ObjectTotals(sizes, smallest, median)
