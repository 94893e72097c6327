"""Registers `StatsvcLoss` with MMSegmentation. A config imports this module by `custom_imports`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss
from statsvc.weighting.class_weights import ClassWeights

try:
    from mmseg.registry import MODELS
except ImportError as error:
    raise ImportError("MMSegmentation is not installed. Run: pip install mmsegmentation") from error


@MODELS.register_module()
class StatsvcLoss(nn.Module):
    """`statsvc.losses.CombinedLoss` as a `loss_decode`.

    class_weights  `ClassWeights.to_dict()`, or one number for each class
    loss_weight    factor of the loss, for auxiliary heads
    loss_name      name in the log. MMSegmentation only trains on losses whose name begins with "loss_"
    options        options of `CombinedLoss`
    """

    def __init__(
        self,
        class_weights: Any = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_statsvc",
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(class_weights, dict):
            class_weights = ClassWeights.from_dict(class_weights)
        self.criterion = CombinedLoss(class_weights=class_weights, **options)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, cls_score: Tensor, label: Tensor, weight: Any = None, ignore_index: int = 255
    ) -> Tensor:
        """Return the loss, a scalar, of logits [N, C, height, width] and labels [N, height, width].

        Raises `InvalidParameter` for weights of pixels, and if the decode head ignores another id.
        """
        if weight is not None:
            raise InvalidParameter(
                (
                    "weight",
                    "StatsvcLoss does not support pixel weights; remove the sampler of the decode head",
                )
            )
        if ignore_index not in self.criterion.ignored_ids:
            raise InvalidParameter(
                (
                    "ignore_index",
                    f"is {ignore_index} in the decode head, but {self.criterion.ignore_index} in the loss; "
                    "set both to the same id",
                )
            )
        loss: Tensor = self.loss_weight * self.criterion(cls_score, label)
        return loss
