"""`StatsvcLoss` in MMSegmentation's registry, for configs: `custom_imports` names this module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss
from statsvc.weighting.class_weights import ClassWeights

try:
    from mmseg.registry import MODELS
except ImportError:
    raise ImportError(f"{__name__} needs MMSegmentation: pip install mmsegmentation") from None


@MODELS.register_module()
class StatsvcLoss(nn.Module):
    """`statsvc.losses.CombinedLoss` as a `loss_decode`.

    class_weights  what `ClassWeights.to_dict` gave, or one number for each class
    loss_weight    a factor, for auxiliary heads
    loss_name      its name in the log; what begins with "loss_" is trained on
    options        those of `CombinedLoss`
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

        Raises `InvalidParameter` for weights of single pixels, and where the head ignores another id.
        """
        if weight is not None:
            raise InvalidParameter(
                ("weight", "StatsvcLoss takes no weights of pixels: leave out the sampler")
            )
        if ignore_index != self.criterion.ignore_index:
            raise InvalidParameter(
                (
                    "ignore_index",
                    f"the head ignores {ignore_index} and the loss {self.criterion.ignore_index}; give both "
                    "the same",
                )
            )
        loss: Tensor = self.loss_weight * self.criterion(cls_score, label)
        return loss
