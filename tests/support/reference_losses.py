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
    ignore_index: int | Sequence[int] = 255,
    class_weights: Sequence[float] | None = None,
    square_denominator: bool = False,
    batch_dice: bool = False,
    include_background: bool = True,
    absent: str = "skip",
    kind: str = "weights",
    focal_gamma: float | Sequence[float] = 0.0,
    focal_alpha: float | Sequence[float] = 1.0,
    label_smoothing: float = 0.0,
    tversky_alpha: float | Sequence[float] = 0.5,
    tversky_beta: float | Sequence[float] = 0.5,
    tversky_gamma: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, cross-entropy, Dice), float64 scalars."""
    if logits.shape[1] == 1:
        logits, include_background = torch.cat([torch.zeros_like(logits), logits], 1), False
    classes = logits.shape[1]
    ignored = [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
    gammas, focal_alphas, alphas, betas = (
        torch.as_tensor(factors).float().double().expand(classes)
        for factors in (focal_gamma, focal_alpha, tversky_alpha, tversky_beta)
    )
    numbers = torch.ones(classes) if class_weights is None else torch.tensor(class_weights)
    weight = numbers.double() if kind == "weights" else torch.ones(classes).double()
    samples = []  # (logits [k, C], labels [k]) of the valid pixels
    for x, labels in zip(logits.double(), target.long(), strict=True):
        valid = ~torch.isin(labels.flatten(), torch.tensor(ignored).long())
        pixels = x.flatten(1).T[valid]
        if kind == "additive":
            pixels = pixels + numbers.double()
        samples.append((pixels, labels.flatten()[valid]))
    joined = torch.cat([x for x, _ in samples]), torch.cat([labels for _, labels in samples])

    zero = logits.double().nan_to_num(0, 0, 0).sum() * 0
    total = weight[joined[1]].sum()
    log_p, label = joined[0].log_softmax(1), joined[1]
    losses = -log_p[torch.arange(len(label)), label]
    losses = focal_alphas[label] * (1 - (-losses).exp()) ** gammas[label] * losses
    spread = -(weight * log_p).sum(1) / classes
    pixel_losses = (1 - label_smoothing) * weight[label] * losses + label_smoothing * spread
    ce = pixel_losses.sum() / total if total > 0 else zero

    sample_losses = []
    for x, labels in [joined] if batch_dice else samples:
        if len(labels) == 0:
            continue
        p, weighted, total_weight = x.softmax(1), zero, 0.0
        for c in range(classes):
            if (c == 0 and not include_background) or c in ignored:
                continue
            y = (labels == c).double()
            if absent == "skip" and y.sum() == 0:
                continue
            q, z = (p[:, c] ** 2, y**2) if square_denominator else (p[:, c], y)
            hits = (p[:, c] * y).sum()
            errors = 2 * (alphas[c] * (q.sum() - hits) + betas[c] * (z.sum() - hits))
            denominator = 2 * hits + errors + smooth
            dice_loss = errors / denominator if denominator != 0 else errors
            if dice_loss > 0:
                dice_loss = dice_loss**tversky_gamma
            weighted, total_weight = weighted + weight[c] * dice_loss, total_weight + weight[c].item()
        sample_losses.append(weighted / total_weight if total_weight else zero)
    dice = torch.stack(sample_losses).mean() if sample_losses else zero
    return ce_weight * ce + dice_weight * dice, ce, dice
