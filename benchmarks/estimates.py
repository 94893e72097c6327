"""Coverage of the intervals of estimates from a sample of images, and errors of samples of chosen size.

    python benchmarks/estimates.py [--camvid FOLDER] [--kits19 FOLDER] [--draws N]

The first table: classes by the number of sampled images that are expected to contain them (their share of the
images times the images drawn; `MIN_IMAGES` are needed for an interval), and how often the interval of a
class's share, and of its weight by several methods, contains the value of the whole population: the lowest of
the classes and their mean. Only draws in which the class has an interval count. A class that rarely has one
is drawn under the condition that it has, so that every class has the same number of draws. Under each table:
how often the error of a share was at most the requested one, where a pilot determined the size of the sample.

Synthetic populations: `video`, sequences of 50 images in which the frequency of a class varies between
sequences (beta distribution) and its area is the product of a factor of the sequence and one of the image
(gamma distributions); `long tail`, 60 classes with frequencies from 100 % down to 0.5 % and lognormal areas;
`filling`, classes that fill 70 % or more of some images that contain them and less than 2 % of the others.
Their images have three sizes. Real ones: CamVid's 468 label maps, their sixteenths, and slices of KiTS19.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import statsvc
from statsvc.weighting.compute import ClassCounts, compute_weights
from statsvc.weighting.image_sums import MIN_IMAGES, ImageSums
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.sample_intervals import share_intervals, weight_intervals
from statsvc.weighting.sample_size import FREQUENCY, PILOT, images_needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]

VIDEO_FREQUENCIES = (1.0, 0.9, 0.6, 0.4, 0.25, 0.15, 0.1, 0.06, 0.03)
"""Share of images that contain each class of the synthetic videos."""

METHODS = {
    "1/√p": {"method": "sqrt_inv_freq", "normalize": "none"},
    "1/p": {"method": "inverse_freq", "normalize": "none"},
    "median/p": {"method": "median_freq"},
    "1/√p, mean 1": {"method": "sqrt_inv_freq"},
}
"""The last two depend on all classes, so they have intervals only where every class has one."""

BINS = (0, 90, 110, 150, 300, math.inf)
"""Expected numbers of sampled images with the class that separate the rows of the table."""

MIN_PROBABILITY = 1e-6
"""Classes that have an interval in fewer samples than this are not simulated."""

MAX_PROBABILITY = 0.7
"""Classes that have an interval in fewer samples than this are drawn under the condition that they have."""

MIN_DRAWS = 100
"""Draws from which a coverage is printed."""


@dataclass(slots=True)
class Coverage:
    """How often a class had an interval, and how often it contained the truth.

    frequency  share of the images that contain it
    expected   images of a sample that contain it, on average
    draws      samples in which it had an interval
    hits       of these, with an interval of the share, or of a weight, that contains the truth, by name
    given      samples in which there was an interval, by name
    """

    frequency: float
    expected: float
    draws: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)


def video(images: int, spread: float, rng: np.random.Generator, lowest: float = 0.0) -> Int64:
    """Return the pixels of each class in each image of synthetic videos, int64 [images, classes].

    spread  coefficient of variation of the area of a class in the images that contain it
    lowest  classes with a lower frequency are left out
    """
    sequence = np.arange(images) // 50
    count = sequence[-1] + 1
    frequency = np.array([each for each in VIDEO_FREQUENCIES if each >= lowest])
    classes = len(frequency)
    # Beta with concentration 2: many sequences without a rare class, and some with it in most images.
    probability = rng.beta(2 * frequency, np.maximum(2 * (1 - frequency), 1e-9), (count, classes))
    shape = 1 / (np.sqrt(1 + spread**2) - 1)  # of each of two factors, whose product has this variation
    between, within = (
        rng.gamma(shape, 1 / shape, (count, classes)),
        rng.gamma(shape, 1 / shape, (images, classes)),
    )
    present = rng.random((images, classes)) < probability[sequence]
    return _pixels(present * between[sequence] * within * np.geomspace(0.5, 0.005, classes), rng)


def long_tail(images: int, rng: np.random.Generator) -> Int64:
    """Return the pixels of 60 classes with frequencies from 1 to 0.005 and areas that vary by 150 %."""
    frequency = np.geomspace(1, 0.005, 60)
    deviation = math.sqrt(math.log(1 + 1.5**2))
    area = np.exp(deviation * rng.standard_normal((images, 60))) * np.geomspace(0.2, 0.01, 60)
    return _pixels(np.where(rng.random((images, 60)) < frequency, area, 0.0), rng)


def filling(images: int, rng: np.random.Generator) -> Int64:
    """Return the pixels of classes that fill some images: a tenth of those that contain them."""
    frequency = np.array([1.0, 0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.09, 0.08])
    shape = (images, len(frequency))
    area = np.where(rng.random(shape) < 0.1, rng.uniform(0.7, 1, shape), rng.uniform(0, 0.02, shape))
    area[:, 0] = 0.5
    return _pixels(np.where(rng.random(shape) < frequency, area, 0.0), rng)


def _pixels(area: Float64, rng: np.random.Generator) -> Int64:
    """Return pixels for relative areas, float64 [images, classes], in images of three sizes."""
    size = rng.choice([640 * 480, 1280 * 720, 1920 * 1080], len(area), p=[0.3, 0.5, 0.2])
    area = area / np.maximum(area.sum(axis=1, keepdims=True), 1.0)
    return _not_empty((area * size[:, None]).astype(np.int64))


class Population:
    """Images to draw from.

    pixels  of each class, int64 [images, classes]
    """

    def __init__(self, pixels: Int64) -> None:
        self.pixels, self.total = pixels, pixels.sum(axis=1)
        self.images, self.classes = pixels.shape
        self.frequency = (pixels > 0).mean(axis=0)
        self.share = pixels.sum(axis=0) / self.total.sum()
        self.specs = {name: WeightSpec.from_params(params).resolved() for name, params in METHODS.items()}
        self._all = np.arange(self.images)
        self._weights = self.weights(np.arange(self.classes))

    def counts(self, rows: Int64, classes: Int64) -> ClassCounts:
        """Return the counts of some images and classes."""
        pixels, total = self.pixels[np.ix_(rows, classes)], self.total[rows]
        return ClassCounts(
            pixels.sum(axis=0),
            np.zeros(len(classes), bool),
            float(total.sum()),
            images=(pixels > 0).sum(axis=0),
            image_pixels=((pixels > 0) * total[:, None]).sum(axis=0).astype(np.float64),
            samples=len(rows),
        )

    def weights(self, classes: Int64) -> dict[str, Float64]:
        """Return the weights of some classes, as if there were no other ones, by name of the method."""
        counts = self.counts(self._all, classes)
        return {name: compute_weights(counts, spec).weights for name, spec in self.specs.items()}

    def measure(self, rows: Int64, classes: Int64, replicates: int, coverages: list[Coverage]) -> None:
        """Add one sample of images to the coverage of some classes, alone where they are not all classes."""
        fraction = len(rows) / self.images
        sums = ImageSums(len(classes), replicates)
        sums.add(self.pixels[np.ix_(rows, classes)], self.total[rows])
        intervals = {"share": (share_intervals(sums, fraction), self.share[classes])}
        counts = self.counts(rows, classes)
        weights = self._weights if len(classes) == self.classes else self.weights(classes)
        for name, spec in self.specs.items():
            if len(classes) < self.classes and spec.normalize != "none":
                continue  # these depend on all classes
            found = weight_intervals(sums, counts, spec, fraction)
            if found is not None:
                intervals[name] = found, weights[name]
        for position in np.flatnonzero(sums.estimated).tolist():
            c = classes[position]
            coverages[c].draws += 1
            for name, (ends, truth) in intervals.items():
                coverages[c].given[name] += 1
                coverages[c].hits[name] += bool(ends[position, 0] <= truth[position] <= ends[position, 1])


def coverage(
    population: Population, size: int, draws: int, rng: np.random.Generator, replicates: int = 200
) -> list[Coverage]:
    """Return the coverage of each class over samples of `size` images in which it has an interval."""
    rows = [Coverage(p, p * size) for p in population.frequency.tolist()]
    everything = np.arange(population.classes)
    for _ in range(draws):
        drawn = rng.permutation(population.images)[:size]
        population.measure(drawn, everything, replicates, rows)
    for c in everything:
        present = np.flatnonzero(population.pixels[:, c] > 0)
        numbers, probability = _numbers_seen(population.images, len(present), size)
        if not MIN_PROBABILITY <= probability.sum() <= MAX_PROBABILITY:
            continue
        absent = np.flatnonzero(population.pixels[:, c] == 0)
        rows[c] = Coverage(rows[c].frequency, rows[c].expected)
        for number in rng.choice(numbers, draws, p=probability / probability.sum()).tolist():
            parts = [
                rng.choice(present, number, replace=False, shuffle=False),
                rng.choice(absent, size - number, replace=False, shuffle=False),
            ]
            population.measure(np.concatenate(parts), everything[c : c + 1], replicates, rows)
    return rows


def _numbers_seen(images: int, present: int, size: int) -> tuple[Int64, Float64]:
    """Return numbers of drawn images with a class that give it an interval, and their probabilities."""
    numbers = np.arange(max(MIN_IMAGES, size - (images - present)), min(size, present) + 1)

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    logarithms = [
        choose(present, k) + choose(images - present, size - k) - choose(images, size)
        for k in numbers.tolist()
    ]
    return numbers, np.exp(np.array(logarithms, np.float64))


def sizes(
    population: Population, relative_error: float, confidence: float, draws: int, rng: np.random.Generator
) -> tuple[float, list[tuple[float, float]]]:
    """Return the mean size of samples in two steps, and (share of the images, share of samples) of classes.

    The classes are those of which it is expected, and the samples those whose error is as requested.
    """
    promised = np.flatnonzero(population.frequency >= FREQUENCY)
    total, reached = 0, np.zeros(len(promised))
    for _ in range(draws):
        order = rng.permutation(population.images)
        pilot = ImageSums(population.classes)
        pilot.add(population.pixels[order[:PILOT]], population.total[order[:PILOT]])
        size = max(PILOT, images_needed(pilot, population.images, relative_error, confidence))
        total += min(size, population.images)
        drawn = order[:size]
        share = population.pixels[drawn].sum(axis=0) / population.total[drawn].sum()
        reached += np.abs(share / population.share - 1)[promised] <= relative_error
    frequencies = population.frequency[promised].tolist()
    return total / draws, list(zip(frequencies, (reached / draws).tolist(), strict=True))


def _print_coverage(title: str, rows: list[Coverage]) -> None:
    names = ["share", *METHODS]
    print(f"\n{title}\n{'expected images':>15} {'classes':>8} {'draws':>7}", *(f"{n:>16}" for n in names))
    for low, high in itertools.pairwise(BINS):
        found = [row for row in rows if low <= row.expected < high and row.draws >= MIN_DRAWS]
        if not found:
            continue
        cells = []
        for name in names:
            rates = [row.hits[name] / row.given[name] for row in found if row.given[name] >= MIN_DRAWS]
            cells.append(f"{min(rates):8.1%}{np.mean(rates):8.1%}" if rates else f"{'–':>16}")
        label = f"{low:g} to {high:g}" if high < math.inf else f"{low:g} or more"
        print(f"{label:>15} {len(found):8} {min(row.draws for row in found):7}", *cells, flush=True)


def _print_sizes(error: float, confidence: float, size: float, rows: list[Any]) -> None:
    lowest = min(reached for _, reached in rows)
    mean = np.mean([reached for _, reached in rows])
    print(
        f"±{error:.0%} at {confidence:.0%}: {size:,.0f} images drawn on average; reached in {lowest:.1%} of "
        f"the samples for the worst of {len(rows)} classes, {mean:.1%} on average",
        flush=True,
    )


def _camvid(folder: str) -> Iterator[tuple[str, Population, tuple[int, ...]]]:
    table = statsvc.scan(folder, grid="4x4")
    classes = slice(0, 11)
    yield "CamVid", Population(table.rows.counts[:, classes]), (150, 250)
    tiles = np.concatenate([tiles for *_, tiles in table.sample_tiles()])
    tiles = tiles.reshape(-1, tiles.shape[2])[:, classes]
    yield "CamVid, sixteenths", Population(_not_empty(tiles)), (500, 1500)


def _kits19(folder: str) -> Iterator[tuple[str, Population, tuple[int, ...]]]:
    import nibabel

    slices = [
        np.bincount(np.asarray(image).ravel(), minlength=3)
        for file in sorted(Path(folder).glob("*.nii.gz"))
        for image in np.asarray(nibabel.load(file).dataobj, np.int64)
    ]
    yield "KiTS19, slices", Population(np.array(slices)), (300, 600)


def _not_empty(pixels: Int64) -> Int64:
    found: Int64 = pixels[pixels.sum(axis=1) > 0]
    return found


def populations(rng: np.random.Generator) -> Iterator[tuple[str, Population, tuple[int, ...]]]:
    """Yield the name, the images, and the sizes of samples of each synthetic population."""
    for spread in (0.5, 1.0, 2.0):
        yield f"video, areas vary by {spread:.0%}", Population(video(20_000, spread, rng)), (500, 2000)
    yield "video without rare classes", Population(video(20_000, 1.0, rng, lowest=0.25)), (500,)
    yield "long tail", Population(long_tail(20_000, rng)), (2000,)
    yield "long tail, few images", Population(long_tail(2000, rng)), (1000,)
    yield "filling", Population(filling(20_000, rng)), (1000,)


def main() -> None:
    """Print both tables of each population."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camvid", help="folder of CamVid's label maps")
    parser.add_argument("--kits19", help="folder of volumes of KiTS19")
    parser.add_argument("--draws", type=int, default=400, help="samples of each class and size")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    parts = [populations(rng)]
    if arguments.camvid:
        parts.append(_camvid(arguments.camvid))
    if arguments.kits19:
        parts.append(_kits19(arguments.kits19))
    print(
        f"Lowest and mean coverage of 95 % intervals. Standard error of the coverage of one class: "
        f"{math.sqrt(0.95 * 0.05 / arguments.draws):.1%}"
    )
    for title, population, drawn in itertools.chain(*parts):
        for size in drawn:
            rows = coverage(population, size, arguments.draws, rng)
            _print_coverage(f"{title}, {population.images:,} images, {size:,} drawn", rows)
        for error, confidence in ((0.1, 0.95), (0.2, 0.9)):
            _print_sizes(error, confidence, *sizes(population, error, confidence, arguments.draws, rng))


if __name__ == "__main__":
    main()
