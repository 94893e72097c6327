"""An adapter of statsvc's losses to the conventions of MONAI."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from statsvc.errors import InvalidParameter
from statsvc.losses.arguments import require_tensors


class MonaiLoss(nn.Module):
    """A loss for label maps as MONAI's transforms produce them.

    criterion  loss such as `statsvc.losses.CombinedLoss`, called with an int64 target [N, *spatial]

    `loss(logits, target)` takes logits [N, C, *spatial] and a target [N, 1, *spatial] of any numeric dtype,
    both also as `MetaTensor`. It can replace `DiceCELoss(to_onehot_y=True, softmax=True)`, for instance
    inside `monai.losses.DeepSupervisionLoss`. Raises `InvalidParameter` for one-hot targets, for
    interpolated targets, whose numbers are not integers, and for outputs of a model that are lists or dicts.

    ::

        MonaiLoss(statsvc.losses.CombinedLoss(class_weights=weights, ignore_index=255))
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        logits, target = _plain(logits), _plain(target)
        require_tensors(logits, target)
        if target.ndim != logits.ndim or target.shape[1] != 1:
            raise InvalidParameter(
                (
                    "target",
                    f"has shape {list(target.shape)}; give label maps [N, 1, *spatial]. Convert a one-hot "
                    "target by target.argmax(1, keepdim=True)",
                )
            )
        label = target.squeeze(1).long()
        if target.is_floating_point() and not bool((target.squeeze(1) == label).all()):
            raise InvalidParameter(
                (
                    "target",
                    "contains numbers that are not integers; resize and rotate label maps with "
                    'mode="nearest"',
                )
            )
        loss: Tensor = self.criterion(logits, label)
        return loss


def _plain(tensor: Any) -> Tensor:
    """Return a MetaTensor without its metadata; other tensors as they are."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
