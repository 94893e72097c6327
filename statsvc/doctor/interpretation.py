"""The dataset's own interpretation of raw ids, and the effect of a fault on the class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import class_counts
from statsvc.errors import Unanswerable
from statsvc.weighting import compute
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.table import Table

    Int64 = NDArray[np.int64]

SPEC = WeightSpec(absent="zero")
"""Weights that measure a finding: the default method, with weight 0 for classes without pixels."""

FALLBACK_CLASSES = 256
"""Number of classes to assume if it cannot be inferred from the ids: all values of a byte."""

MIN_CHANGE = 1e-9
"""Smallest relative change of a weight that is not a rounding error."""


class Interpretation:
    """The dataset's class map, ignored ids and number of classes C, and the weights that result."""

    def __init__(self, table: Table) -> None:
        try:
            self.counts = class_counts.interpret(table)
        except Unanswerable:  # ids far above any number of classes: a fault that findings must report
            self.counts = class_counts.interpret(table, num_classes=FALLBACK_CLASSES)
        self.classes = self.counts.num_classes

    def class_of(self, raw_ids: Int64) -> Int64:
        """Return the class of each raw id, int64 [k]; −1 for an ignored or unexpected id."""
        ids, known = raw_ids, np.ones(len(raw_ids), bool)
        if self.counts.class_map is not None:
            ids, known = self.counts.class_map.apply(raw_ids)
        known = known & (ids >= 0) & (ids < self.classes)
        known &= ~np.isin(ids, np.array(self.counts.ignore, np.int64))
        return np.where(known, ids, -1).astype(np.int64)

    def class_pixels(self, raw_ids: Int64, raw_pixels: Int64) -> Int64:
        """Return the pixels of each class, int64 [C], given raw ids and their pixels, int64 [k] each."""
        class_of = self.class_of(raw_ids)
        pixels = np.zeros(self.classes, np.int64)
        np.add.at(pixels, class_of[class_of >= 0], raw_pixels[class_of >= 0])
        return pixels

    def name(self, class_id: int) -> str:
        """Return the name of a class, or its id as text if it has no name."""
        return self.counts.names[class_id] if class_id < len(self.counts.names) else str(class_id)

    def weights(self, pixels: Int64) -> NDArray[np.float64] | None:
        """Return the weights, float64 [c], of classes with these pixels, int64 [c]; None if undefined."""
        ignored = np.zeros(len(pixels), bool)
        ignored[[i for i in self.counts.ignore if 0 <= i < self.classes]] = True
        counts = compute.ClassCounts(pixels, ignored, float(pixels[~ignored].sum(dtype=np.float64)))
        try:
            return compute.compute_weights(counts, SPEC).weights
        except Unanswerable:
            return None

    def largest_change(
        self, before: Int64, after: Int64, num_classes: int | None = None
    ) -> dict[str, Any] | None:
        """Return the class whose weight changes most, relative to the larger weight, as `Finding.moves`.

        before, after  pixels of the classes with and without the fault, int64 [c] each
        num_classes    consider only the first classes; None for all

        Returns None if the weights are undefined, or none of them changes.
        """
        old, new = self.weights(before), self.weights(after)
        if old is None or new is None:
            return None
        old, new = old[:num_classes], new[:num_classes]
        larger = np.maximum(old, new)
        change = np.where(larger > 0, np.abs(new - old) / np.where(larger > 0, larger, 1.0), 0.0)
        k = int(change.argmax()) if len(change) else 0
        if not len(change) or change[k] < MIN_CHANGE:
            return None
        return self.weight_change(k, old, new)

    def weight_change(
        self, class_id: int, before: NDArray[np.float64], after: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Return the weight of one class before and after a fix, as `Finding.moves`."""
        return {
            "class": class_id,
            "name": self.name(class_id),
            "weight": float(before[class_id]),
            "mended": float(after[class_id]),
        }
