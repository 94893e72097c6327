"""Sums over the images of a random sample, from which shares, their variances and replicates follow.

The images are drawn without replacement, each with the same probability, so the images are the units of
every variance, not their pixels: the pixels of one image resemble each other. Notation: m images drawn from
M, and in image i x_i pixels of a class out of n_i.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.weighting.compute import ClassCounts

    Float64 = NDArray[np.float64]

MIN_IMAGES = 100
"""Images of the sample in which a class must occur to have intervals."""

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
        self._moments = np.zeros((5, classes))  # Σx², Σxn, Σx³, Σx²n, Σxn²
        self._total_moments = np.zeros(2)  # Σn², Σn³
        self._sums = np.zeros(3 * classes + 2)
        self._replicates = np.zeros((replicates, 3 * classes + 2))
        self._random = np.random.default_rng(_SEED)

    def add(self, pixels: NDArray[np.int64], total: NDArray[np.int64]) -> None:
        """Add images: pixels of each class, int64 [k, C], and the denominator of the share, int64 [k]."""
        x, n = pixels.astype(np.float64), total.astype(np.float64)[:, None]
        present = x > 0
        self.drawn += len(x)
        self.images += present.sum(axis=0)
        products = (x * x, x * n, x**3, x * x * n, x * n * n)
        self._moments += [product.sum(axis=0) for product in products]
        self._total_moments += (n**2).sum(), (n**3).sum()
        columns = np.hstack([x, present, present * n, n, np.ones_like(n)])
        self._sums += columns.sum(axis=0)
        if len(self._replicates):
            times = self._random.poisson(1.0, (len(self._replicates), len(x)))
            self._replicates += times.astype(np.float64) @ columns

    @property
    def estimated(self) -> NDArray[np.bool_]:
        """Whether a class has intervals, bool [C]: it occurs in `MIN_IMAGES` images."""
        enough: NDArray[np.bool_] = self.images >= MIN_IMAGES
        return enough

    @property
    def share(self) -> Float64:
        """Each class's share of the pixels, float64 [C]: the ratio R = Σx/Σn."""
        shares: Float64 = self._sums[: len(self.images)] / self._sums[-2]
        return shares

    @property
    def effective_images(self) -> Float64:
        """Effective images that contain a class, float64 [C]: (Σx)²/Σx².

        As many images in which the class had the same area would be about as uncertain (Kish, Survey
        Sampling, 1965, on unequal weights). 0 for a class without pixels.
        """
        pixels = self._sums[: len(self.images)]
        effective: Float64 = np.divide(
            pixels**2, self._moments[0], out=np.zeros_like(pixels), where=pixels > 0
        )
        return effective

    def relative_variance(self) -> Float64:
        """Return s²/(R·mean(n))² of each class, float64 [C]; infinite for a class without pixels.

        s² = Σ(x_i − R·n_i)²/(m − 1) is the variance of the residuals of the ratio R, so that the ratio's own
        relative variance is (1 − m/M)/m times the result (Cochran, Sampling Techniques, 1977, eq. 6.13).
        """
        mean = self._sums[-2] / self.drawn
        variance = self._residual_squares() / max(1, self.drawn - 1)
        ratio = self.share
        unknown: Float64 = np.full_like(ratio, np.inf)
        np.divide(variance, (ratio * mean) ** 2, out=unknown, where=ratio > 0)
        return unknown

    def skewness(self) -> Float64:
        """Return the skewness of each class's sum of residuals x_i − R·n_i, float64 [C]: Σd³/(Σd²)^(3/2)."""
        (_, _, xxx, xxn, xnn), ratio = self._moments, self.share
        cubes = xxx - 3 * ratio * xxn + 3 * ratio**2 * xnn - ratio**3 * self._total_moments[1]
        scale = self._residual_squares() ** 1.5
        # Residuals that are only rounding errors, of a class that has all pixels, have no skewness.
        known = scale > 1e-9 * xxx
        skewness: Float64 = np.divide(cubes, scale, out=np.zeros_like(cubes), where=known)
        return skewness

    def presence_covariance(self) -> Float64:
        """Return m/(1 − m/M) times the covariance of ln R and the logit of p, float64 [C].

        p  share of the images that contain the class

        Both are linearized (Cochran 1977, § 6.3). It is 0 where every image, or none, contains the class.
        """
        classes = len(self.images)
        frequency = self.images / self.drawn
        pixels_of_images = self._sums[2 * classes : 3 * classes] / self._sums[-2]
        spread = frequency * (1 - frequency)
        covariance: Float64 = np.divide(
            1 - pixels_of_images, spread, out=np.zeros_like(spread), where=spread > 0
        )
        return covariance * self.drawn / max(1, self.drawn - 1)

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

    def _residual_squares(self) -> Float64:
        """Return Σ(x_i − R·n_i)² of each class, float64 [C]."""
        squares, products = self._moments[:2]
        ratio = self.share
        residual = squares - 2 * ratio * products + ratio**2 * self._total_moments[0]
        return np.asarray(np.maximum(residual, 0.0), np.float64)


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
