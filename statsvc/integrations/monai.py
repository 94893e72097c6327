"""statsvc's losses where MONAI's conventions hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MonaiLoss(nn.Module):
    """A loss for label maps as MONAI's transforms make them.

    `loss(logits, target)` takes the target [N, 1, *spatial] of any number type, and `MetaTensor`s; the
    criterion gets int64 [N, *spatial]. It goes into `monai.losses.DeepSupervisionLoss`, or wherever
    `DiceCELoss(to_onehot_y=True, softmax=True)` stood::

        MonaiLoss(statsvc.losses.CombinedLoss(class_weights=weights, ignore_index=255))
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        labels = _plain(target)
        loss: Tensor = self.criterion(
            _plain(logits), labels.squeeze(1).long() if labels.shape[1] == 1 else labels
        )
        return loss


def _plain(tensor: Any) -> Tensor:
    """Return the tensor that a MetaTensor is, without its metadata."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
