"""The arithmetic of the samplers, from counts to scores of images, without I/O.

`counts` is int64 [n, C] throughout: the counted pixels of each class in each of n images, after the
class map and without ignored ids. Scores are not normalized: image i is drawn with probability
q_i = score_i / Σ score, where the sum is over all images of the stream. `statsvc.weighting.schemes` has the
formulas and their sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.weighting.schemes import FULL_SIZE, MIN_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]


def automatic_min_pixels(size: float) -> int:
    """Return `min_pixels` for images of `size` pixels on average; small images have the same share."""
    return max(1, min(MIN_PIXELS, round(MIN_PIXELS * size / FULL_SIZE)))


def eligible(counts: Int64, min_pixels: int) -> Int64:
    """Return the number of images with at least `min_pixels` of each class, int64 [C]."""
    result: Int64 = (counts >= min_pixels).sum(axis=0, dtype=np.int64)
    return result


def class_probabilities(pixels: Int64, images: Int64, temperature: float) -> Float64:
    """Return P(c) of rare-class sampling, float64 [C]: softmax((1 − p)/T) over the classes with an image.

    pixels   int64 [C], pixels of each class in all images: p is their share
    images   int64 [C], eligible images of each class; a class without one is left out, and has P 0

    Raises `ValueError` where no class has an eligible image.
    """
    has_images = images > 0
    if not has_images.any():
        raise ValueError("no class has an eligible image")
    p = pixels[has_images] / pixels.sum(dtype=np.float64)
    # Relative to the rarest class, so that nothing overflows; a shift does not change the softmax.
    odds = np.exp((p.min() - p) / temperature)
    result = np.zeros(len(pixels))
    result[has_images] = odds / odds.sum()
    return result


def rare_class_scores(counts: Int64, probability: Float64, images: Int64, min_pixels: int) -> Float64:
    """Return the score of each image under rare-class sampling, float64 [n]; they add up to 1.

    probability  float64 [C], P(c) of `class_probabilities`
    images       int64 [C], eligible images of each class among all images
    """
    share = np.divide(probability, images, out=np.zeros(len(images)), where=images > 0)
    result: Float64 = (counts >= min_pixels).astype(np.float64) @ share
    return result


def repeat_factors(counts: Int64, total: int, threshold: float) -> Float64:
    """Return r_c = max(1, √(t/f_c)) of each class, float64 [C]; 1 for a class that does not occur.

    counts  int64 [C], images in which each class occurs, its pixels or its objects; f_c is their share of
            `total`
    """
    f = counts / float(max(1, total))
    result: Float64 = np.sqrt(np.divide(threshold, f, out=np.ones(len(f)), where=f > 0)).clip(min=1.0)
    return result


def repeat_factor_scores(counts: Int64, factors: Float64) -> Float64:
    """Return r_i of each image, float64 [n]: the largest r_c of its classes; 1 without classes."""
    result: Float64 = np.where(counts > 0, factors, 1.0).max(axis=1, initial=1.0)
    return result


def image_weight_scores(counts: Int64, weights: Float64) -> Float64:
    """Return the mean weight over the counted pixels of each image, float64 [n]; 0 without counted pixels."""
    pixels = counts.sum(axis=1, dtype=np.float64)
    result: Float64 = np.divide(counts @ weights, pixels, out=np.zeros(len(pixels)), where=pixels > 0)
    return result
