"""Settling the number of classes, once, over the whole dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.reading import read
from statsvc.statistics import Block, MemoryTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.configuration import Configuration


def settle_num_classes(class_id: NDArray[np.int64], configuration: Configuration) -> int:
    """Return the class map's number of classes, or the highest counted id + 1 where the map has none.

    class_id  int64 [K], ascending raw ids that occur
    Raises `Unanswerable` where the highest id is far from any number of classes.
    """
    one_image = Block([""], np.zeros(1, np.uint8), [""], np.ones((1, len(class_id)), np.int64))
    return read(MemoryTable("the dataset", configuration, class_id, one_image)).num_classes
