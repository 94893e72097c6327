"""Settling the number of classes, once, over the whole dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.reading import read
from statsvc.statistics import Block, Histogram, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.configuration import Configuration


class _Occurring(Table):
    """A table that knows only which raw ids occur."""

    has_rows = False

    def __init__(self, class_id: NDArray[np.int64], configuration: Configuration) -> None:
        self.dataset, self.version, self.configuration = "the dataset", None, configuration
        one_each = np.ones(len(class_id), np.int64)
        self._totals = Histogram(class_id, one_each > 0, one_each, None, None, None)

    def totals(self) -> Histogram:
        return self._totals

    def blocks(self) -> Iterator[Block]:
        return iter(())

    def failed(self) -> int:
        return 0


def settle_num_classes(class_id: NDArray[np.int64], configuration: Configuration) -> int:
    """Return the class map's number of classes, or the highest counted id + 1 where the map has none.

    class_id  int64 [K], ascending raw ids that occur
    Raises `Unanswerable` where the highest id is far from any number of classes.
    """
    return read(_Occurring(class_id, configuration)).num_classes
