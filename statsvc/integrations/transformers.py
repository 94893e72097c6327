"""The loss for the `Trainer` of Hugging Face Transformers, and the weights in its checkpoints."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from statsvc.errors import InvalidParameter
from statsvc.integrations import trackers
from statsvc.integrations.checkpoints import warn_if_different
from statsvc.integrations.ranks import require_same
from statsvc.losses import CombinedLoss
from statsvc.weighting.class_weights import ClassWeights

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise ImportError("Transformers is not installed. Run: pip install transformers accelerate") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def compute_loss_func(criterion: nn.Module) -> Callable[..., Tensor]:
    """Return a function for `Trainer(compute_loss_func=…)` that computes a loss.

    criterion  loss such as `statsvc.losses.CombinedLoss`. Set its `ignore_index` to the ignored id of the
               labels. It is called with logits [N, C, *spatial] and labels [N, *spatial]; the logits of the
               model are resized bilinearly to the size of the labels, as the models of Transformers do

    The `Trainer` sums the losses of accumulated batches and expects this function to normalize them. The sum
    over accumulated batches and over ranks is the loss of all their images as one batch. Cross-entropy is the
    mean over all valid pixels, with their class weights; Dice is the mean over all samples (`batch_dice` sums
    over each batch only). For other criteria, the weight of a batch is its number of pixels other than −100.

    The function raises `InvalidParameter` for a batch without labels and a model without logits.
    """
    totals = _Totals(criterion)

    def compute(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        logits = outputs.get("logits") if hasattr(outputs, "get") else outputs[0]
        if labels is None or logits is None:
            raise InvalidParameter(
                (
                    "compute_loss_func",
                    "requires a batch with `labels` and a model with `logits` [N, C, height, width]. A model "
                    "with mask queries, such as Mask2Former, computes its own loss; use that one",
                )
            )
        if logits.shape[2:] != labels.shape[1:]:
            mode = "bilinear" if logits.ndim == 4 else "trilinear"
            logits = interpolate(logits, size=labels.shape[1:], mode=mode, align_corners=False)
        loss_of = criterion.to(logits.device)
        shares = None if num_items_in_batch is None else totals.shares(labels)
        if shares is not None:
            assert isinstance(loss_of, CombinedLoss)
            return loss_of.with_shares(logits, labels, *shares)
        loss: Tensor = loss_of(logits, labels)
        if num_items_in_batch is None:
            return loss
        return loss * (labels != -100).sum() / max(num_items_in_batch, 1)

    return compute


class _Totals:
    """Sums over the batches that a `Trainer` accumulates in a step, of the losses of statsvc.

    The `Trainer` only passes the number of labels other than −100, which is no measure of the valid pixels of
    another ignored id, of weighted pixels, or of samples. The accumulated batches are a local variable of its
    training loop.
    """

    def __init__(self, criterion: nn.Module) -> None:
        self._criterion: Any = criterion
        self._batches: Any = None
        self._totals: Tensor | None = None

    def shares(self, labels: Tensor) -> tuple[float, float] | None:
        """Return a batch's part of Σ w over valid pixels and of the samples with one; None if unknown."""
        found = _accumulated_batches() if torch.is_grad_enabled() else None
        if found is None or not isinstance(self._criterion, CombinedLoss):
            return None
        trainer, batches = found
        if batches is not self._batches:
            amounts = [self._amounts(batch["labels"].to(labels.device)) for batch in batches]
            totals = torch.stack(amounts).sum(0)
            if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
                totals = trainer.accelerator.reduce(totals, "sum")
            self._batches, self._totals = batches, totals
        assert self._totals is not None
        weight, samples = (self._amounts(labels) / self._totals.clamp(min=1e-30)).tolist()
        return weight, samples

    def _amounts(self, labels: Tensor) -> Tensor:
        """Return Σ w over the valid pixels and the number of samples with a valid pixel, float64 [2]."""
        valid = self._criterion.valid_pixels(labels)
        weight = self._criterion.weight
        class_ids = labels[valid].long()
        if isinstance(weight, Tensor):
            amount = weight.to(labels.device).double()[class_ids.clamp(0, len(weight) - 1)].sum()
        else:
            amount = valid.sum().double()
        return torch.stack([amount, valid.flatten(1).any(1).sum().double()])


def _accumulated_batches() -> tuple[Any, Any] | None:
    """Return the `Trainer` that is training and the batches of its current step, or None."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "transformers.trainer" and "batch_samples" in frame.f_locals:
            return frame.f_locals["self"], frame.f_locals["batch_samples"]
        frame = frame.f_back
    return None


class ClassWeightsCallback(TrainerCallback, ExportableState):
    """Saves the weights in the checkpoints of a `Trainer` and logs them.

    weights  `ClassWeights`, or their `to_dict()`

    Every checkpoint's `trainer_state.json` has the complete record of the weights, `ClassWeights.to_dict()`,
    at `["stateful_callbacks"]["ClassWeightsCallback"]["args"]["weights"]`; `recorded` reads it for
    `Client.weights(pinned=…)`. Resuming with other weights warns. When training begins, the weights are
    logged to the active runs of W&B and MLflow, and `Conflict` is raised on every rank if the ranks have
    different weights.
    """

    def __init__(self, weights: ClassWeights | dict[str, Any]) -> None:
        self.weights = weights if isinstance(weights, ClassWeights) else ClassWeights.from_dict(weights)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compare the weights with those of the other ranks and of the checkpoint, and log them."""
        require_same(self.weights)
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            warn_if_different(saved["args"]["weights"], self.weights)
        if state.is_world_process_zero:
            facts = trackers.facts_of(self.weights)
            for tracker in trackers.active_trackers():
                tracker.begin(facts, self.weights.to_dict())

    def state(self) -> dict[str, Any]:
        """Return the record of the weights for `trainer_state.json`."""
        return {"args": {"weights": self.weights.to_dict()}, "attributes": {}}


def recorded(checkpoint: str | None) -> dict[str, Any] | None:
    """Return the weights recorded in a checkpoint, for `Client.weights(pinned=…)`.

    checkpoint  folder, as `transformers.trainer_utils.get_last_checkpoint` returns it, or None

    Returns None without a checkpoint. Raises `InvalidParameter` for a checkpoint without recorded weights.
    """
    if checkpoint is None:
        return None
    from pathlib import Path

    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    try:
        record: dict[str, Any] = state["stateful_callbacks"]["ClassWeightsCallback"]["args"]["weights"]
    except (LookupError, TypeError):
        raise InvalidParameter(
            (
                "checkpoint",
                f"{checkpoint} was saved without ClassWeightsCallback among the callbacks, so it has no "
                "recorded weights; request new ones",
            )
        ) from None
    return record
