"""Losses for semantic segmentation in 2-D and 3-D: cross-entropy and Dice, with class weights.

::

    criterion = statsvc.losses.CombinedLoss(class_weights=weights, ignore_index=255)
    loss = criterion(logits, target)  # [N, C, *spatial] and [N, *spatial]

`class_sums` has the one pass over the logits, forward and backward; `terms` what follows from its [N, C]
sums; `modules` the classes. docs/losses.md has every formula.
"""

from __future__ import annotations

try:
    import torch as torch
except ImportError:
    raise ImportError("statsvc.losses needs PyTorch: pip install 'statsvc[torch]'") from None

from statsvc.losses.modules import CombinedLoss, DiceLoss

__all__ = ["CombinedLoss", "DiceLoss"]
