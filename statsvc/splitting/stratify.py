"""Stratified division of a dataset into parts, such as folds or train, val and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.errors import Unanswerable
from statsvc.splitting import search
from statsvc.splitting.bounds import smallest_deviation
from statsvc.splitting.units import MAX_UNITS, Balancer, count_units, find_units, random_assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.splitting.units import UnitCounts, Units

    Float = NDArray[np.float64]
    Int64 = NDArray[np.int64]

RANDOM_DIVISIONS = 10
"""Random divisions with the same units that a division is compared with."""


class Division(Struct, frozen=True):
    """Images divided into parts, and how well each part represents each class.

    The share of a class in a part is relative to the pixels of the class in all parts. Its deviation is the
    difference from the wanted share, relative to the wanted share.

    units       the images and their units; n images, C classes
    share       float64 [k], wanted share of each part
    part        int64 [n], part of each image
    size        int64 [k], images of each part
    pixels      int64 [k, C], pixels of each class in each part
    images      int64 [k, C], images that contain each class in each part
    containing  int64 [C], units that contain each class
    least       float64 [C], deviation of each class that no division of these units can avoid
    optimum     smallest possible worst deviation, if all divisions were compared; else None
    random      float64 [r, C], worst deviations of each class in random divisions
    """

    units: Units
    share: Float
    part: Int64
    size: Int64
    pixels: Int64
    images: Int64
    containing: Int64
    least: Float
    optimum: float | None
    random: Float

    def deviations(self) -> Float:
        """Return the deviation of each class in each part, float64 [k, C]."""
        return _deviations(self.pixels, self.units.pixels, self.share)

    def image_deviations(self) -> Float:
        """Return the same for images that contain a class instead of pixels, float64 [k, C]."""
        return _deviations(self.images, self.units.images, self.share)


def divide(
    table: Table,
    interpreted: InterpretedCounts,
    split: str | None,
    share: Sequence[float],
    seed: int,
    groups: Callable[[Sequence[str]], Sequence[str | None]] | None = None,
) -> Division:
    """Divide the counted images of a table or split so that each part represents every class.

    share   wanted share of the images, and of every class, in each part; adds up to 1
    groups  returns the group of each path, None for an image without a group; groups are never divided

    The result depends on the counts, the paths, the shares and the seed only. Raises `NotFound` for an
    unknown split, and `Unanswerable` if there are no rows or fewer units than parts.
    """
    units = find_units(table, interpreted, split, groups)
    wanted = np.asarray(share, np.float64)
    parts, total = len(wanted), len(units.size)
    if total < parts:
        kind = "image" if groups is None else "group"
        raise Unanswerable(
            f"{total} {kind}{'s' * (total != 1)} cannot fill {parts} parts; ask for at most {total} parts"
        )
    rng = np.random.default_rng([seed, 0])
    chosen = units.heaviest(MAX_UNITS)
    others = np.setdiff1d(np.arange(total), chosen, assume_unique=True)
    grouped = groups is not None
    light = random_assignment(units, others if grouped else others[:0], wanted, rng)
    balancer = None if grouped else Balancer(units.pixels, wanted, rng)
    everything = np.arange(total)
    random = [random_assignment(units, everything, wanted, rng) for _ in range(RANDOM_DIVISIONS)]
    counts = count_units(table, interpreted, split, units, chosen, [light, *random], parts, balancer)
    least = np.array(
        [
            smallest_deviation(counts.pixels[:, c] / units.pixels[c], int(counts.containing[c]), wanted)
            for c in range(len(units.class_id))
        ]
    )
    part_of_chosen, optimum = _assign(units, counts, light, wanted, least, seed)
    part_of_unit = light
    part_of_unit[chosen] = part_of_chosen
    pixels, images = counts.sums[0]
    for j in range(parts):
        pixels[j] += counts.pixels[part_of_chosen == j].sum(axis=0)
        images[j] += counts.images[part_of_chosen == j].sum(axis=0)
    return Division(
        units=units,
        share=wanted,
        part=part_of_unit[units.unit],
        size=np.bincount(part_of_unit, units.size, parts).astype(np.int64),
        pixels=pixels,
        images=images,
        containing=counts.containing,
        least=least,
        optimum=optimum,
        random=np.array(
            [np.abs(_deviations(sums, units.pixels, wanted)).max(axis=0) for sums, _ in counts.sums[1:]]
        ),
    )


def _deviations(values: Int64, totals: Int64, share: Float) -> Float:
    return np.asarray(values / totals / share[:, None] - 1, np.float64)


def _assign(
    units: Units, counts: UnitCounts, light: Int64, share: Float, least: Float, seed: int
) -> tuple[Int64, float | None]:
    """Return the part of each chosen unit, int64 [U], and the smallest possible worst deviation if known.

    light  int64 [G], part of each of the other units
    """
    parts, total, sizes = len(share), int(units.size.sum()), units.size[counts.chosen]
    target = part_sizes(total, share)
    used = light >= 0
    base_size = np.bincount(light[used], units.size[used], parts).astype(np.int64)
    base = _features(base_size, *counts.sums[0], units)
    grouped = int(units.size.max()) > 1
    goal = _goal(units, share, least, _least_images(counts, units, share) if grouped else None)
    features = _features(sizes, counts.pixels, counts.images, units).astype(np.float32)
    if not used.any() and parts ** len(sizes) <= search.EXHAUSTIVE:
        return search.best_assignment(features, goal)
    return search.assign(features, goal, base, target - base_size, sizes, [seed, 1]), None


def part_sizes(total: int, share: Float) -> Int64:
    """Return numbers of images that add up to `total`, int64 [k]: each share of it, rounded, at least 1."""
    exact = share * total
    sizes = np.maximum(np.floor(exact + 1e-9), 1).astype(np.int64)
    remainder = exact - sizes
    while (missing := total - int(sizes.sum())) > 0:
        order = np.argsort(-remainder, kind="stable")[:missing]
        sizes[order] += 1
        remainder[order] -= 1
    while sizes.sum() > total:  # parts of less than one image got one
        largest = int(sizes.argmax())
        sizes[largest] -= 1
    return sizes


def _features(size: Int64, pixels: Int64, images: Int64, units: Units) -> Float:
    """Return shares of the totals, float64 [rows, 1 + 2 C], see `statsvc.splitting.search`."""
    return np.concatenate(
        [size[:, None] / units.size.sum(), pixels / units.pixels, images / units.images], axis=1
    )


def _least_images(counts: UnitCounts, units: Units, share: Float) -> Float:
    """Return the deviation of the images with each class that groups force, float64 [C]."""
    return np.array(
        [
            smallest_deviation(counts.images[:, c] / units.images[c], int(counts.containing[c]), share)
            for c in range(len(units.class_id))
        ]
    )


def _goal(units: Units, share: Float, least: Float, least_images: Float | None) -> search.EqualShares:
    """Return the goal of a search.

    least         float64 [C], unavoidable deviation of the pixels of each class
    least_images  float64 [C], the same for images that contain the class; None if every unit is an image
    """
    total = int(units.size.sum())
    whole = np.concatenate([[total], units.images])
    exact = share[:, None] * whole
    # Rounding up or down is no deviation for numbers of images.
    low, high = np.floor(exact + 1e-9) / whole, np.ceil(exact - 1e-9) / whole
    pixels = np.repeat(share[:, None], len(units.class_id), axis=1)
    largest = int(units.size.max())
    return search.EqualShares(
        share=share,
        low=np.concatenate([low[:, :1], pixels, low[:, 1:]], axis=1),
        high=np.concatenate([high[:, :1], pixels, high[:, 1:]], axis=1),
        floor=np.concatenate(
            [
                [smallest_deviation(units.size / total, len(units.size), share)],
                least,
                np.zeros_like(least) if least_images is None else least_images,
            ]
        ),
        tolerance=np.full(len(share), (largest - 0.5) / total),
        moves=least_images is not None,
    )
