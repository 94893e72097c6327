"""Losses for semantic segmentation: cross-entropy, focal loss, Dice and Tversky, with class weights.

::

    criterion = statsvc.losses.CombinedLoss(class_weights=weights, ignore_index=255)
    loss = criterion(logits, target)  # [N, C, *spatial] and [N, *spatial]

`CrossEntropyLoss`, `DiceLoss` and `TverskyLoss` are its terms, each of them alone.

::

    modules       `CombinedLoss`
    single_terms  the losses with one of its terms
    arguments     checks of options, logits and targets
    class_sums    the only passes over the logits, forward and backward
    plain_sums    the same sums for torch.func and forward-mode derivatives
    terms         cross-entropy, Dice and Tversky, computed from the [N, C] results of `class_sums`
    weighting     what `class_weights` accepts, and the provenance of weights in checkpoints
    processes     sums over the processes of distributed training

docs/explanation/losses.md derives every formula.
"""

from __future__ import annotations

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise ImportError("PyTorch is not installed. Run: pip install 'statsvc[torch]'") from error

from statsvc.losses.modules import CombinedLoss
from statsvc.losses.single_terms import CrossEntropyLoss, DiceLoss, TverskyLoss

__all__ = ["CombinedLoss", "CrossEntropyLoss", "DiceLoss", "TverskyLoss"]
