"""Intervals of the shares and weights that a random sample of images gives, and bounds for rare classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from statsvc.weighting.compute import ClassCounts, compute_weights
from statsvc.weighting.conditional_intervals import (
    limits,
    normal_quantile,
    skewed_quantiles,
    student_quantile,
    truncated_interval,
)
from statsvc.weighting.image_sums import MIN_IMAGES, ImageSums, of_all_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from statsvc.weighting.parameters import WeightSpec

    Float64 = NDArray[np.float64]

CONFIDENCE = 0.95
"""Confidence of the intervals in answers."""


def share_intervals(sums: ImageSums, fraction: float, confidence: float = CONFIDENCE) -> Float64:
    """Return an interval of each class's share R, float64 [C, 2], within [0, 1].

    fraction  m/M

    The variance is that of the ratio estimator with the finite population correction, transferred to the
    scale of ln(R/(1 − R)) by its derivative: no end leaves [0, 1], and a class that occurs far more often
    than expected does so with nearly the probability of a normal distribution there. The corrections are
    those of `statsvc.weighting.conditional_intervals`. A class that is not `estimated` has no valid interval.
    """
    ratio = sums.share
    inside = (ratio > 0) & (ratio < 1)
    odds = np.where(inside, _logit(np.where(inside, ratio, 0.5)), 0.0)
    scale = (1 - fraction) / sums.drawn / np.where(inside, 1 - ratio, 1.0)
    variance = np.where(inside, sums.relative_variance(), 0.0) * scale / np.where(inside, 1 - ratio, 1.0)
    covariance = sums.presence_covariance() * scale
    between = limits(odds, variance, _margin(sums)[:, None], covariance[:, None])
    deviation = np.sqrt(variance)[:, None] * _widening(sums, fraction, np.ones_like(ratio), confidence)
    ends = 1 / (1 + np.exp(-truncated_interval(odds, deviation, between, confidence)))
    return np.where(inside[:, None], ends, ratio[:, None])


def weight_intervals(
    sums: ImageSums, counts: ClassCounts, spec: WeightSpec, fraction: float, confidence: float = CONFIDENCE
) -> Float64 | None:
    """Return an interval of each class's weight, float64 [C, 2]; None where there is none.

    From the standard deviation of the weights of bootstrap replicates (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, ch. 6 and 12), for positive weights on the scale of their logarithms, with the
    corrections of `statsvc.weighting.conditional_intervals`.

    A weight that depends on the other classes, by normalization or by a median, has an interval only if every
    class that is not ignored has one: a single rare class can change all of them.
    """
    estimated = sums.estimated
    independent = spec.normalize in (None, "none") and not spec.method.startswith("median_freq")
    independent &= not (spec.method == "effective_num" and getattr(spec.beta, "complement", 0) is None)
    all_estimated = bool((estimated | counts.ignored).all())
    if spec.unit == "objects" or not (independent or all_estimated):
        return None
    if not (estimated & ~counts.ignored).any():
        return None
    known = replace(counts, ignored=counts.ignored | ~estimated)
    weights = compute_weights(of_all_images(known, fraction), spec).weights
    samples = sums.counts(known, fraction)
    replicates = np.array([compute_weights(each, spec).weights for each in samples])
    positive = (weights > 0) & (replicates > 0).all(axis=0)
    values, center = (
        np.where(positive, np.log(np.where(positive, v, 1.0)), v) for v in (replicates, weights)
    )
    variance = values.var(axis=0, ddof=1)
    covariance = _covariance(values, _presence(sums, samples, fraction))
    if independent:
        covariance *= np.eye(len(weights))
    margin = np.where(known.ignored, np.inf, _margin(sums))
    between = limits(center, variance, np.broadcast_to(margin, covariance.shape), covariance)
    widening = _widening(sums, fraction, _correlation(values, samples), confidence)
    ends = truncated_interval(center, np.sqrt(variance)[:, None] * widening, between, confidence)
    return np.where(positive[:, None], np.exp(np.where(positive[:, None], ends, 0.0)), ends)


def images_bound(images: int, drawn: int, confidence: float = CONFIDENCE) -> float:
    """Return an upper bound of the share of images that contain a class seen in few of the drawn ones.

    The mean μ at which a Poisson number is at most `images` with probability 1 − `confidence`, divided by
    `drawn`. For a class that was not seen, μ is 3.00, the rule of three (Hanley and Lippman-Hand 1983, JAMA
    249:1743-1745); Garwood (1936, Biometrika 28:437-442) gives it for any number. The bound is valid for
    samples without replacement, too, where such a number varies less.
    """
    low, high = 0.0, images + 10.0 + 10.0 * math.sqrt(images + 1)
    for _ in range(60):
        mean = (low + high) / 2
        terms = (math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(images + 1))
        low, high = (mean, high) if sum(terms) > 1 - confidence else (low, mean)
    return min(1.0, high / drawn)


def _logit(share: Float64) -> Float64:
    odds: Float64 = np.log(share) - np.log1p(-share)
    return odds


def _margin(sums: ImageSums) -> Float64:
    """Return by how much each class exceeds `MIN_IMAGES` on the scale of the logit, float64 [C].

    The limit is half an image below, because numbers of images are integers. It is infinite for classes in
    all images of the sample, and for those that are not `estimated`.
    """
    free = sums.estimated & (sums.images < sums.drawn)
    frequency = np.where(free, sums.images, sums.drawn / 2) / sums.drawn
    limit = min(MIN_IMAGES - 0.5, sums.drawn - 0.5) / sums.drawn
    return np.where(free, _logit(frequency) - math.log(limit / (1 - limit)), np.inf)


def _widening(sums: ImageSums, fraction: float, correlation: Float64, confidence: float) -> Float64:
    """Return by which factors the lower and upper half of each interval grow, float64 [C, 2], at least 1.

    correlation  of each estimate with the share of its class, float64 [C]: its cube is the part of the
                 skewness that they have in common

    The mean and the third cumulant of the studentized ratio without replacement are those of Sugden, Smith
    and Jones (2000, Journal of the Royal Statistical Society B 62:787-793), plus those that its logit adds.
    """
    ratio, skewness = sums.share, sums.skewness()
    rest = max(1 - fraction, 1e-6)
    known = ratio > 0
    relative = np.where(known, sums.relative_variance(), 0.0) * rest / sums.drawn
    curvature = np.sqrt(relative) * (1 - 2 * ratio) / np.maximum(1 - ratio, np.finfo(float).tiny)
    shift = -skewness * math.sqrt(rest) / 2 + curvature / 2
    bend = -skewness * (1 + rest) / math.sqrt(rest) + 3 * curvature
    quantile = student_quantile(confidence, sums.effective_images - 1)
    common = correlation**3
    return skewed_quantiles(quantile, common * shift, common * bend) / normal_quantile(confidence)


def _presence(sums: ImageSums, samples: Sequence[ClassCounts], fraction: float) -> Float64:
    """Return the linearized logit of the share of images with each class, float64 [replicates, C]."""
    frequency = sums.images / sums.drawn
    spread = frequency * (1 - frequency)
    images = np.array([each.images for each in samples]) * (fraction / sums.drawn)
    presence: Float64 = np.divide(images, spread, out=np.zeros_like(images), where=spread > 0)
    return presence


def _covariance(first: Float64, second: Float64) -> Float64:
    """Return the covariances of columns, float64 [C, J], from replicates, float64 [B, C] and [B, J]."""
    covariance: Float64 = (first - first.mean(axis=0)).T @ (second - second.mean(axis=0)) / (len(first) - 1)
    return covariance


def _correlation(values: Float64, samples: Sequence[ClassCounts]) -> Float64:
    """Return the correlation, float64 [C], of values, float64 [B, C], with the shares of their classes."""
    shares = np.array([each.pixels / each.total for each in samples])
    deviations = [each - each.mean(axis=0) for each in (values, shares)]
    product = np.prod([each.std(axis=0) for each in deviations], axis=0)
    covariance = (deviations[0] * deviations[1]).mean(axis=0)
    correlation: Float64 = np.divide(covariance, product, out=np.zeros_like(product), where=product > 0)
    return np.clip(correlation, -1.0, 1.0)
