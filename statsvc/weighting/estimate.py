"""How far the shares and weights of a sample of images are from those of all images.

The images are drawn without replacement, each with the same probability, so the images are the units of
every variance, not their pixels: the pixels of one image resemble each other. Notation: m images drawn from
M, and in image i x_i pixels of a class out of n_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.weighting.class_columns import ClassColumns
from statsvc.weighting.class_names import listed
from statsvc.weighting.compute import ClassCounts, compute_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

    Float64 = NDArray[np.float64]

CONFIDENCE = 0.95
"""Confidence of the intervals in answers."""

MIN_IMAGES = 100
"""Images of the sample in which a class must occur to have intervals; below, they would be too narrow."""

MIN_EFFECTIVE_IMAGES = 50
"""Effective images that must contain it: fewer where most of its pixels are in few of the images."""

PILOT = 400
"""Images that are counted first where the size of the sample follows from a relative error."""

PILOT_IMAGES = 20
"""Images of the pilot in which a class must occur to take part in choosing the size of the sample."""

REPLICATES = 200
"""Bootstrap replicates."""

_SEED = 0
"""Fixed, so that equal samples have equal intervals in every process."""


class ImageSums:
    """Sums over the images of a sample, added in blocks, so that its rows need not fit into memory.

    With `replicates`, also the sums of as many bootstrap replicates: in each one, an image takes part as
    often as a Poisson number of mean 1 says (Hanley and MacGibbon 2006, Computer Methods and Programs in
    Biomedicine 83:57-62), which needs a single pass.
    """

    def __init__(self, classes: int, replicates: int = 0) -> None:
        self.drawn = 0
        self.images = np.zeros(classes, np.int64)
        self._products = np.zeros((2, classes))
        self._total_squares = 0.0
        self._sums = np.zeros(3 * classes + 2)
        self._replicates = np.zeros((replicates, 3 * classes + 2))
        self._random = np.random.default_rng(_SEED)

    def add(self, pixels: NDArray[np.int64], total: NDArray[np.int64]) -> None:
        """Add images: pixels of each class, int64 [k, C], and the denominator of the share, int64 [k]."""
        x, n = pixels.astype(np.float64), total.astype(np.float64)[:, None]
        present = x > 0
        self.drawn += len(x)
        self.images += present.sum(axis=0)
        self._products += (x**2).sum(axis=0), (x * n).sum(axis=0)
        self._total_squares += float((n**2).sum())
        columns = np.hstack([x, present, present * n, n, np.ones_like(n)])
        self._sums += columns.sum(axis=0)
        if len(self._replicates):
            times = self._random.poisson(1.0, (len(self._replicates), len(x)))
            self._replicates += times.astype(np.float64) @ columns

    @property
    def estimated(self) -> NDArray[np.bool_]:
        """Whether a class has intervals, bool [C].

        It occurs in `MIN_IMAGES` images, and in `MIN_EFFECTIVE_IMAGES` effective ones, (Σx)²/Σx²: as many
        images of equal area are about as uncertain (Kish, Survey Sampling, 1965, on unequal weights).
        """
        pixels = self._sums[: len(self.images)]
        effective = np.divide(pixels**2, self._products[0], out=np.zeros_like(pixels), where=pixels > 0)
        enough: NDArray[np.bool_] = (self.images >= MIN_IMAGES) & (effective >= MIN_EFFECTIVE_IMAGES)
        return enough

    @property
    def share(self) -> Float64:
        """Each class's share of the pixels, float64 [C]: the ratio Σx/Σn."""
        shares: Float64 = self._sums[: len(self.images)] / self._sums[-2]
        return shares

    def relative_variance(self) -> Float64:
        """Return s²/(R·mean(n))² of each class, float64 [C]; infinite for a class without pixels.

        s² = Σ(x_i − R·n_i)²/(m − 1) is the variance of the residuals of the ratio R, so that the ratio's own
        relative variance is (1 − m/M)/m times the result (Cochran, Sampling Techniques, 1977, eq. 6.13).
        """
        squares, products = self._products
        ratio, mean = self.share, self._sums[-2] / self.drawn
        residual = np.maximum(squares - 2 * ratio * products + ratio**2 * self._total_squares, 0.0)
        variance = residual / max(1, self.drawn - 1)
        unknown: Float64 = np.full_like(ratio, np.inf)
        np.divide(variance, (ratio * mean) ** 2, out=unknown, where=ratio > 0)
        return unknown

    def share_intervals(self, fraction: float, confidence: float = CONFIDENCE) -> Float64:
        """Return an interval of each class's share, float64 [C, 2], within [0, 1].

        fraction  m/M

        The variance is that of the ratio estimator with the finite population correction, transferred to the
        scale of ln(R/(1 − R)) by its derivative: there the estimate is nearly symmetric although few images
        contain most pixels of a rare class, and no end leaves [0, 1]. It has no meaning for classes that
        are not `estimated`.
        """
        ratio = self.share
        inside = (ratio > 0) & (ratio < 1)
        odds = np.log(np.where(inside, ratio, 0.5) / np.where(inside, 1 - ratio, 0.5))
        relative = np.where(inside, self.relative_variance(), 0.0) * (1 - fraction) / self.drawn
        half = _quantile(confidence) * np.sqrt(relative) / np.where(inside, 1 - ratio, 1.0)
        ends = 1 / (1 + np.exp(-(odds[:, None] + half[:, None] * np.array([-1.0, 1.0]))))
        return np.where(inside[:, None], ends, ratio[:, None])

    def counts(self, counts: ClassCounts, fraction: float) -> list[ClassCounts]:
        """Return the counts of all images that each replicate estimates, with the other fields of `counts`.

        A replicate deviates from the sample by sqrt((1 − m/M)·m/(m − 1)) times what its images say: without
        this correction for a finite population it would be as uncertain as a sample of infinitely many images
        (Rao and Wu 1988, JASA 83:231-241).
        """
        shrink = min(1.0, math.sqrt((1 - fraction) * self.drawn / max(1, self.drawn - 1)))
        scale = self.drawn / np.maximum(self._replicates[:, -1:], 1.0)
        sums = (self._sums + shrink * (self._replicates * scale - self._sums)) / fraction
        classes = len(self.images)
        return [
            replace(
                counts,
                pixels=row[:classes],
                images=row[classes : 2 * classes],
                image_pixels=row[2 * classes : 3 * classes],
                total=float(row[-2]),
            )
            for row in sums
        ]


