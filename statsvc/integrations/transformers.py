"""For the `Trainer` of Hugging Face's Transformers: the loss, and the weights in its checkpoints."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from torch.nn.functional import interpolate

from statsvc.errors import InvalidParameter
from statsvc.integrations import trackers
from statsvc.integrations.ranks import require_same
from statsvc.weighting.class_weights import ClassWeights

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError:
    raise ImportError(f"{__name__} needs Transformers: pip install transformers accelerate") from None

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def compute_loss_func(criterion: nn.Module) -> Callable[..., Tensor]:
    """Return what `Trainer(compute_loss_func=…)` takes, for a loss such as `statsvc.losses.CombinedLoss`.

    `criterion(logits, labels)` gets the model's `logits` [N, C, *spatial] at the size of `labels`
    [N, *spatial], scaled up bilinearly as Transformers' own models do.

    The `Trainer` leaves it to this function to divide by the batches of gradient accumulation and of the
    other ranks: each batch counts as its share of `num_items_in_batch`, so that four accumulated batches are
    one mean and not the sum of four. Give the criterion's ignored id as `ignore_index`; the `Trainer`
    counts all labels but −100, so a batch's share is that of its pixels, those ignored by another id
    included.
    """

    def compute(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        logits = outputs.get("logits") if hasattr(outputs, "get") else outputs[0]
        if labels is None or logits is None:
            raise InvalidParameter(
                (
                    "compute_loss_func",
                    "needs a batch with `labels` and a model with `logits` [N, C, height, width]; a model of "
                    "queries and masks, such as Mask2Former, has a loss of its own",
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
    """Keeps the weights with a run of the `Trainer`.

    weights  `ClassWeights`, or their `to_dict()`

    Every checkpoint's `trainer_state.json` holds the whole answer, at
    `["stateful_callbacks"]["ClassWeightsCallback"]["args"]["weights"]`; `recorded` reads it for
    `Client.weights(pinned=…)`. Resuming with other weights warns. When training begins, the active runs of
    W&B and MLflow get them; where the ranks' weights differ, all raise `Conflict`.
    """

    def __init__(self, weights: ClassWeights | dict[str, Any]) -> None:
        self.weights = weights if isinstance(weights, ClassWeights) else ClassWeights.from_dict(weights)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compare the ranks and the checkpoint, and tell the trackers."""
        require_same(self.weights)
        kept = state.stateful_callbacks.get(type(self).__name__)
        if kept and (then := ClassWeights.from_dict(kept["args"]["weights"])).digest != self.weights.digest:
            warnings.warn(
                f"the checkpoint was trained with other class weights: {then} then, {self.weights} now; "
                "to go on with the same, give Client.weights its record as pinned",
                UserWarning,
                stacklevel=2,
            )
        if state.is_world_process_zero:
            facts = self.weights.to_log() | {"class_weights/_digest": self.weights.digest}
            for tracker in trackers.active():
                tracker.begin(facts, self.weights.to_dict())

    def state(self) -> dict[str, Any]:
        """Return what `trainer_state.json` holds."""
        return {"args": {"weights": self.weights.to_dict()}, "attributes": {}}


def recorded(checkpoint: str | None) -> dict[str, Any] | None:
    """Return the record of a checkpoint's weights for `Client.weights(pinned=…)`, None without a checkpoint.

    checkpoint  its folder, as `transformers.trainer_utils.get_last_checkpoint` returns it

    Raises `InvalidParameter` where it holds none.
    """
    if checkpoint is None:
        return None
    from pathlib import Path

    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    try:
        found: dict[str, Any] = state["stateful_callbacks"]["ClassWeightsCallback"]["args"]["weights"]
    except (LookupError, TypeError):
        raise InvalidParameter(
            ("checkpoint", f"{checkpoint} was saved without ClassWeightsCallback among the callbacks")
        ) from None
    return found
