"""statsvc's losses where MONAI's conventions hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from statsvc.errors import InvalidParameter


class MonaiLoss(nn.Module):
    """A loss for label maps as MONAI's transforms make them.

    `loss(logits, target)` takes the target [N, 1, *spatial] of any number type, and `MetaTensor`s; the
    criterion gets int64 [N, *spatial]. It goes into `monai.losses.DeepSupervisionLoss`, or wherever
    `DiceCELoss(to_onehot_y=True, softmax=True)` stood. Raises `InvalidParameter` for one-hot targets. ::

        MonaiLoss(statsvc.losses.CombinedLoss(class_weights=weights, ignore_index=255))
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        logits, target = _plain(logits), _plain(target)
        if target.ndim != logits.ndim or target.shape[1] != 1:
            raise InvalidParameter(
                (
                    "target",
                    f"has shape {list(target.shape)}; give label maps [N, 1, *spatial]; of one-hot ones they "
                    "are target.argmax(1, keepdim=True)",
                )
            )
        loss: Tensor = self.criterion(logits, target.squeeze(1).long())
        return loss


def _plain(tensor: Any) -> Tensor:
    """Return the tensor that a MetaTensor is, without its metadata."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
