"""Samplers that draw images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from statsvc.samplers.base import StatisticsSampler, inverse_cdf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


class RareClassSampler(StatisticsSampler):
    """Rare class sampling as in DAFormer (Hoyer et al. 2022).

    Draws a class with probability softmax((1 − p)/temperature), where p is the share of pixels of each class,
    and then an image that contains the class. Draws are independent, so an image can occur any number of
    times in an epoch.

    Arguments are those of `StatisticsSampler`; params: temperature (default 0.01) and min_pixels ("auto").
    """

    sampler = "rare_class"


class ImageWeightSampler(StatisticsSampler):
    """Draws images in proportion to the mean class weight of their pixels.

    Draws are independent, as in `torch.utils.data.WeightedRandomSampler` with replacement, but without its
    limit of 2^24 images.

    Arguments are those of `StatisticsSampler`; params: those of class weights, such as
    `method="inverse_freq"`.
    """

    sampler = "image_weights"


class RepeatFactorSampler(StatisticsSampler):
    """Repeat factor sampling as in LVIS (Gupta et al. 2019): images with a rare class occur more than once.

    By default, an epoch has as many draws as the sum of all repeat factors, rounded up, so every epoch has
    the same length. An image with repeat factor r occurs ⌊r'⌋ or ⌈r'⌉ times per epoch, r' times on average,
    with r' = r · num_samples / (sum of all repeat factors).

    Arguments are those of `StatisticsSampler`; params: threshold (default 0.001).
    """

    sampler = "repeat_factor"

    def _default_draws(self) -> int:
        # A probability times `epoch`, the sum of all repeat factors, is the repeat factor of an image.
        # The sum over the given paths is rounded before `ceil`, because it has a floating-point error.
        return math.ceil(round(float(self._scores.sum() * self.sampling.epoch), 6))

    def _draw(self, random: np.random.Generator) -> Int64:
        # Systematic sampling over the images in random order: one random offset, then equal steps.
        order = random.permutation(len(self._scores))
        steps = (np.arange(self.num_samples) + random.random()) / self.num_samples
        drawn: Int64 = order[inverse_cdf(self._scores[order], steps)]
        return drawn[random.permutation(self.num_samples)]
