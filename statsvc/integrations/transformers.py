"""The loss for the `Trainer` of Hugging Face Transformers, and the weights in its checkpoints."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

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
    import transformers
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
               model are resized linearly to the size of the labels, as the models of Transformers do

    The `Trainer` sums the losses of accumulated batches and expects this function to normalize them. With the
    `Trainer` of this module, the sum over accumulated batches and over ranks is the loss of all their images
    as one batch. Cross-entropy is the mean over all valid pixels, with their class weights; Dice is the mean
    over all samples (`batch_dice` sums over each batch only). With the `Trainer` of Transformers, and for
    criteria that are not losses of statsvc, the weight of a batch is its number of pixels other
    than −100; a warning says so if this is not exact.

    The function raises `InvalidParameter` for a batch without labels and a model without logits.
    """
    return _LossFunction(criterion)


class _LossFunction:
    """The result of `compute_loss_func`, from which `Trainer` also gets the totals of a step."""

    def __init__(self, criterion: nn.Module) -> None:
        self._criterion: Any = criterion
        self._warned = False

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Tensor:
        """Return the part of a batch in the loss of the accumulated batches, a scalar."""
        logits = outputs.get("logits") if hasattr(outputs, "get") else outputs[0]
        if labels is None or logits is None:
            raise InvalidParameter(
                (
                    "compute_loss_func",
                    "requires a batch with `labels` and a model with `logits` [N, C, height, width]. A model "
                    "with mask queries, such as Mask2Former, computes its own loss; use that one",
                )
            )
        if labels.ndim == logits.ndim - 1 and logits.shape[2:] != labels.shape[1:]:
            mode = ("linear", "bilinear", "trilinear")[logits.ndim - 3]
            logits = interpolate(logits, size=labels.shape[1:], mode=mode, align_corners=False)
        loss_of = self._criterion.to(logits.device)
        if not isinstance(num_items_in_batch, _Totals):
            return self._by_pixels(loss_of(logits, labels), labels, num_items_in_batch)
        amounts = self._amounts(labels)
        ce_share, dice_share = (amounts / num_items_in_batch.amounts.to(amounts).clamp(min=1e-30)).tolist()
        loss: Tensor = loss_of.with_shares(logits, labels, ce_share, dice_share)
        return loss

    def _by_pixels(self, loss: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        """Return the part of a batch whose weight is its number of labels other than −100."""
        if items is None:
            return loss
        share = (labels != -100).sum() / max(items, 1)
        if not self._warned and torch.is_grad_enabled() and share < 1:
            self._warned = True
            warnings.warn(
                "the loss of accumulated batches, or of several ranks, weights each batch by its pixels "
                "other than -100. To weight it by its valid pixels and samples, import Trainer from "
                "statsvc.integrations.transformers, and use a loss of statsvc",
                UserWarning,
                stacklevel=3,
            )
        return loss * share

    def totals(self, batches: list[Any], device: Any) -> Tensor | None:
        """Return Σ w over the valid pixels and the number of samples with one, float64 [2].

        batches  the accumulated batches, each with "labels"

        Returns None for a criterion that is not a mean over these.
        """
        if not batches or not isinstance(self._criterion, CombinedLoss):
            return None
        return torch.stack([self._amounts(batch["labels"].to(device)) for batch in batches]).sum(0)

    def _amounts(self, labels: Tensor) -> Tensor:
        valid = self._criterion.valid_pixels(labels)
        weight = self._criterion.weight
        class_ids = labels[valid].long()
        if isinstance(weight, Tensor):
            amount = weight.to(labels.device).double()[class_ids.clamp(0, len(weight) - 1)].sum()
        else:
            amount = valid.sum().double()
        return torch.stack([amount, valid.flatten(1).any(1).sum().double()])


class Trainer(transformers.Trainer):
    """The `Trainer` of Transformers, with which `compute_loss_func` is exact for accumulated batches.

    The arguments are the same. Your own subclass can have both as bases:
    `class MyTrainer(statsvc.integrations.transformers.Trainer, TheirTrainer)`.
    """

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Return the batches of the next step, and what `compute_loss_func` divides by."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        loss = self.compute_loss_func
        if items is None or not isinstance(loss, _LossFunction):
            return batches, items
        amounts = loss.totals(batches, device)
        if amounts is None:
            return batches, items
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            amounts = self.accelerator.reduce(amounts, "sum")
        return batches, _Totals(amounts)


class _Totals(NamedTuple):
    """What `compute_loss_func` gets as `num_items_in_batch`: the result of `totals` for all ranks."""

    amounts: Tensor


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
