"""A slow, plain implementation of the losses: float64, one sample and class at a time, with autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def reference_losses(
    logits: Tensor,
    target: Tensor,
    *,
    ce_weight: float = 0.6,
    dice_weight: float = 0.4,
    smooth: float = 1.0,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
    square_denominator: bool = False,
    batch_dice: bool = False,
    include_background: bool = True,
    absent: str = "skip",
    kind: str = "weights",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, cross-entropy, Dice), float64 scalars."""
    classes = logits.shape[1]
    numbers = torch.ones(classes) if class_weights is None else torch.tensor(class_weights)
    weight = numbers.double() if kind == "weights" else torch.ones(classes).double()
    samples = []  # (logits [k, C], labels [k]) of the valid pixels
    for x, labels in zip(logits.double(), target.long(), strict=True):
        pixels = x.flatten(1).T[labels.flatten() != ignore_index]
        if kind == "additive":
            pixels = pixels + numbers.double()
        samples.append((pixels, labels[labels != ignore_index]))
    joined = torch.cat([x for x, _ in samples]), torch.cat([labels for _, labels in samples])

    zero = logits.double().nan_to_num(0, 0, 0).sum() * 0
    total = weight[joined[1]].sum()
    losses = -joined[0].log_softmax(1)[torch.arange(len(joined[1])), joined[1]]
    ce = (weight[joined[1]] * losses).sum() / total if total > 0 else zero

    sample_losses = []
    for x, labels in [joined] if batch_dice else samples:
        if len(labels) == 0:
            continue
        p, weighted, total_weight = x.softmax(1), zero, 0.0
        for c in range(classes):
            if (c == 0 and not include_background) or c == ignore_index:
                continue
            y = (labels == c).double()
            if absent == "skip" and y.sum() == 0:
                continue
            q, z = (p[:, c] ** 2, y**2) if square_denominator else (p[:, c], y)
            overlap = (2 * (p[:, c] * y).sum() + smooth) / (q.sum() + z.sum() + smooth)
            weighted, total_weight = weighted + weight[c] * (1 - overlap), total_weight + weight[c].item()
        sample_losses.append(weighted / total_weight if total_weight else zero)
    dice = torch.stack(sample_losses).mean() if sample_losses else zero
    return ce_weight * ce + dice_weight * dice, ce, dice
