"""A class map applied to counts: which columns it reorders and which it merges.

Letters in array shapes: n samples, K output columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from msgspec import Struct

from statsvc.dataset.histogram import Histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap

    Int64 = NDArray[np.int64]

Number = TypeVar("Number", np.int64, np.float64)


class MappedColumns(Struct, frozen=True):
    """How a class map rearranges the columns of raw ids.

    class_id  int64 [K], id of each output column
    mapped    bool [K], False for raw ids that the class map does not contain
    target    int64 [raw ids], output column of each raw id; None if the columns do not change
    order     int64 [K], raw column of each output column; None if columns are merged or do not change
    """

    class_id: Int64
    mapped: NDArray[np.bool_]
    target: Int64 | None
    order: Int64 | None = None

    @classmethod
    def unchanged(cls, raw_ids: Int64) -> MappedColumns:
        """Return the columns without a class map."""
        return cls(raw_ids, np.ones(len(raw_ids), bool), None)

    @classmethod
    def of(cls, raw_ids: Int64, class_map: ClassMap) -> MappedColumns:
        """Return the columns after a class map.

        Raw ids that the map does not contain keep columns of their own, after the mapped ones.
        """
        ids, known = class_map.apply(raw_ids)
        keys = np.stack([~known, np.where(known, ids, raw_ids)], axis=1).astype(np.int64)
        unique, target = np.unique(keys, axis=0, return_inverse=True)
        target = target.reshape(-1).astype(np.int64)
        order = np.argsort(target).astype(np.int64) if len(unique) == len(raw_ids) else None
        return cls(unique[:, 1].astype(np.int64), unique[:, 0] == 0, target, order)

    def merge(self, counts: NDArray[Number]) -> NDArray[Number]:
        """Return counts [n, raw ids] as [n, K], adding the columns that share a target; exact in int64."""
        if self.target is None:
            return counts
        # Copying one column of each target together is faster than adding columns one by one.
        first = np.unique(self.target, return_index=True)[1]
        merged: NDArray[Number] = counts[:, first]
        for raw_column in np.setdiff1d(np.arange(len(self.target)), first).tolist():
            merged[:, self.target[raw_column]] += counts[:, raw_column]
        return merged

    def permute(self, totals: Histogram) -> Histogram:
        """Return a histogram over raw ids with its columns in `order`, which must not be None."""
        order = self.order
        assert order is not None
        return Histogram(
            self.class_id,
            self.mapped,
            totals.pixels[order],
            None if totals.images is None else totals.images[order],
            None if totals.cooccurrence is None else totals.cooccurrence[np.ix_(order, order)],
            totals.samples,
            None if totals.objects is None else totals.objects.take(order),
        )


def map_histogram(totals: Histogram, class_map: ClassMap) -> Histogram:
    """Return a histogram over raw ids after a class map; without presence and objects if it merges ids."""
    columns = MappedColumns.of(totals.class_id, class_map)
    if columns.order is not None:
        return columns.permute(totals)
    pixels = columns.merge(totals.pixels[None, :])[0]
    return Histogram(columns.class_id, columns.mapped, pixels, None, None, totals.samples)