def weight_intervals(
    sums: ImageSums, counts: ClassCounts, spec: WeightSpec, fraction: float, confidence: float = CONFIDENCE
) -> Float64 | None:
    """Return an interval of each class's weight, float64 [C, 2]; None where there is none.

    The standard interval from the standard deviation of the weights of bootstrap replicates (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6 and 12), for positive weights on the scale of
    their logarithms, where it is nearly symmetric, as that of a share.

    A weight that depends on the other classes, by normalization or by a median, has an interval only if every
    class that is not ignored has one: a single rare class can change all of them.
    """
    estimated = sums.estimated
    if spec.unit == "objects" or not (estimated | counts.ignored).all():
        independent = spec.normalize in (None, "none") and not spec.method.startswith("median_freq")
        automatic = spec.method == "effective_num" and getattr(spec.beta, "complement", 0) is None
        if spec.unit == "objects" or not independent or automatic:
            return None
    if not (estimated & ~counts.ignored).any():
        return None
    known = replace(counts, ignored=counts.ignored | ~estimated)
    weights = compute_weights(of_all_images(known, fraction), spec).weights
    replicates = np.array([compute_weights(each, spec).weights for each in sums.counts(known, fraction)])
    positive = (weights > 0) & (replicates > 0).all(axis=0)
    values, center = (
        np.where(positive, np.log(np.where(positive, v, 1.0)), v) for v in (replicates, weights)
    )
    half = _quantile(confidence) * values.std(axis=0, ddof=1)
    ends = center[:, None] + half[:, None] * np.array([-1.0, 1.0])
    return np.where(positive[:, None], np.exp(np.where(positive[:, None], ends, 0.0)), ends)


def pilot_sums(
    configuration: Configuration, raw_id: NDArray[np.int64], counts: NDArray[np.int64]
) -> ImageSums:
    """Return the sums of a pilot, for counts, int64 [k, K], of raw ids, under a dataset's own classes."""
    class_id, counted = raw_id, np.ones(len(raw_id), bool)
    if configuration.class_map is not None:
        class_id, counted = configuration.class_map.apply(raw_id)
    ignored = (255,) if configuration.ignore_index is None else configuration.ignore_index
    counted = counted & (class_id >= 0) & ~np.isin(class_id, np.array(ignored, np.int64))
    classes, column = np.unique(class_id[counted], return_inverse=True)
    pixels = np.zeros((len(counts), len(classes)), np.int64)
    np.add.at(pixels.T, column, counts.T[counted])
    total = pixels.sum(axis=1)
    sums = ImageSums(len(classes))
    sums.add(pixels[total > 0], total[total > 0])
    return sums


def images_needed(sums: ImageSums, population: int, relative_error: float, confidence: float) -> int:
    """Return how many images to draw so that the interval of a share is within ±`relative_error` of it.

    sums  those of a pilot: the first images of the sample

    The largest number that a class needs for its variance, m = z²·v/ε² with the finite population
    correction m/(1 + m/M) (Cochran 1977, ch. 4, also on samples in two steps), and to occur in `MIN_IMAGES`.
    Only classes that occur in `PILOT_IMAGES` of the pilot take part: rarer ones would need almost all images.
    """
    common = sums.images >= PILOT_IMAGES
    if not common.any():
        return population
    frequency = sums.images[common] / sums.drawn
    # What the pilot of m images says of the variance is itself uncertain: 2/m more (Cochran 1977, § 4.7).
    uncertain = 1 + 2 / sums.drawn
    infinite = _quantile(confidence) ** 2 * sums.relative_variance()[common] / relative_error**2 * uncertain
    needed = infinite / (1 + infinite / population)
    # Two standard deviations more than the mean, so that the class is seen often enough in most samples.
    seen = (MIN_IMAGES + 2 * math.sqrt(MIN_IMAGES)) / frequency
    return min(population, math.ceil(max(float(needed.max()), float(seen.max()))))


