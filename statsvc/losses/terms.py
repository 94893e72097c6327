"""Cross-entropy and Dice loss, computed from the sums over pixels of `class_sums`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """Sums over the valid pixels of each sample and class, each [N, C] and of the same dtype.

    `statsvc.losses.class_sums` defines them.
    """

    nll: Tensor
    overlap: Tensor
    mass: Tensor
    pixels: Tensor

    def of_the_batch(self) -> Tensor:
        """Return the four sums over all samples, [4, 1, C]."""
        return torch.stack(self).sum(1, keepdim=True)


def cross_entropy(sums: Sums, weight: Tensor) -> Tensor:
    """Return Σ w·ℓ / Σ w over valid pixels, as `torch.nn.CrossEntropyLoss` does; 0 if Σ w is 0.

    weight  [C], at least 0. A class of weight 0 adds nothing, even if the loss of its pixels is infinite
    """
    weighted = torch.where(weight > 0, weight * sums.nll, 0).sum()
    return _ratio(weighted, (weight * sums.pixels).sum())


def dice(sums: Sums, weight: Tensor, smooth: float, skip_absent: bool) -> Tensor:
    """Return Σ w·(1 − D) / Σ w over classes, averaged over the samples that have a valid pixel.

    D = (2·overlap + smooth) / (mass + pixels + smooth). Classes of weight 0 are excluded, and with
    `skip_absent` also the classes without a pixel in a sample. The loss of a sample without classes is 0.

    weight  [C], at least 0
    """
    numerator, denominator = 2 * sums.overlap + smooth, sums.mass + sums.pixels + smooth
    # 0 / 0 occurs with smooth=0 if a class is neither present nor predicted: its loss is 0.
    positive = denominator > 0
    loss = torch.where(positive, (denominator - numerator) / torch.where(positive, denominator, 1), 0)
    class_weight = weight * (sums.pixels > 0) if skip_absent else weight.expand_as(loss)
    sample_loss = _ratio((class_weight * loss).sum(1), class_weight.sum(1))
    has_pixels = sums.pixels.sum(1) > 0
    return _ratio((sample_loss * has_pixels).sum(), has_pixels.sum())


def _ratio(value: Tensor, total: Tensor) -> Tensor:
    """Return value / total; 0 with zero gradient where total is 0."""
    return torch.where(total > 0, value / torch.where(total > 0, total, 1), 0)
