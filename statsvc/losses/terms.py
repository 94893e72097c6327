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
    spread: Tensor
    pixels: Tensor

    def of_the_batch(self) -> Tensor:
        """Return the sums over all samples, [5, 1, C]."""
        return torch.stack(self).sum(1, keepdim=True)


def cross_entropy(
    sums: Sums, weight: Tensor, alpha: Tensor | float = 1, label_smoothing: float = 0
) -> Tensor:
    """Return Σ w·α·ℓ / Σ w over valid pixels, as `torch.nn.CrossEntropyLoss` does for α = 1; 0 if Σ w is 0.

    weight           [C], at least 0. A class of weight 0 adds nothing, even if the loss of its pixels is
                     infinite; if it is NaN, so is the result
    alpha            [C] or a number, at least 0
    label_smoothing  ε in 0 … 1: the target of class c is (1 − ε)·y_c + ε/C, and w_c its weight, as in Torch
    """
    total = (weight * sums.pixels).sum()
    value = _weighted(weight * alpha, sums.nll)
    if label_smoothing:
        spread = _weighted(weight * (total > 0), sums.spread) / len(weight)
        value = (1 - label_smoothing) * value + label_smoothing * spread
    return _ratio(value, total)


def dice(
    sums: Sums,
    weight: Tensor,
    included: Tensor,
    smooth: float,
    skip_absent: bool,
    alpha: Tensor | float = 0.5,
    beta: Tensor | float = 0.5,
    gamma: float = 1,
) -> tuple[Tensor, Tensor]:
    """Return the mean over the samples that have a valid pixel of Σ w·(1 − D)^γ / Σ w over classes.

    The second result, [C], is the mean of (1 − D)^γ over the samples in which the class takes part, and NaN
    without such a sample.

    D = (2·overlap + smooth) / (2·overlap + 2α·FP + 2β·FN + smooth) is Tversky's index, with false positives
    FP = mass − overlap and false negatives FN = pixels − overlap. With α = β = ½ it is Dice,
    (2·overlap + smooth) / (mass + pixels + smooth). Classes of weight 0 are excluded, and with `skip_absent`
    also the classes without a pixel in a sample. The loss of a sample without classes is 0. NaN in a pixel is
    NaN in the mass of every class, so the result is NaN, whichever classes are excluded.

    weight       [C], at least 0
    included     bool [C], the classes that take part
    alpha, beta  [C] or a number, at least 0
    gamma        above 0
    """
    false_positive, false_negative = sums.mass - sums.overlap, sums.pixels - sums.overlap
    errors = 2 * (alpha * false_positive + beta * false_negative)
    # 0 / 0 occurs with smooth=0 if a class is neither present nor predicted: its loss is 0.
    loss = _ratio(errors, 2 * sums.overlap + errors + smooth)
    if gamma != 1:
        positive = loss > 0  # the derivative of a power below 1 is infinite at 0
        loss = torch.where(positive, torch.where(positive, loss, 1) ** gamma, loss)
    has_pixels = (sums.pixels.sum(1, keepdim=True) > 0).expand_as(loss)
    takes_part = included & ((sums.pixels > 0) if skip_absent else has_pixels)
    class_weight = weight * takes_part
    sample_loss = _ratio((class_weight * loss).sum(1), class_weight.sum(1))
    value = _ratio((sample_loss * has_pixels[:, 0]).sum(), has_pixels[:, 0].sum())
    return value, (loss * takes_part).sum(0) / takes_part.sum(0)


def _weighted(weight: Tensor, values: Tensor) -> Tensor:
    """Return Σ weight·values, in which a weight of 0 excludes everything but NaN."""
    return torch.where((weight > 0) | values.isnan(), weight * values, 0).sum()


def _ratio(value: Tensor, total: Tensor) -> Tensor:
    """Return value / total, and value where total is 0: value is 0 there, or NaN because of the logits."""
    return value / torch.where(total == 0, 1, total)
