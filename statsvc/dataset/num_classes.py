"""Settling the number of classes, once, over the whole dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from statsvc.dataset.class_counts import interpret
from statsvc.dataset.table import Block, Histogram, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration


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


def named(configuration: Configuration, class_names: tuple[str, ...]) -> Configuration:
    """Return a configuration with the names, and so many classes, that its source gives, where it has none.

    A source gives them by its palette, or by `class_names` of the ids 0 … n−1. With a class map they are
    the map's.
    """
    if configuration.class_map is not None:
        return configuration
    classes = len(class_names)
    if (palette := configuration.counting.palette) is not None:
        class_names, classes = palette.class_names(), palette.num_classes
    if not classes:
        return configuration
    if configuration.num_classes == 0:
        configuration = replace(configuration, num_classes=max(classes, len(configuration.class_names)))
    if not configuration.class_names and len(class_names) <= configuration.num_classes:
        configuration = replace(configuration, class_names=class_names)
    return configuration


def settle_num_classes(class_id: NDArray[np.int64], configuration: Configuration) -> int:
    """Return the class map's number of classes, or the highest counted id + 1 where the map has none.

    class_id  int64 [K], ascending raw ids that occur
    Raises `Unanswerable` where the highest id is far from any number of classes.
    """
    return interpret(_Occurring(class_id, configuration)).num_classes
