"""Pixels of each class in each group of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.groups import Grouping
    from statsvc.dataset.table import Table

    Int64 = NDArray[np.int64]

MAX_GROUPS = 10_000
"""Largest number of groups that are counted."""


class GroupCounts(Struct, frozen=True):
    """Counts of G groups, sorted by value, and K ids of a histogram.

    names      G values
    samples    int64 [G], samples in each group
    pixels     int64 [G, K], pixels of each id
    images     int64 [G, K], samples that contain each id
    ungrouped  samples to which the rule gives no value
    """

    names: list[str]
    samples: Int64
    pixels: Int64
    images: Int64
    ungrouped: int


def count_groups(
    table: Table, interpreted: InterpretedCounts, split: str | None, grouping: Grouping
) -> GroupCounts:
    """Return the counts of each group in a table or split. Reads the rows once.

    Raises `Unanswerable` if there are no rows, or more than `MAX_GROUPS` groups.
    """
    number_of: dict[str, int] = {}
    ids = len(interpreted.histogram.class_id)
    samples = np.zeros(0, np.int64)
    pixels, images = np.zeros((0, ids), np.int64), np.zeros((0, ids), np.int64)
    ungrouped = 0
    for paths, counts in table.sample_counts(split, interpreted.class_map):
        values = grouping.of(paths)
        numbers = np.array(
            [-1 if value is None else number_of.setdefault(value, len(number_of)) for value in values],
            np.int64,
        )
        if len(number_of) > MAX_GROUPS:
            raise Unanswerable(
                f"{table.dataset}: the rule {grouping.describe()!r} gives more than {MAX_GROUPS} groups, for "
                f"instance {next(iter(number_of))!r}; use a rule with fewer groups"
            )
        added = len(number_of) - len(samples)
        samples = np.concatenate([samples, np.zeros(added, np.int64)])
        pixels, images = (
            np.concatenate([array, np.zeros((added, ids), np.int64)]) for array in (pixels, images)
        )
        grouped = numbers >= 0
        ungrouped += int(np.count_nonzero(~grouped))
        samples += np.bincount(numbers[grouped], minlength=len(samples))
        np.add.at(pixels, numbers[grouped], counts[grouped])
        np.add.at(images, numbers[grouped], counts[grouped] > 0)
    names = list(number_of)
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    return GroupCounts([names[k] for k in order], samples[order], pixels[order], images[order], ungrouped)
