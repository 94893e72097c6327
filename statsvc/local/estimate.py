"""Confidence intervals of class shares that are estimated from a sample of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

_MISS_PROBABILITY = 0.05
"""Probability of drawing no image with a class, at the upper bound for a class that was not seen."""


def share_intervals(pixels: NDArray[np.int64], total: NDArray[np.int64], images: int) -> NDArray[np.float64]:
    """Return a 95 % interval of each class's share of pixels, float64 [C, 2], within [0, 1].

    pixels  int64 [m, C], pixels of each class in each of m >= 2 images drawn without replacement
    total   int64 [m], denominator of the share in each image, in pixels; its sum must be positive
    images  number M of images in the population

    The share R is a ratio of two totals, so its variance is that of the ratio estimator with the finite
    population correction: (1 − m/M)/(m·mean(n)²) · Σ(x_i − R·n_i)²/(m − 1), where x_i and n_i are the
    pixels of the class and the denominator in image i (Cochran, Sampling Techniques, 1977, eq. 6.13).
    The normal approximation is too narrow for a class that occurs in few of the drawn images.

    A class that occurs in none of them occurs in at most 1 − 0.05^(1/m) of all images with 95 %
    confidence. If all images have the same size, this also bounds its share.
    """
    drawn = len(total)
    x, n = pixels.astype(np.float64), total.astype(np.float64)
    share = x.sum(axis=0) / n.sum()
    residual = ((x - share * n[:, None]) ** 2).sum(axis=0) / (drawn - 1)
    half = _Z * np.sqrt((1 - drawn / images) * residual / drawn) / n.mean()
    low, high = np.maximum(share - half, 0.0), np.minimum(share + half, 1.0)
    unseen = 1 - _MISS_PROBABILITY ** (1 / drawn) if drawn < images else 0.0
    high = np.where(pixels.any(axis=0), high, unseen)
    return np.stack([low, high], axis=1)
