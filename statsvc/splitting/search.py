"""Assignment of units to parts so that every part gets the same share of every feature.

A unit is what is never divided: an image, or a group of images. Its features are shares of the totals, in
the order: images, then pixels of each class, then images that contain each class.

The search starts from a greedy assignment, the most influential units first, and then exchanges units of two
parts while this lowers the cost. Each step evaluates a few hundred random exchanges together, so its time
does not depend on the number of units. The cost raises deviations to the eighth power, so it is dominated by
the largest one.

Letters in array shapes: U units, k parts, F = 1 + 2 C features for C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int64 = NDArray[np.int64]

CANDIDATES = 16
"""Units of each of the two parts that a step considers for an exchange: 16 × 16 exchanges."""

STEPS = 6000
"""Largest number of steps of a search."""

PATIENCE = 600
"""Steps without improvement after which a search ends."""

STARTS = 4
"""Searches from different random orders, if there are few units; the best one counts."""

FEW_UNITS = 2048
"""Largest number of units for which several searches are made."""

EXHAUSTIVE = 60_000
"""Number of assignments up to which all of them are compared, so that the result is the best possible."""

PERCENT = 0.01
"""Deviation that has cost 1."""

PRIORITY = 10
"""How much more a class counts whose deviation cannot be small, because it decides the worst deviation."""

OVERSIZE = 1e12
"""Factor of the cost of a part whose size is outside the tolerance: larger than any other cost."""


class Goal(Protocol):
    """What a search minimizes.

    parts  k, the number of parts
    moves  whether a unit may change its part without another one in exchange, which changes the sizes
    """

    @property
    def parts(self) -> int: ...  # noqa: D102

    @property
    def moves(self) -> bool: ...  # noqa: D102

    def cost(self, part: int, sums: Float) -> Float:
        """Return the cost, float64 [...], of a part whose units have these sums, float64 [..., F]."""


class EqualShares(Struct, frozen=True):
    """The goal that part j gets the share `share[j]` of every feature.

    share      float64 [k], adds up to 1
    low, high  float64 [k, F], range of sums that count as no deviation: whole images cannot be divided
    floor      float64 [F], deviations that no assignment can avoid, so that reducing them gains nothing
    tolerance  float64 [k], largest difference from the wanted number of images, as a share of all images
    """

    share: Float
    low: Float
    high: Float
    floor: Float
    tolerance: Float
    moves: bool

    @property
    def parts(self) -> int:
        """Return k."""
        return len(self.share)

    def cost(self, part: int, sums: Float) -> Float:
        """Return the cost of a part, see `Goal`."""
        outside = np.maximum(self.low[part] - sums, sums - self.high[part]).clip(0)
        oversize = (outside[..., 0] - self.tolerance[part]).clip(0)
        costs: Float = _powers(outside / self.share[part], self.floor) + OVERSIZE * oversize
        return costs


class ClassShares(Struct, frozen=True):
    """The goal that the pixels of part 0 have these shares; the other part contains the remaining units.

    pixels  float64 [C], pixels of each class in the dataset
    target  float64 [C], wanted share of each class, adds up to 1
    weight  float64 [C], importance of each class
    """

    pixels: Float
    target: Float
    weight: Float
    parts: int = 2
    moves: bool = False

    def deviations(self, sums: Float) -> Float:
        """Return the difference of each share from its target, relative to the target, float64 [..., C]."""
        pixels = sums[..., 1 : 1 + len(self.pixels)] * self.pixels
        total = pixels.sum(axis=-1, keepdims=True)
        shares = pixels / np.where(total > 0, total, 1)
        result: Float = np.abs(shares - self.target) / np.where(self.target > 0, self.target, 1)
        return result

    def cost(self, part: int, sums: Float) -> Float:
        """Return the cost of a part, see `Goal`."""
        if part:
            return np.zeros(sums.shape[:-1])
        deviations = self.deviations(sums)
        return np.asarray((self.weight * deviations**2).sum(axis=-1), np.float64)


def _powers(deviations: Float, floor: Float) -> Float:
    """Return the cost of deviations, float64 [..., F]."""
    excess = (deviations - floor).clip(0) * ((1 + PRIORITY * floor) / PERCENT)
    excess *= excess
    excess *= excess
    excess *= excess
    # The square tells arrangements apart whose deviations are all unavoidable.
    return np.asarray(excess.sum(axis=-1) + (deviations * deviations).sum(axis=-1), np.float64)


def assign(
    features: NDArray[np.float32], goal: Goal, base: Float, capacity: Int64, sizes: Int64, seed: list[int]
) -> Int64:
    """Return the part of each unit, int64 [U].

    features  float32 [U, F]
    base      float64 [k, F], sums of units that already have a part
    capacity  int64 [k], images that each part still needs; adds up to the sum of `sizes`
    sizes     int64 [U], images of each unit
    """
    best, lowest = np.zeros(len(features), np.int64), np.inf
    for start in range(STARTS if len(features) <= FEW_UNITS else 1):
        rng = np.random.default_rng([*seed, start])
        part = _greedy(features, base, capacity, sizes, rng)
        cost = exchange(features, goal, base, part, rng)
        if cost < lowest:
            best, lowest = part, cost
    return best


def _greedy(
    features: NDArray[np.float32],
    base: Float,
    capacity: Int64,
    sizes: Int64,
    rng: np.random.Generator,
) -> Int64:
    """Assign the units in order of their largest share of a class, each where it lowers the cost most.

    A part accepts units until it is full, so its size is exceeded by less than one unit.
    """
    order = rng.permutation(len(features))
    classes = (features.shape[1] - 1) // 2
    order = order[np.argsort(-features[order, : 1 + classes].max(axis=1), kind="stable")]
    part = np.zeros(len(features), np.int64)
    wanted = base + (capacity / max(int(capacity.sum()), 1))[:, None] * features.sum(axis=0, dtype=np.float64)
    missing, needed = wanted - base, capacity.copy()
    for unit in order.tolist():
        row = features[unit, : 1 + classes].astype(np.float64)
        # This is what the choice of the part changes in a sum of squares.
        gain = (missing[:, : 1 + classes] @ row) / np.maximum(wanted.max(axis=1), 1e-300)
        gain[needed <= 0] = -np.inf
        chosen = int(gain.argmax())
        part[unit] = chosen
        missing[chosen] -= features[unit]
        needed[chosen] -= sizes[unit]
    return part


def exchange(
    features: NDArray[np.float32], goal: Goal, base: Float, part: Int64, rng: np.random.Generator
) -> float:
    """Improve an assignment in place by exchanges of two parts, and return its cost."""
    sums = part_sums(features, part, goal.parts) + base
    costs = np.array([float(goal.cost(j, sums[j])) for j in range(goal.parts)])
    unchanged = 0
    for _ in range(STEPS):
        if unchanged == PATIENCE:
            break
        first = int(costs.argmax()) if rng.random() < 0.7 else int(rng.integers(goal.parts))
        second = (first + 1 + int(rng.integers(goal.parts - 1))) % goal.parts
        mine, theirs = _draw(part, first, rng), _draw(part, second, rng)
        if not len(mine) or not len(theirs):
            unchanged += 1
            continue
        given, taken = features[mine].astype(np.float64), features[theirs].astype(np.float64)
        if goal.moves:  # the last row is "nothing": a unit changes its part without another one in exchange
            nothing = np.zeros((1, features.shape[1]))
            given, taken = np.concatenate([given, nothing]), np.concatenate([taken, nothing])
        change = taken[None] - given[:, None]
        new_first = goal.cost(first, sums[first] + change)
        new_second = goal.cost(second, sums[second] - change)
        total = new_first + new_second
        row, column = divmod(int(total.argmin()), len(taken))
        if not total[row, column] < (costs[first] + costs[second]) * (1 - 1e-12):
            unchanged += 1
            continue
        unchanged = 0
        if row < len(mine):
            part[mine[row]] = second
        if column < len(theirs):
            part[theirs[column]] = first
        sums[first] += change[row, column]
        sums[second] -= change[row, column]
        costs[first], costs[second] = new_first[row, column], new_second[row, column]
    return float(costs.sum())


def _draw(part: Int64, chosen: int, rng: np.random.Generator) -> Int64:
    """Return up to `CANDIDATES` units of a part, distinct only if the part is small."""
    members = np.flatnonzero(part == chosen)
    if len(members) <= CANDIDATES:
        return members
    return members[rng.integers(len(members), size=CANDIDATES)]


def part_sums(features: NDArray[np.float32], part: Int64, parts: int) -> Float:
    """Return the sums of the features of each part, float64 [k, F]."""
    return np.stack([features[part == j].sum(axis=0, dtype=np.float64) for j in range(parts)])


def all_assignments(units: int, parts: int, at_once: int = 1024) -> Iterator[Int64]:
    """Yield every assignment that leaves no part empty, int64 [at most `at_once`, U]."""
    powers = parts ** np.arange(units)
    for start in range(0, parts**units, at_once):
        numbers = np.arange(start, min(start + at_once, parts**units))
        assignments = numbers[:, None] // powers % parts
        filled = np.ones(len(numbers), bool)
        for j in range(parts):
            filled &= (assignments == j).any(axis=1)
        if filled.any():
            yield assignments[filled]


def best_assignment(features: NDArray[np.float32], goal: Goal) -> tuple[Int64, float]:
    """Return the assignment with the lowest cost, and the smallest worst deviation of a class of all of them.

    Only for at most `EXHAUSTIVE` assignments.
    """
    classes = (features.shape[1] - 1) // 2
    exact = features.astype(np.float64)
    best, lowest, least = np.zeros(len(features), np.int64), np.inf, np.inf
    for assignments in all_assignments(len(features), goal.parts):
        sums = np.stack([(assignments == j).astype(np.float64) @ exact for j in range(goal.parts)], axis=1)
        cost = np.sum([goal.cost(j, sums[:, j]) for j in range(goal.parts)], axis=0)
        if cost.min() < lowest:
            best, lowest = assignments[int(cost.argmin())], float(cost.min())
        if isinstance(goal, EqualShares):
            deviations = np.abs(sums[..., 1 : 1 + classes] / goal.share[:, None] - 1)
            least = min(least, float(deviations.max(axis=(1, 2)).min()))
    return best.copy(), least
