"""Weights that change during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from statsvc import ClassWeights
from statsvc.errors import InvalidParameter
from statsvc.sampling.weights import weights_response
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.schedule import strength_at
from support.small_tables import camvid


def answer(**params: Any) -> ClassWeights:
    table = camvid(num_classes=13, ignore_index=(11,))
    return ClassWeights(weights_response(table, WeightSpec.from_params(params)))


def test_deferred_reweighting_equals_that_of_cao_et_al() -> None:
    counts = np.array([row["pixels"] for row in answer().classes], float)[:11]
    deferred = answer(method="effective_num", beta="1-1e-7")
    for epoch in (0, 159, 160, 199):
        beta = (0, 1 - 1e-7)[epoch // 160]  # as in cifar_train.py of kaidic/LDAM-DRW
        weights = (1 - beta) / (1 - np.power(beta, counts))
        weights = weights / weights.sum() * 11
        result = deferred.weights_at(epoch, start=160)
        np.testing.assert_allclose(result[:11], weights, rtol=1e-6)
        assert result[11:].tolist() == [0, 0]


def test_a_ramp_is_linear_in_the_strength() -> None:
    assert [strength_at(epoch, 10, 20) for epoch in (0, 10, 12.5, 15, 20, 99)] == [0, 0, 0.25, 0.5, 1, 1]
    assert [strength_at(epoch, 0) for epoch in (-1, 0, 1)] == [0, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_equals_the_answer_to_a_request_with_its_strength(method: str) -> None:
    params: dict[str, Any] = {"method": method, **({"alpha": 1} if method == "power" else {})}
    variants: list[dict[str, Any]] = [{}]
    if METHODS[method].kind == "weights":
        variants = [{"normalize": how} for how in ("mean", "sum", "max", "min", "expected", "none")]
        variants += [{"absent": how} for how in ("one", "max")]
    for variant in variants:
        full = answer(**params, **variant)
        for epoch in (0, 3, 5, 10):
            weaker = answer(**params, **variant, strength=epoch / 10)
            np.testing.assert_allclose(
                full.weights_at(epoch, start=0, end=10), weaker.numpy(), rtol=1e-6, err_msg=str(variant)
            )


def test_factors_and_bounds_take_effect_gradually() -> None:
    full = answer(multiply="0:5", clip="0.5,3")
    mean = np.mean(full.to_list()[:11])
    assert full.weights_at(0, start=5, end=9)[:11] == pytest.approx([mean] * 11)
    half = full.weights_at(7, start=5, end=9)[:11]
    assert half.mean() == pytest.approx(mean)
    np.testing.assert_allclose((half / half[0]) ** 2, full.numpy()[:11] / full.numpy()[0], rtol=1e-5)
    assert full.weights_at(9, start=5, end=9).tolist() == full.numpy().tolist()
    assert answer(clip="0,0.001", normalize="min").weights_at(0, start=1)[:11].tolist() == pytest.approx(
        [0.001] * 11
    )


def test_an_impossible_schedule_is_rejected() -> None:
    for epoch, start, end, parameter in (
        (1, 5, 4, "end"), (1, float("nan"), None, "start"), (float("inf"), 1, None, "epoch"),
    ):  # fmt: skip
        with pytest.raises(InvalidParameter, match=parameter):
            answer().weights_at(epoch, start=start, end=end)


def test_a_loss_takes_the_weights_of_every_epoch() -> None:
    torch = pytest.importorskip("torch")
    from statsvc.losses import CombinedLoss

    weights = answer()
    for criterion in (
        torch.nn.CrossEntropyLoss(weight=weights.tensor()),
        CombinedLoss(class_weights=weights),
    ):
        assert criterion.weight is not None
        for epoch in range(3):
            criterion.weight.copy_(torch.from_numpy(weights.weights_at(epoch, start=1, end=2)))
            assert criterion.weight.tolist() == weights.weights_at(epoch, start=1, end=2).tolist()
