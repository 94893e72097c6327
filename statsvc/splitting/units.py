"""The units of a table, images or groups of images, and their counts of each class.

Two passes over the rows need memory for a bounded number of rows of counts. The first pass determines how
much each unit can influence the share of a class. The second pass keeps the counts of the `MAX_UNITS` most
influential units, which a search assigns. The others hardly matter one by one: if they are images, a
`Balancer` assigns them as they are read; groups are assigned at random.

Letters in array shapes: n images, G units, C classes, k parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table

    Bool = NDArray[np.bool_]
    Float = NDArray[np.float64]
    Int64 = NDArray[np.int64]

MAX_UNITS = 2**15
"""Largest number of units whose counts are kept in memory."""

TRIALS = 16
"""Random assignments of a block that `Balancer` compares."""


class Units(Struct, frozen=True):
    """The images of a table or split, in path order, and the unit that each belongs to.

    class_id    int64 [C], ids of the counted classes that occur
    pixels      int64 [C], pixels of each class
    images      int64 [C], images that contain each class
    paths       n paths
    unit        int64 [n], unit of each image
    names       values of the groups, of the first units; the other units are single images
    size        int64 [G], images in each unit
    influence   float64 [G], at least the largest share of a class that the unit contains
    """

    class_id: Int64
    pixels: Int64
    images: Int64
    paths: list[str]
    unit: Int64
    names: list[str]
    size: Int64
    influence: Float

    def heaviest(self, most: int, rng: np.random.Generator | None = None) -> Int64:
        """Return at most `most` units with the largest influence, ascending.

        rng  draws half of them at random, so that ordinary units are among them as well; None for none
        """
        if len(self.size) <= most:
            return np.arange(len(self.size))
        order = np.argsort(-self.influence, kind="stable")
        if rng is None:
            return np.sort(order[:most])
        half = most // 2
        return np.sort(np.concatenate([order[:half], rng.permutation(order[half:])[: most - half]]))


class UnitCounts(Struct, frozen=True):
    """Counts of some units, and sums of assignments of all of them.

    chosen      int64 [U], the units whose counts are kept, ascending
    pixels      int64 [U, C], pixels of each class in each of them
    images      int64 [U, C], their images that contain each class
    containing  int64 [C], units that contain each class, of all units
    sums        (pixels, images) of every part, int64 [k, C] each, for every assignment that was summed
    """

    chosen: Int64
    pixels: Int64
    images: Int64
    containing: Int64
    sums: list[tuple[Int64, Int64]]


def class_columns(interpreted: InterpretedCounts) -> Bool:
    """Return the columns of the histogram, bool [K], of counted classes that occur.

    Raises `Unanswerable` if there is none.
    """
    columns = interpreted.counted & (interpreted.histogram.pixels > 0)
    if not columns.any():
        raise Unanswerable("no class has a pixel, so there is nothing to balance; check the ignored ids")
    return columns


def find_units(
    table: Table,
    interpreted: InterpretedCounts,
    split: str | None,
    groups: Callable[[Sequence[str]], Sequence[str | None]] | None,
) -> Units:
    """Return the units of a table or split. Reads the rows once.

    groups  returns the group of each path, None for an image without a group; None: every image is a unit

    Raises `NotFound` and `Unanswerable` as `Table.sample_counts` does.
    """
    if not table.exact:
        raise Unanswerable(
            f"{table.dataset}: only some of the images were counted, but all of them are divided. Count "
            "every image"
        )
    columns = class_columns(interpreted)
    histogram = interpreted.histogram
    pixels, images = histogram.pixels[columns], histogram.images
    assert images is not None  # known wherever there are rows
    paths: list[str] = []
    units: list[Int64] = []
    influences: list[Float] = []
    number_of: dict[str, int] = {}
    singles = 0
    for block, counts in _class_counts(table, interpreted, split):
        influences.append((counts / pixels).max(axis=1))
        if groups is None:
            units.append(np.arange(len(paths), len(paths) + len(block)))
        else:
            numbers = []
            for value in groups(block):
                singles += value is None
                # Images without a group are numbered from the end, because the number of groups is unknown.
                numbers.append(-singles if value is None else number_of.setdefault(value, len(number_of)))
            units.append(np.array(numbers, np.int64))
        paths += block
    unit, influence = np.concatenate(units), np.concatenate(influences)
    unit = np.where(unit < 0, len(number_of) - 1 - unit, unit)
    total = int(unit.max()) + 1
    return Units(
        class_id=histogram.class_id[columns],
        pixels=pixels,
        images=images[columns],
        paths=paths,
        unit=unit,
        names=list(number_of),
        size=np.bincount(unit, minlength=total),
        influence=np.bincount(unit, influence, total).astype(np.float64),
    )


def count_units(
    table: Table,
    interpreted: InterpretedCounts,
    split: str | None,
    units: Units,
    chosen: Int64,
    assignments: Sequence[Int64],
    parts: int,
    balancer: Balancer | None = None,
) -> UnitCounts:
    """Return the counts of the chosen units, and the sums of some assignments. Reads the rows once.

    chosen       units, ascending
    assignments  part of each unit, int64 [G] each; -1 for none
    balancer     writes the part of each image that is not chosen to the first assignment
    """
    classes, total = len(units.class_id), len(units.size)
    row_of = np.full(total, -1, np.int64)
    row_of[chosen] = np.arange(len(chosen))
    pixels, images = (np.zeros((len(chosen), classes), np.int64) for _ in range(2))
    sums = [(np.zeros((parts, classes), np.int64), np.zeros((parts, classes), np.int64)) for _ in assignments]
    grouped = total < len(units.unit)
    contains = np.zeros((total, classes), bool) if grouped else None
    start = 0
    for block, counts in _class_counts(table, interpreted, split):
        unit = units.unit[start : start + len(block)]
        start += len(block)
        present = counts > 0
        rows = row_of[unit]
        kept = rows >= 0
        np.add.at(pixels, rows[kept], counts[kept])
        np.add.at(images, rows[kept], present[kept])
        if contains is not None:
            np.logical_or.at(contains, unit, present)
        if balancer is not None and not kept.all():
            assignments[0][unit[~kept]] = balancer.assign(counts[~kept])
        for assignment, totals in zip(assignments, sums, strict=True):
            part = assignment[unit]
            members = (part == np.arange(parts)[:, None]).astype(np.float64)
            # Products in float64 are exact: the sums of a block are far below 2**53.
            for total_of, values in zip(totals, (counts, present), strict=True):
                np.add(total_of, (members @ values.astype(np.float64)).astype(np.int64), out=total_of)
    containing = units.images if contains is None else contains.sum(axis=0)
    return UnitCounts(chosen, pixels, images, containing, sums)


class Balancer:
    """Assigns images in the order in which they are read, so that all parts stay balanced.

    Of a few random assignments of each block it takes the one that balances the sums so far best. Their
    deviations therefore stay those of one block, instead of growing with the number of images.

    pixels  int64 [C], pixels of each class in all images
    share   float64 [k], share of the images that each part gets
    """

    def __init__(self, pixels: Int64, share: Float, rng: np.random.Generator) -> None:
        self._pixels, self._share, self._rng = pixels, share, rng
        self._excess = np.zeros((len(share), len(pixels)))

    def assign(self, counts: Int64) -> Int64:
        """Return the part of each image of a block, int64 [n], from its counts, int64 [n, C]."""
        # The random offset rounds the sizes without a bias that would add up over the blocks.
        positions = (np.arange(len(counts)) + self._rng.random()) / len(counts)
        labels = np.searchsorted(np.cumsum(self._share)[:-1], positions, side="right")
        shares = counts / self._pixels
        wanted = self._share[:, None] * shares.sum(axis=0)
        best, lowest, excess = labels, np.inf, self._excess
        for _ in range(TRIALS):
            trial = self._rng.permutation(labels)
            members = (trial == np.arange(len(self._share))[:, None]).astype(np.float64)
            sums = self._excess + members @ shares - wanted
            cost = float(((sums / self._share[:, None]) ** 2).sum())
            if cost < lowest:
                best, lowest, excess = trial, cost, sums
        self._excess = excess
        return best


def random_assignment(units: Units, selected: Int64, share: Float, rng: np.random.Generator) -> Int64:
    """Assign the selected units at random to parts of these sizes; -1 for the others, int64 [G].

    share  float64 [k], share of the images of the selected units that each part gets, within one unit
    """
    part = np.full(len(units.size), -1, np.int64)
    order = rng.permutation(selected)
    ends = np.cumsum(units.size[order])
    if len(order):
        middle = (ends - units.size[order] / 2) / ends[-1]
        part[order] = np.searchsorted(np.cumsum(share)[:-1], middle, side="right")
    return part


def _class_counts(
    table: Table, interpreted: InterpretedCounts, split: str | None
) -> Iterator[tuple[list[str], Int64]]:
    """Yield paths, and the pixels of each counted class that occurs, int64 [n, C]."""
    columns = class_columns(interpreted)
    for paths, counts in table.sample_counts(split, interpreted.class_map):
        yield paths, counts[:, columns]
