"""MONAI's loss with statsvc's weights, and statsvc's loss in place of MONAI's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from statsvc.errors import InvalidParameter
from statsvc.integrations.monai import MonaiLoss
from statsvc.losses import CombinedLoss
from support.heavy_imports import heavy_import
from support.small_segmentation import batch, weights_of

if TYPE_CHECKING:
    import statsvc


@pytest.fixture(scope="module")
def weights() -> statsvc.ClassWeights:
    return weights_of()


def logits(seed: int, *spatial: int) -> torch.Tensor:
    return torch.randn(2, 4, *spatial, generator=torch.Generator().manual_seed(seed))


def test_monais_loss_with_the_weights_equals_statsvcs(weights: statsvc.ClassWeights) -> None:
    """Both divide cross-entropy by the sum of the weights; Dice is equal if the mean weight is 1."""
    label = batch(0)[1][:, None].clamp(max=3)  # MONAI's Dice has no ignored id
    assert sum(weights.to_list()) == pytest.approx(4)  # normalize=mean
    theirs = heavy_import("monai.losses").DiceCELoss(
        to_onehot_y=True, softmax=True, weight=weights.tensor(), smooth_nr=1.0, smooth_dr=1.0
    )
    ours = MonaiLoss(
        CombinedLoss(ce_weight=1, dice_weight=1, smooth=1.0, class_weights=weights, absent="penalise")
    )
    torch.testing.assert_close(ours(logits(1, 8, 8), label), theirs(logits(1, 8, 8), label))


def test_label_maps_of_monai_need_no_conversion(weights: statsvc.ClassWeights) -> None:
    meta = heavy_import("monai.data").MetaTensor
    criterion = CombinedLoss(class_weights=weights)
    label = torch.randint(0, 4, (2, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    label[:, 0] = 255
    expected = criterion(logits(2, 5, 6, 7), label)
    leaf = logits(2, 5, 6, 7).requires_grad_()
    loss = MonaiLoss(criterion)(meta(leaf), meta(label[:, None].float()))
    assert type(loss) is torch.Tensor
    assert torch.equal(loss.detach(), expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    with pytest.raises(InvalidParameter, match=r"target: has shape .* give label maps"):
        MonaiLoss(criterion)(leaf, torch.zeros(2, 4, 5, 6, 7))  # one-hot
    interpolated = torch.nn.functional.interpolate(label[:, None].float(), size=(9, 9, 9), mode="trilinear")
    with pytest.raises(InvalidParameter, match=r'target: contains numbers that are not integers.*"nearest"'):
        MonaiLoss(criterion)(logits(2, 9, 9, 9), interpolated)


def test_outputs_of_several_heads_are_rejected_with_advice(weights: statsvc.ClassWeights) -> None:
    criterion, label = MonaiLoss(CombinedLoss(class_weights=weights)), batch(0)[1][:, None]
    heads = [logits(1, 8, 8), logits(2, 4, 4)]
    with pytest.raises(InvalidParameter, match=r"list has 2 items of shape \[2, 4, 8, 8\], \[2, 4, 4, 4\]"):
        criterion(heads, label)
    with pytest.raises(InvalidParameter, match=r"dict has the entries out, aux; .*output\['out'\]"):
        criterion({"out": heads[0], "aux": heads[1]}, label)


def test_it_works_inside_monais_deep_supervision(weights: statsvc.ClassWeights) -> None:
    criterion = CombinedLoss(class_weights=weights)
    label = batch(0)[1]
    outputs = [logits(1, 8, 8), logits(2, 4, 4)]
    deep = heavy_import("monai.losses").DeepSupervisionLoss(MonaiLoss(criterion))
    loss = deep(outputs, label[:, None].float())
    # Weights are halved at each scale, and labels are resized to the nearest pixel.
    expected = criterion(outputs[0], label) + criterion(outputs[1], label[:, 1::2, 1::2]) / 2
    torch.testing.assert_close(loss, expected)
