"""How raw ids become classes, and how far a fault moves the weights of these."""

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
"""The weights that findings are measured by: the default method, and 0 for a class without pixels."""


BYTE = 256
"""Classes that are taken for possible where the ids allow no number of classes."""


class Basis:
    """A dataset's own reading of its counts: class map, ignored ids and number of classes."""

    def __init__(self, table: Table) -> None:
        try:
            self.read = class_counts.interpret(table)
        except Unanswerable:  # ids far beyond any number of classes, which is what is to be found out
            self.read = class_counts.interpret(table, num_classes=BYTE)
        self.classes = self.read.num_classes

    def place(self, raw_ids: Int64) -> Int64:
        """Return the class of each raw id, int64 [k]; −1 for one that is ignored or unexpected."""
        ids, known = raw_ids, np.ones(len(raw_ids), bool)
        if self.read.class_map is not None:
            ids, known = self.read.class_map.apply(raw_ids)
        known = known & (ids >= 0) & (ids < self.classes)
        known &= ~np.isin(ids, np.array(self.read.ignore, np.int64))
        return np.where(known, ids, -1).astype(np.int64)

    def pixels(self, raw_ids: Int64, counts: Int64) -> Int64:
        """Return the pixels of each class, int64 [C], from those of raw ids, int64 [k] each."""
        place = self.place(raw_ids)
        found = np.zeros(self.classes, np.int64)
        np.add.at(found, place[place >= 0], counts[place >= 0])
        return found

    def name(self, class_id: int) -> str:
        """Return a class's name, or its id as text."""
        return self.read.names[class_id] if class_id < len(self.read.names) else str(class_id)

    def weights(self, pixels: Int64) -> NDArray[np.float64] | None:
        """Return the weights that pixels of classes give, float64 [C]; None where they give none."""
        ignored = np.zeros(len(pixels), bool)
        ignored[[i for i in self.read.ignore if 0 <= i < self.classes]] = True
        counts = compute.ClassCounts(pixels, ignored, float(pixels[~ignored].sum(dtype=np.float64)))
        try:
            return compute.compute_weights(counts, SPEC).weights
        except Unanswerable:
            return None

    def moved(self, before: Int64, after: Int64, among: int | None = None) -> dict[str, Any] | None:
        """Return the class whose weight changes most in proportion, with its weight before and after.

        before, after  pixels of classes, int64 [C]
        among          look at classes 0 … among−1 only
        None where one of them gives no weights, or nothing changes.
        """
        old, new = self.weights(before), self.weights(after)
        if old is None or new is None:
            return None
        old, new = old[:among], new[:among]
        larger = np.maximum(old, new)
        change = np.where(larger > 0, np.abs(new - old) / np.where(larger > 0, larger, 1.0), 0.0)
        k = int(change.argmax()) if len(change) else 0
        if not len(change) or change[k] < 1e-9:
            return None
        return {"class": k, "name": self.name(k), "weight": float(old[k]), "mended": float(new[k])}
