"""Cross-entropy and Dice from sums for each class: a few numbers, in plain Torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """Sums over the valid pixels of each sample and class, [N, C] and of one dtype; see `class_sums`."""

    nll: Tensor
    overlap: Tensor
    mass: Tensor
    pixels: Tensor

    def of_the_batch(self) -> Tensor:
        """Return the four sums over all samples, [4, 1, C]."""
        return torch.stack(self).sum(1, keepdim=True)


def cross_entropy(sums: Sums, weight: Tensor) -> Tensor:
    """Return Σ w·ℓ / Σ w over valid pixels, as `torch.nn.CrossEntropyLoss`; 0 where Σ w is 0.

    weight  [C], at least 0; a class of weight 0 adds nothing, even where its pixels' loss is infinite
    """
    weighted = torch.where(weight > 0, weight * sums.nll, 0).sum()
    return _ratio(weighted, (weight * sums.pixels).sum())


def dice(sums: Sums, weight: Tensor, smooth: float, skip_absent: bool) -> Tensor:
    """Return Σ w·(1 − D) / Σ w over classes, then the mean over the samples that have a valid pixel.

    D = (2·overlap + smooth) / (mass + pixels + smooth). Classes of weight 0, and with `skip_absent` in each
    sample those without a pixel, take no part. A sample in which no class takes part has loss 0.
    """
    above, below = 2 * sums.overlap + smooth, sums.mass + sums.pixels + smooth
    # 0 / 0 is nothing there and nothing predicted, for instance with smooth=0: no loss.
    loss = torch.where(below > 0, (below - above) / torch.where(below > 0, below, 1), 0)
    part = weight * (sums.pixels > 0) if skip_absent else weight.expand_as(loss)
    of_sample = _ratio((part * loss).sum(1), part.sum(1))
    has_pixels = sums.pixels.sum(1) > 0
    return _ratio((of_sample * has_pixels).sum(), has_pixels.sum())


def _ratio(value: Tensor, total: Tensor) -> Tensor:
    """Return value / total, and 0 with zero gradient where total is 0."""
    return torch.where(total > 0, value / torch.where(total > 0, total, 1), 0)
