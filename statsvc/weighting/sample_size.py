"""How many images to draw for a relative error of the shares: the second step of a sample in two steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from statsvc.weighting.conditional_intervals import student_quantile
from statsvc.weighting.image_sums import MIN_IMAGES, ImageSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration

PILOT = 400
"""Images that are counted first where the size of the sample follows from a relative error."""

PILOT_IMAGES = 20
"""Images of the pilot in which a class must occur to take part in choosing the size of the sample."""

FREQUENCY = 0.075
"""Share of the images from which a class almost always takes part: of 30 expected, a pilot has 20."""


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
    """Return how many images to draw so that the error of a share is at most `relative_error` of it.

    sums  those of a pilot: the first images of the sample

    The largest number m that a class needs for its variance, with the finite population correction
    m/(1 + m/M), and to occur in `MIN_IMAGES`. For a pilot of k images, a relative variance v and C = (ε/t)²,

        m = v/C · (1 + 8C + v/k + 2/k)

    (Cox 1952, Biometrika 39:217-227; Cochran, Sampling Techniques, 1977, § 4.7). The terms after the 1
    compensate for the errors of the pilot, and so does Student's t instead of z (Stein 1945, Annals of
    Mathematical Statistics 16:243-258). Only classes that occur in `PILOT_IMAGES` of the pilot take part:
    rarer ones would need almost all images.
    """
    common = sums.images >= PILOT_IMAGES
    if not common.any():
        return population
    frequency = sums.images[common] / sums.drawn
    variance = sums.relative_variance()[common]
    relative = (relative_error / student_quantile(confidence, sums.effective_images[common] - 1)) ** 2
    infinite = variance / relative * (1 + 8 * relative + (variance + 2) / sums.drawn)
    needed = infinite / (1 + infinite / population)
    # Two standard deviations more than the mean, so that the class is seen often enough in most samples.
    seen = (MIN_IMAGES + 2 * math.sqrt(MIN_IMAGES)) / frequency
    return min(population, math.ceil(max(float(needed.max()), float(seen.max()))))
