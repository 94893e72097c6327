"""The loss for the `Trainer` of Hugging Face Transformers, and the weights in its checkpoints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from torch.nn.functional import interpolate

from statsvc.errors import InvalidParameter
from statsvc.integrations import trackers
from statsvc.integrations.checkpoints import warn_if_different
from statsvc.integrations.ranks import require_same
from statsvc.weighting.class_weights import ClassWeights

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise ImportError("Transformers is not installed. Run: pip install transformers accelerate") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def compute_loss_func(criterion: nn.Module) -> Callable[..., Tensor]:
    """Return a function for `Trainer(compute_loss_func=…)` that computes a loss.

    criterion  loss such as `statsvc.losses.CombinedLoss`. Set its `ignore_index` to the ignored id of the
               labels. It is called with logits [N, C, *spatial] and labels [N, *spatial]; the logits of the
               model are resized bilinearly to the size of the labels, as the models of Transformers do

    The `Trainer` sums the losses of accumulated batches and expects this function to normalize them. Each
    loss is multiplied by the batch's share of `num_items_in_batch`, so the sum over accumulated batches and
    over ranks is a mean. The `Trainer` counts every label except −100, so pixels with another ignored id are
    part of the share.

    The function raises `InvalidParameter` for a batch without labels and a model without logits.
    """

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
        loss: Tensor = criterion.to(logits.device)(logits, labels)
        if num_items_in_batch is None:
            return loss
        return loss * (labels != -100).sum() / max(num_items_in_batch, 1)

    return compute


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
