"""Confidence intervals of estimates that are shown only if a class was seen in enough images.

The standard interval, estimate ± quantile × standard error, fails in three ways for rare classes, and each
has its correction here:

- A class has an interval only if enough images of the sample contain it. If that is so by chance, its share
  is too large. The interval is therefore one given the condition: that of a normal distribution truncated to
  the estimates at which the condition holds (Lee, Sun, Sun and Taylor 2016, Annals of Statistics 44:907-927).
- Few images contain most pixels of a class, so the standard error is uncertain itself. The quantile is that
  of Student's t with the effective number of images less one as degrees of freedom (Potthoff, Woodbury and
  Manton 1992, JASA 87:383-396).
- The areas are skewed, so the estimate is more often too small than too large. The end on the side of the
  skewness moves outwards (Hall 1992, Journal of the Royal Statistical Society B 54:221-228). The other end
  stays, because a sample shows less skewness than there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

REACH = 20.0
"""Standard errors between an estimate and an end of its interval, at most: at the condition itself, an
estimate says nothing about how much smaller the value is."""

_STEPS = 50
"""Bisections of the range of `REACH`."""

_erfc = np.frompyfunc(math.erfc, 1, 1)


def normal_quantile(confidence: float) -> float:
    """Return the z of a two-sided interval under a normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)


def student_quantile(confidence: float, freedom: Float64) -> Float64:
    """Return the t of a two-sided interval under Student's distribution, for degrees of freedom of 2 or more.

    The expansion in 1/ν of Abramowitz and Stegun (1964, eq. 26.7.5). For a confidence of 95 %, its relative
    error is below 1 % at two degrees of freedom and below 0.1 % from four.
    """
    z = normal_quantile(confidence)
    terms = [
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (z**3 + z) / 4,
        z,
    ]
    return np.asarray(np.polyval(terms, 1 / np.maximum(freedom, 2.0)), np.float64)


def skewed_quantiles(quantile: Float64, shift: Float64, bend: Float64) -> Float64:
    """Return how many standard errors the ends are from the estimate, float64 [C, 2], both positive.

    quantile  those of a symmetric interval, float64 [C]
    shift     k1, mean of the studentized estimate, float64 [C]
    bend      k3, its third cumulant, float64 [C]

    Hall's monotone transformation g(T) = T + A + B·T² + B²·T³/3, with B = −k3/6 and A = −k1 + k3/6, is nearly
    normal, so the ends are at its inverse. None is less than `quantile`.
    """
    a, b = -shift + bend / 6, -bend / 6
    safe = np.where(np.abs(b) < 1e-9, 1.0, b)
    ends = []
    for sign in (1.0, -1.0):
        linear = sign * quantile - a
        inverse = np.where(safe == b, (np.cbrt(1 + 3 * safe * linear) - 1) / safe, linear)
        ends.append(np.maximum(sign * inverse, quantile))
    return np.stack(ends, axis=-1)


def limits(estimate: Float64, variance: Float64, margin: Float64, covariance: Float64) -> Float64:
    """Return between which values an estimate would still meet its conditions, float64 [C, 2].

    estimate    float64 [C], nearly normal
    variance    float64 [C]
    margin      by how much each condition is met, float64 [C, J]: a nearly normal number that must be ≥ 0;
                infinite for no condition
    covariance  of the estimates and the margins, float64 [C, J]

    Given what is independent of the estimate, its value alone decides (Lee et al. 2016, lemma 5.1).
    """
    slope = np.divide(
        covariance, variance[:, None], out=np.zeros_like(covariance), where=variance[:, None] > 0
    )
    affected = (slope != 0) & np.isfinite(margin)
    distance = np.divide(margin, slope, out=np.full_like(slope, np.inf), where=affected)
    low = np.where(affected & (slope > 0), estimate[:, None] - distance, -np.inf).max(axis=1, initial=-np.inf)
    high = np.where(affected & (slope < 0), estimate[:, None] - distance, np.inf).min(axis=1, initial=np.inf)
    return np.stack([low, high], axis=-1)


def truncated_interval(estimate: Float64, deviation: Float64, between: Float64, confidence: float) -> Float64:
    """Return an interval of the mean of a normal distribution truncated to `between`, float64 [C, 2].

    estimate   the observation, float64 [C]
    deviation  standard deviation without truncation for the lower and for the upper end, float64 [C, 2]
    between    float64 [C, 2], which contains the observation

    Neither end is further than `REACH` deviations from the estimate.
    """
    half = deviation * normal_quantile(confidence)
    ends = estimate[:, None] + half * np.array([-1.0, 1.0])
    distance = np.abs(between - estimate[:, None]).min(axis=1)
    # A condition that neither end comes near has no effect.
    near = (deviation > 0).all(axis=1) & (distance < 10 * deviation.max(axis=1))
    x, low, high = estimate[near], between[near, 0], between[near, 1]
    for end, probability in enumerate(((1 - confidence) / 2, (1 + confidence) / 2)):
        scale = deviation[near, end]
        left, right = x - REACH * scale, x + REACH * scale
        for _ in range(_STEPS):
            mean = (left + right) / 2
            above = _mass((x - mean) / scale, (high - mean) / scale)
            all_ = _mass((low - mean) / scale, (high - mean) / scale)
            too_small = above < probability * all_
            left, right = np.where(too_small, mean, left), np.where(too_small, right, mean)
        ends[near, end] = (left + right) / 2
    return np.asarray(ends, np.float64)


def _mass(low: Float64, high: Float64) -> Float64:
    """Return the probability between two values under the standard normal distribution, also far from 0."""
    # The smaller of both tails: differences of numbers near 1 would lose all digits.
    upper = low > -high
    inner, outer = np.where(upper, low, -high), np.where(upper, high, -low)
    return np.asarray((_erfc(inner / math.sqrt(2)) - _erfc(outer / math.sqrt(2))) / 2, np.float64)
