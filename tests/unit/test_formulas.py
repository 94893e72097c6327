"""Formulas in use elsewhere, written independently with NumPy, over the published counts of CamVid."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.sampling.weights import weights_response
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import WeightSpec
from support.expected import PUBLISHED
from support.small_tables import TotalsTable, camvid, cityscapes, table_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.table import Table

COUNTS = np.array(PUBLISHED["camvid_train"]["counts"][:11], np.float64)
P = COUNTS / COUNTS.sum()
REQUIRED: dict[str, dict[str, Any]] = {"power": {"alpha": 0.7}}
MULTIPLIERS = [name for name, method in METHODS.items() if method.kind == "weights"]


def ask(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def weights(**params: Any) -> list[float]:
    result: list[float] = ask(camvid(num_classes=11, ignore_index=(11,)), **params)["weights"]
    return result


FORMULAS: list[tuple[dict[str, Any], NDArray[np.float64]]] = [
    ({"method": "log_inv_freq"}, -np.log(P)),
    ({"method": "log_inv_freq", "offset": 1}, 1 + np.log(1 / P)),
    ({"method": "log_inv_freq", "k": 1.02}, np.log(1.02 / P)),
    ({"method": "log_inv_freq", "k": 0.15, "floor": 1}, np.maximum(1, np.log(0.15 / P))),
    ({"method": "log_inv_freq", "k": 0.15}, np.maximum(0, np.log(0.15 / P))),
    ({"method": "enet", "strength": 0.25}, (1 / np.log(1.02 + P)) ** 0.25),
    ({"method": "enet", "c": 1.1, "strength": 0.6}, (1 / np.log(1.1 + P)) ** 0.6),
    ({"method": "inverse_freq", "strength": 0.5}, np.sqrt(COUNTS.sum() / (11 * COUNTS))),
]


@pytest.mark.parametrize(("params", "expected"), FORMULAS, ids=[str(params) for params, _ in FORMULAS])
def test_a_formula_returns_its_values_with_and_without_normalization(
    params: dict[str, Any], expected: NDArray[np.float64]
) -> None:
    np.testing.assert_allclose(weights(**params, normalize="none"), expected, rtol=1e-12)
    np.testing.assert_allclose(weights(**params), expected / expected.mean(), rtol=1e-12)


def test_pos_weight_accepts_a_strength_and_bounds() -> None:
    expected = (COUNTS.sum() - COUNTS) / COUNTS
    np.testing.assert_allclose(weights(method="pos_weight"), expected, rtol=1e-12)
    np.testing.assert_allclose(
        weights(method="pos_weight", clip="3,50"), np.clip(expected, 3, 50), rtol=1e-12
    )
    np.testing.assert_allclose(
        weights(method="pos_weight", clip="0,9", strength=0.5), np.minimum(np.sqrt(expected), 9), rtol=1e-12
    )
    for name in ("normalize", "absent", "multiply"):
        with pytest.raises(InvalidParameter, match=f"{name}: pos_weight returns pos_weight"):
            weights(method="pos_weight", **{name: {"multiply": "0:2"}.get(name, "max")})
    with pytest.raises(InvalidParameter, match="clip: logit_adjustment returns additive"):
        weights(method="logit_adjustment", clip="0,1")


def test_a_large_pos_weight_gives_a_warning_that_clip_and_strength_remove() -> None:
    table = camvid(num_classes=11, ignore_index=(11,))
    (warning,) = ask(table, method="pos_weight")["warnings"]
    assert warning["code"] == "large_pos_weight"
    assert "2 of 11 present classes have a pos_weight above 100" in warning["message"]
    assert "use a strength below 1 or clip=lo,hi" in warning["message"]
    assert ask(table, method="pos_weight", clip="0,100")["warnings"] == []
    assert ask(table, method="pos_weight", strength=0.5)["warnings"] == []
    codes = [warning["code"] for warning in ask(table_of([{3: 9}]), method="pos_weight")["warnings"]]
    assert "zero_in_float32" in codes


def of_ultralytics(counts: NDArray[np.float64], cls_pw: float) -> NDArray[np.float64]:
    """Repeat compute_class_weights and set_class_weights of its trainers for detection and semantic masks."""
    share = counts / max(counts.sum(), 1.0)
    enet: NDArray[np.float64] = (1.0 / np.log(1.02 + share)) ** cls_pw
    scaled: NDArray[np.float64] = enet / enet.mean()
    return scaled


@pytest.mark.parametrize("cls_pw", [0.25, 0.5, 1.0])
def test_ultralytics_is_reproduced_for_every_cls_pw(cls_pw: float) -> None:
    expected = of_ultralytics(COUNTS, cls_pw)
    np.testing.assert_allclose(weights(recipe="ultralytics", strength=cls_pw), expected, rtol=1e-12)
    table = camvid(num_classes=13, ignore_index=(11,))
    body = ask(table, recipe="ultralytics", strength=cls_pw, absent="eps")
    expected = of_ultralytics(np.append(COUNTS, 0), cls_pw)  # Ultralytics gives an absent class the largest
    np.testing.assert_allclose(np.delete(body["weights"], 11), expected, rtol=1e-8)


def test_geoai_is_reproduced_with_its_cap_and_multipliers() -> None:
    expected = COUNTS.sum() / COUNTS
    expected = expected / expected.mean()
    np.testing.assert_allclose(weights(recipe="geoai"), expected, rtol=1e-12)
    expected[10] = min(expected[10] * 20, 50)
    expected[3] *= 0.5
    np.testing.assert_allclose(weights(recipe="geoai", multiply="10:20,3:0.5"), expected, rtol=1e-12)
    body = ask(camvid(num_classes=13, ignore_index=(11,)), recipe="geoai")
    assert body["weights"][11:] == [0, 0]  # ignored and absent, as in geoai


def test_lightly_train_is_reproduced() -> None:
    expected = 1 / COUNTS
    np.testing.assert_allclose(weights(recipe="lightly-train"), expected / expected.mean(), rtol=1e-12)


def test_the_keras_snippet_is_reproduced_for_all_34_ids_of_cityscapes_and_for_19_classes() -> None:
    published = PUBLISHED["cityscapes_fine_train"]
    listed = published["create_class_weight"]["weights_by_labelId"]
    body = ask(cityscapes(), recipe="keras-log", num_classes=34, ignore_index="none")
    np.testing.assert_allclose(body["weights"], [listed[str(raw)] for raw in range(34)], rtol=1e-12)
    body = ask(cityscapes(), recipe="keras-log", class_map="cityscapes")
    order = published["trainId_order"]
    np.testing.assert_allclose(body["weights"], [listed[str(raw)] for raw in order], rtol=1e-12)


def test_the_logarithm_keeps_its_digits_for_a_class_that_covers_nearly_everything() -> None:
    counts = {0: 10**12, 1: 3}
    body = ask(TotalsTable(counts), method="log_inv_freq", normalize="none")
    exact = [float((Decimal(sum(counts.values())) / n).ln()) for n in counts.values()]
    assert body["weights"] == pytest.approx(exact, rel=1e-12)


def test_log_inv_freq_without_a_positive_weight_is_rejected_with_advice() -> None:
    table = TotalsTable({0: 60, 1: 40})
    with pytest.raises(Unanswerable, match="Use a larger k or offset, or a floor above 0"):
        ask(table, method="log_inv_freq", k=0.1)
    with pytest.raises(Unanswerable, match="normalize=min divides by the smallest weight"):
        ask(table, method="log_inv_freq", k=0.5, normalize="min")
    assert ask(table, method="log_inv_freq", k=0.1, floor=1)["weights"] == [1, 1]
    body = ask(table, method="log_inv_freq", k=0.5)
    assert body["weights"] == [0, 2]
    assert [warning["code"] for warning in body["warnings"]] == ["zero_in_float32"]
    assert "use a larger k or offset" in body["warnings"][0]["message"]


@pytest.mark.parametrize("method", METHODS)
def test_strength_1_is_the_method_and_strength_0_has_no_effect(method: str) -> None:
    params = {"method": method, **REQUIRED.get(method, {})}
    plain = weights(**params)
    assert weights(**params, strength=1) == plain
    neutral = 0.0 if METHODS[method].kind == "additive" else 1.0
    assert weights(**params, strength=0) == [neutral] * 11


@pytest.mark.parametrize("method", MULTIPLIERS)
def test_strength_is_the_exponent_of_every_ratio_and_leaves_the_scale_to_normalize(method: str) -> None:
    params = {"method": method, **REQUIRED.get(method, {})}
    raw = np.array(weights(**params, normalize="none"))
    for strength in (0.25, 0.5, 0.8):
        expected = raw**strength
        for normalize, scale in (
            ("none", 1.0), ("mean", expected.mean()), ("sum", expected.sum()), ("max", expected.max()),
            ("min", expected.min()), ("expected", (P * expected).sum()),
        ):  # fmt: skip
            result = weights(**params, strength=strength, normalize=normalize)
            np.testing.assert_allclose(result, expected / scale, rtol=1e-12)


def test_strength_comes_before_factors_bounds_and_absent_classes() -> None:
    table = table_of([{0: 90, 1: 10}], num_classes=4, ignore_index=(3,))
    request = {"method": "power", "alpha": 1, "strength": 0.5, "normalize": "min"}
    assert ask(table, **request)["weights"] == pytest.approx([1, 3, 0, 0])
    assert ask(table, **request, multiply="1:4")["weights"] == pytest.approx([1, 12, 0, 0])
    assert ask(table, **request, multiply="1:4", clip="2,9", absent="max")["weights"] == [2, 9, 9, 0]
    assert ask(table, **request, absent="one")["weights"] == pytest.approx([1, 3, 1, 0])
    eps = ask(table, **request, absent="eps")["weights"]
    assert eps == pytest.approx([1, 3, np.sqrt(0.9 / 1e-10), 0])


def test_a_strength_outside_0_to_1_is_rejected() -> None:
    for value in ("1.1", "-0.1", "nan", "auto", ""):
        with pytest.raises(InvalidParameter, match="strength"):
            WeightSpec.from_params({"strength": value})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [{0: 10**12, 1: 1}, {0: 10**12, 1: 10**4, 2: 1}, {0: 10**9, 1: 10**9 - 1}])
def test_no_warning_recommends_the_method_or_the_parameter_that_is_in_use(
    method: str, counts: dict[int, int]
) -> None:
    table = table_of([counts], num_classes=5)
    more: list[dict[str, Any]] = [{}]
    if METHODS[method].kind == "weights":
        more += [{"clip": "0,1e30"}, {"absent": "max"}, {"absent": "eps"}, {"normalize": "sum"}]
    for extra in [*more, {"strength": 0.9}]:
        params = {"method": method, **REQUIRED.get(method, {}), **extra}
        for warning in ask(table, **params)["warnings"]:
            _, verb, advice = warning["message"].rpartition("use ")
            if not verb:
                continue
            assert f"method={method}" not in advice
            assert "clip=" not in advice or "clip" not in extra
            assert f"absent={extra.get('absent')}" not in advice
            assert "strength below 1" not in advice or "strength" not in extra


def test_a_recommended_method_has_more_equal_weights() -> None:
    # With alpha 0.3, sqrt_inv_freq would be more extreme.
    (warning,) = ask(table_of([{0: 10**15, 1: 1}]), method="power", alpha=0.3)["warnings"]
    assert warning["code"] == "extreme_ratio"
    assert "method=enet" in warning["message"]
    assert "sqrt_inv_freq" not in warning["message"]
