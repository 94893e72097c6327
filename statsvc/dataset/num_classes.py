"""Inference of the number of classes from the class map, the source, or the ids that occur.

It is inferred once, at the first scan of a dataset, over all samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from statsvc.dataset.class_counts import interpret
from statsvc.dataset.histogram import Histogram
from statsvc.dataset.table import Block, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration


class _OccurringIds(Table):
    """A table that knows only which raw ids occur: each has one pixel."""

    has_rows = False

    def __init__(self, class_id: NDArray[np.int64], configuration: Configuration) -> None:
        self.dataset, self.version, self.configuration = "the dataset", None, configuration
        pixels = np.ones(len(class_id), np.int64)
        self._totals = Histogram(class_id, pixels > 0, pixels, None, None, None)

    def totals(self) -> Histogram:
        return self._totals

    def blocks(self) -> Iterator[Block]:
        return iter(())

    def failed(self) -> int:
        return 0


def with_source_names(configuration: Configuration, class_names: tuple[str, ...]) -> Configuration:
    """Return the configuration completed by the class names and the number of classes of its source.

    class_names  names of the ids 0 … n−1 that the source defines; empty if it defines none

    A palette takes precedence over `class_names`. Values that the configuration defines are kept, and a
    configuration with a class map is returned unchanged, because the map defines both.
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


def with_masks(configuration: Configuration, class_names: tuple[str, ...]) -> Configuration:
    """Return the configuration before the first scan, with the classes of masks as part of the rule.

    class_names  names of the background and of the classes 1 … n
    """
    if not configuration.counting.masks or configuration.counting.classes:
        return configuration
    counting = replace(configuration.counting, classes=class_names[1:])
    notes = {**configuration.notes, "rule": f"masks of {len(class_names) - 1} classes were merged by picture"}
    return replace(configuration, counting=counting, notes=notes)


def infer_num_classes(class_id: NDArray[np.int64], configuration: Configuration) -> int:
    """Return the number of classes: that of the class map, or else the highest counted id plus 1.

    class_id  int64 [K], the raw ids that occur, ascending

    Raises `Unanswerable` if the highest id exceeds the maximum number of classes.
    """
    return interpret(_OccurringIds(class_id, configuration)).num_classes