def images_bound(images: int, drawn: int, confidence: float = CONFIDENCE) -> float:
    """Return an upper bound of the share of images that contain a class seen in few of the drawn ones.

    The mean μ at which a Poisson number is at most `images` with probability 1 − `confidence`, divided by
    `drawn`. For a class that was not seen, μ is 3.00, the rule of three (Hanley and Lippman-Hand 1983, JAMA
    249:1743-1745); Garwood (1936, Biometrika 28:437-442) gives it for any number.
    """
    low, high = 0.0, images + 10.0 + 10.0 * math.sqrt(images + 1)
    for _ in range(60):
        mean = (low + high) / 2
        terms = (math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(images + 1))
        low, high = (mean, high) if sum(terms) > 1 - confidence else (low, mean)
    return min(1.0, high / drawn)


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What an answer says about a sample: images of each class and intervals, [C] and [C, 2]."""

    drawn: int
    images: NDArray[np.int64]
    estimated: NDArray[np.bool_]
    share: Float64
    weight: Float64 | None


def fraction_of(table: Table) -> float:
    """Return the share of its images that a table contains, 0 to 1, unreadable ones included."""
    if table.sampled_from is None:
        return 1.0
    return ((table.totals().samples or 0) + table.failed()) / table.sampled_from


def of_all_images(counts: ClassCounts, fraction: float) -> ClassCounts:
    """Return the counts that a sample estimates for all images: some methods depend on more than shares."""

    def scaled(values: NDArray[Any] | None) -> Any:
        return None if values is None else values / fraction

    return replace(
        counts,
        pixels=scaled(counts.pixels),
        total=counts.total / fraction,
        images=scaled(counts.images),
        image_pixels=scaled(counts.image_pixels),
        objects=scaled(counts.objects),
        samples=None if counts.samples is None else round(counts.samples / fraction),
    )


def describe(
    body: dict[str, Any],
    table: Table,
    interpreted: InterpretedCounts,
    counts: ClassCounts,
    spec: WeightSpec,
) -> None:
    """Add to a weights response from a sample what it is an estimate of, and how uncertain it is.

    `estimate` has the images drawn, those they were drawn from, and the confidence. A class that is not
    ignored has `interval` of its share, and `weight_interval` where `weight_intervals` gives one, if it was
    seen in enough images, see `ImageSums.estimated`; otherwise `images_bound`, and a warning says so.
    """
    assert table.sampled_from is not None
    fraction = fraction_of(table)
    body["estimate"] = {
        "images": round(fraction * table.sampled_from),
        "of": table.sampled_from,
        "confidence": CONFIDENCE,
    }
    if not table.has_rows:
        return

    def make() -> _Estimate:
        columns = ClassColumns.of(interpreted)
        sums = ImageSums(columns.classes, REPLICATES)
        for _, rows in table.sample_counts(spec.split, interpreted.class_map):
            pixels = np.zeros((len(rows), columns.classes), np.int64)
            pixels[:, columns.class_id] = rows[:, columns.columns]
            selected = rows[:, interpreted.counted] if spec.denominator == "counted" else rows
            sums.add(pixels, selected.sum(axis=1))
        weight = weight_intervals(sums, counts, spec, fraction)
        return _Estimate(sums.drawn, sums.images, sums.estimated, sums.share_intervals(fraction), weight)

    estimate = table.cached(("estimate", spec), make)
    few = []
    for k, row in enumerate(body["classes"]):
        if row.get("ignored"):
            continue
        if estimate.estimated[k]:
            row["interval"] = estimate.share[k].tolist()
            if estimate.weight is not None:
                row["weight_interval"] = estimate.weight[k].tolist()
        else:
            row["images_bound"] = images_bound(int(estimate.images[k]), estimate.drawn)
            few.append(row["name"])
    if few:
        weights = "" if estimate.weight is not None else ", and neither are weights that depend on them"
        body["warnings"].append(
            {
                "code": "not_estimated",
                "message": f"{len(few)} of {len(body['classes'])} classes occur in too few of the "
                f"{estimate.drawn} sampled images ({MIN_IMAGES} are needed, and more where few contain most "
                f"of the pixels), so their shares are not estimated{weights}: {listed(few)}. Count more",
            }
        )


def _quantile(confidence: float) -> float:
    """Return z of a two-sided interval under a normal distribution."""
    from statistics import NormalDist  # not for exact counts

    return NormalDist().inv_cdf((1 + confidence) / 2)
