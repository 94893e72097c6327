"""Coverage of the intervals that estimates from a sample of images have.

    python benchmarks/estimates.py [--camvid FOLDER] [--draws N] [--population M]

Each line is one class of one population of images: the share of images that contain it, the share of draws in
which it was reported, because it was seen in enough images, and of these the share in which the interval of
its share, and of its weight, contains the value of the whole population. At the nominal 95 % the tolerance is
92 %. `relative error` is the 95th percentile of |estimate/value − 1|.

The synthetic populations consist of sequences: the frequency of a class varies between them (beta
distribution), and its area is the product of a factor of the sequence and of one of the image (gamma
distributions). The last form draws the sample in two steps: 400 images determine how many are drawn for a
relative error of 10 %.
CamVid's 468 label maps are a population of their own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import statsvc
from statsvc.weighting.compute import ClassCounts, compute_weights
from statsvc.weighting.estimate import PILOT, ImageSums, images_needed, weight_intervals
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

FREQUENCIES = (1.0, 0.9, 0.6, 0.4, 0.25, 0.15, 0.1, 0.06, 0.03)
"""Share of images that contain each synthetic class."""

SPEC = WeightSpec.from_params({"method": "sqrt_inv_freq", "normalize": "none"}).resolved()
NORMALIZED = WeightSpec.from_params({"method": "sqrt_inv_freq"}).resolved()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often a class was reported, and how often its intervals contained the truth, over all draws.

    normalized  coverage of weights with mean 1, over the draws in which every class was reported
    """

    frequency: float
    reported: float
    share: float
    weight: float
    normalized: float
    error: float
    images: float


def population(images: int, spread: float, rng: np.random.Generator) -> Int64:
    """Return the pixels of each synthetic class in each image, int64 [images, classes].

    spread  coefficient of variation of the area of a class in the images that contain it
    """
    per_sequence = 50
    sequence = np.arange(images) // per_sequence
    count = sequence[-1] + 1
    size = rng.choice([640 * 480, 1280 * 720, 1920 * 1080], images, p=[0.3, 0.5, 0.2])
    frequency, classes = np.array(FREQUENCIES), len(FREQUENCIES)
    # Beta with concentration 2: many sequences without a rare class, and some with it in most images.
    probability = rng.beta(2 * frequency, np.maximum(2 * (1 - frequency), 1e-9), (count, classes))
    shape = 1 / (np.sqrt(1 + spread**2) - 1)  # of each of two factors, whose product has this variation
    between, within = (
        rng.gamma(shape, 1 / shape, (count, classes)),
        rng.gamma(shape, 1 / shape, (images, classes)),
    )
    present = rng.random((images, classes)) < probability[sequence]
    mean = np.geomspace(0.5, 0.005, classes)
    area = present * between[sequence] * within * mean
    area /= np.maximum(area.sum(axis=1, keepdims=True), 1.0)
    pixels: Int64 = (area * size[:, None]).astype(np.int64)
    return pixels


def coverage(
    pixels: Int64, draw: float, draws: int, rng: np.random.Generator, replicates: int = 200
) -> list[Coverage]:
    """Return the coverage of each class over samples of `draw` images, or for `draw` as a relative error."""
    images, classes = pixels.shape
    total = pixels.sum(axis=1)
    share = pixels.sum(axis=0) / total.sum()
    counts = ClassCounts(pixels.sum(axis=0), np.zeros(classes, bool), float(total.sum()), samples=images)
    weights, normalized = (compute_weights(counts, spec).weights for spec in (SPEC, NORMALIZED))
    hits = np.zeros((3, classes))
    reported, joint, drawn, errors = np.zeros(classes), 0, 0, []
    for _ in range(draws):
        order = rng.permutation(images)
        size = draw
        if draw < 1:
            pilot = ImageSums(classes)
            pilot.add(pixels[order[:PILOT]], total[order[:PILOT]])
            size = max(PILOT, images_needed(pilot, images, draw, 0.95))
        rows = order[: int(size)]
        sums = ImageSums(classes, replicates)
        sums.add(pixels[rows], total[rows])
        sample = ClassCounts(
            pixels[rows].sum(axis=0),
            np.zeros(classes, bool),
            float(total[rows].sum()),
            images=(pixels[rows] > 0).sum(axis=0),
            samples=len(rows),
        )
        known = sums.estimated
        reported += known
        drawn += len(rows)
        fraction = len(rows) / images
        hits[0] += known & _inside(sums.share_intervals(fraction), share)
        errors.append(np.where(known, np.abs(sums.share / share - 1), np.nan))
        if (interval := weight_intervals(sums, sample, SPEC, fraction)) is not None:
            hits[1] += known & _inside(interval, weights)
        if (interval := weight_intervals(sums, sample, NORMALIZED, fraction)) is not None:
            joint += 1
            hits[2] += _inside(interval, normalized)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = hits / np.stack([reported, reported, np.full(classes, joint)])
    # A class that is never reported has no error.
    error = [
        np.quantile(column[~np.isnan(column)], 0.95) if known else np.nan
        for column, known in zip(np.array(errors).T, reported, strict=True)
    ]
    frequency = (pixels > 0).mean(axis=0)
    return [
        Coverage(*map(float, (frequency[c], reported[c] / draws, *rates[:, c], error[c], drawn / draws)))
        for c in range(classes)
    ]


def _inside(interval: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (interval[:, 0] <= value) & (value <= interval[:, 1])
    return inside


def _print(title: str, rows: list[Coverage]) -> None:
    print(f"\n{title}; {rows[0].images:,.0f} images per sample")
    print("in images  reported   share  weight  normalized  relative error")
    for row in rows:
        cells = (
            f"{value:7.1%}" if value == value else "      –"
            for value in (row.share, row.weight, row.normalized)
        )
        share, weight, normalized = cells
        error = f"{row.error:.1%}" if row.error == row.error else "–"
        print(f"{row.frequency:9.1%} {row.reported:9.0%} {share} {weight} {normalized:>11} {error:>15}")


def main() -> None:
    """Print the coverage of each population."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camvid", help="folder of CamVid's label maps")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--population", type=int, default=20_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    for spread in (0.5, 1.0, 2.0):
        images = population(arguments.population, spread, rng)
        for draw in (500, 2000):
            title = f"{arguments.population:,} images in sequences, areas vary by {spread:.0%}"
            _print(title, coverage(images, draw, arguments.draws, rng))
    title = f"{arguments.population:,} images in sequences, areas vary by 100%, relative error 10 %"
    _print(title, coverage(population(arguments.population, 1.0, rng), 0.1, arguments.draws // 4, rng))
    if arguments.camvid:
        counts = statsvc.scan(arguments.camvid).rows.counts[:, :11]
        for draw in (150, 250):
            _print("CamVid, 468 images", coverage(counts, draw, arguments.draws, rng))


if __name__ == "__main__":
    main()
