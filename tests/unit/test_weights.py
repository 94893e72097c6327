"""The arithmetic of weights: comparison with an implementation in plain Python, and properties."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.weighting.compute import ClassCounts, compute_weights
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import WeightSpec

NORMALIZE = ("mean", "sum", "max", "min", "expected", "none")
ABSENT = ("zero", "one", "max", "eps")


def effective(n: float, beta: str) -> float:
    with localcontext() as context:
        context.prec = 80
        b = 1 - Decimal(beta[2:]) if beta.startswith("1-") else Decimal(beta)
        if b == 0:
            return 1.0
        return float((1 - b) / (1 - (Decimal(n) * b.ln()).exp()))


def one_weight(method: str, n: float, p: float, f: float, m: float, c: dict[str, Any]) -> Any:
    if method == "sqrt_inv_freq":
        return p**-0.5
    if method == "inverse_freq":
        return 1 / (p * c["classes"])
    if method == "power":
        return p ** -c["alpha"]
    if method == "effective_num":
        return effective(m if c.get("unit") == "images" else n, c["beta"])
    if method == "median_freq":
        return c["median_f"] / f
    if method == "median_freq_global":
        return c["median_p"] / p
    if method == "enet":
        return 1 / float((Decimal(c["c"]) + Decimal(p)).ln())
    if method == "log_count":
        return 1 / math.log(max(n, 2))
    if method == "log_inv_freq":
        logarithm = math.log1p((float(c["total"]) - n) / n)
        return max(c["floor"], c["offset"] + math.log(c["k"]) + logarithm)
    if method == "inverse_eps":
        return 1 / (p + c["epsilon"])
    if method == "linear":
        return 1 + c["upper"] * (1 - p)
    if method == "uniform":
        return 1.0
    if method == "logit_adjustment":
        return c["tau"] * math.log(p)
    assert method == "pos_weight"
    return (float(c["total"]) - n) / n


def at_strength(value: float, method: str, strength: float) -> float:
    return strength * value if METHODS[method].kind == "additive" else value**strength


def plain_python_weights(case: dict[str, Any], method: str, params: dict[str, Any]) -> list[float]:
    """Return the weights, computed class by class in plain Python, in the documented order of the steps."""
    pixels, images, image_pixels = case["pixels"], case["images"], case["image_pixels"]
    total, classes = case["total"], range(len(case["pixels"]))
    kept = [c for c in classes if not case["ignored"][c]]
    present = [c for c in kept if pixels[c] > 0]
    absent = [c for c in kept if pixels[c] == 0]
    constants = {
        **params,
        "classes": len(pixels),
        "total": total,
        "median_p": statistics.median(pixels[c] / total for c in present),
        "median_f": statistics.median(pixels[c] / image_pixels[c] for c in present),
    }
    w = dict.fromkeys(classes, 0.0)
    for c in present:
        f = pixels[c] / image_pixels[c]
        w[c] = one_weight(method, pixels[c], pixels[c] / total, f, images[c], constants)
        w[c] = at_strength(w[c], method, params["strength"])
    if METHODS[method].kind != "weights":
        if "clip" in params:
            w.update({c: min(max(w[c], params["clip"][0]), params["clip"][1]) for c in present})
        low = min(w[c] for c in present)
        w.update(dict.fromkeys(absent, low))
        return [w[c] for c in classes]
    part, p = list(present), {c: pixels[c] / total for c in present}
    if params["absent"] == "eps":
        part += absent
        for c in absent:
            p[c] = 1e-10
            w[c] = one_weight(method, 1e-10 * total, 1e-10, 1e-10, 1e-10 * case["samples"], constants)
            w[c] = at_strength(w[c], method, params["strength"])
    scale = {
        "mean": lambda: math.fsum(w[c] for c in part) / len(part),
        "sum": lambda: math.fsum(w[c] for c in part),
        "max": lambda: max(w[c] for c in part),
        "min": lambda: min(w[c] for c in part),
        "expected": lambda: math.fsum(p[c] * w[c] for c in part),
        "none": lambda: 1.0,
    }[params["normalize"]]()
    for c in part:
        w[c] = w[c] / scale * params.get("multiply", {}).get(str(c), 1.0)
        if "clip" in params:
            w[c] = min(max(w[c], params["clip"][0]), params["clip"][1])
    for c in absent:
        if params["absent"] == "one":
            w[c] = 1.0
        if params["absent"] == "max":
            w[c] = max(w[k] for k in present)
    return [w[c] for c in classes]


def counts_of(case: dict[str, Any]) -> ClassCounts:
    return ClassCounts(
        pixels=np.array(case["pixels"], np.int64),
        ignored=np.array(case["ignored"], bool),
        total=case["total"],
        images=np.array(case["images"], np.int64),
        image_pixels=np.array(case["image_pixels"], np.float64),
        samples=case["samples"],
    )


@st.composite
def cases(draw: st.DrawFn, largest: int = 2**63 - 1) -> dict[str, Any]:
    count = st.one_of(st.just(0), st.integers(1, 100), st.integers(1, largest))
    pixels = draw(st.lists(count, min_size=1, max_size=8))
    ignored = draw(
        st.lists(st.integers(0, 5).map(lambda x: x == 0), min_size=len(pixels), max_size=len(pixels))
    )
    assume(any(n and not is_ignored for n, is_ignored in zip(pixels, ignored, strict=True)))
    samples = draw(st.integers(1, 10**7))
    images = [0 if n == 0 else draw(st.integers(1, samples)) for n in pixels]
    counted = sum(n for n, is_ignored in zip(pixels, ignored, strict=True) if not is_ignored)
    total = counted if draw(st.booleans()) else counted + draw(st.integers(0, largest))
    image_pixels = [n if n == 0 else draw(st.integers(n, max(total, n))) for n in pixels]
    return {
        "pixels": pixels,
        "ignored": ignored,
        "samples": samples,
        "images": images,
        "total": total,
        "image_pixels": image_pixels,
    }


@st.composite
def parameters(draw: st.DrawFn, method: str) -> dict[str, Any]:
    betas = ("0", "0.5", "0.9", "0.9999", "0.999999999", "1-1e-7", "1-1e-12", "1-1e-20")
    by_method: dict[str, dict[str, Any]] = {
        "power": {"alpha": draw(st.floats(0, 4))},
        "effective_num": {
            "beta": draw(st.sampled_from(betas)),
            "unit": draw(st.sampled_from(("pixels", "images"))),
        },
        "enet": {"c": draw(st.floats(1, 10))},
        "log_inv_freq": {
            "k": draw(st.floats(0.01, 100)),
            "offset": draw(st.floats(-5, 5)),
            "floor": draw(st.floats(0.01, 2)),
        },
        "inverse_eps": {"epsilon": draw(st.floats(1e-12, 10))},
        "linear": {"upper": draw(st.floats(0, 1e6))},
        "logit_adjustment": {"tau": draw(st.floats(0.01, 10))},
    }
    return by_method.get(method, {})


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_weights_are_finite_and_equal_an_independent_implementation(method: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    params = data.draw(parameters(method)) | {"strength": data.draw(st.sampled_from((0, 0.3, 1)))}
    if METHODS[method].kind != "additive" and data.draw(st.booleans()):
        params["clip"] = [data.draw(st.floats(0, 1)), data.draw(st.floats(1, 100))]
    if METHODS[method].kind == "weights":
        params["normalize"] = data.draw(st.sampled_from(NORMALIZE))
        params["absent"] = data.draw(st.sampled_from(ABSENT))
        if data.draw(st.booleans()):
            params["multiply"] = {str(c): data.draw(st.floats(0.1, 10)) for c in range(len(case["pixels"]))}
    expected = plain_python_weights(case, method, params)
    spec = WeightSpec.from_params({"method": method, **params})
    if max(abs(w) for w in expected) > 3.4028e38:
        with pytest.raises(Unanswerable, match="exceeds the range of float32"):
            compute_weights(counts_of(case), spec)
        return
    result = compute_weights(counts_of(case), spec)
    assert np.isfinite(result.weights).all()
    assert np.isfinite(result.weights.astype(np.float32)).all()
    # ln p and (N-n)/n cancel where p is nearly 1: they are as exact as p is.
    near_zero = 1e-300 if METHODS[method].kind == "weights" else 1e-14
    np.testing.assert_allclose(result.weights, expected, rtol=1e-9, atol=near_zero)
    if METHODS[method].kind == "weights":
        parts = [n / case["total"] * w for n, w in zip(case["pixels"], expected, strict=True)]
        parts = [0.0 if is_ignored else part for part, is_ignored in zip(parts, case["ignored"], strict=True)]
        assert result.expected_weight == pytest.approx(math.fsum(parts), rel=1e-9, abs=1e-300)
        if math.fsum(parts) > 1e-250:
            assert result.loss_share is not None
            np.testing.assert_allclose(
                result.loss_share, [x / math.fsum(parts) for x in parts], rtol=1e-8, atol=1e-300
            )


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("effective_num", "log_count")])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), factor=st.integers(2, 1000))
def test_methods_of_shares_do_not_depend_on_the_number_of_pixels(
    method: str, data: st.DataObject, factor: int
) -> None:
    case = data.draw(cases(largest=10**12))
    params = data.draw(parameters(method))
    larger = {
        **case,
        "pixels": [n * factor for n in case["pixels"]],
        "image_pixels": [n * factor for n in case["image_pixels"]],
        "total": case["total"] * factor,
    }
    spec = WeightSpec.from_params({"method": method, **params})
    np.testing.assert_allclose(
        compute_weights(counts_of(case), spec).weights,
        compute_weights(counts_of(larger), spec).weights,
        rtol=1e-9,
        atol=1e-14 if METHODS[method].kind != "weights" else 0,
    )


@pytest.mark.parametrize("method", [name for name in METHODS if name != "median_freq"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_rarer_class_never_has_a_smaller_weight(method: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    case["images"] = [min(n, 10**6) for n in case["pixels"]]
    params = data.draw(parameters(method))
    result = compute_weights(counts_of(case), WeightSpec.from_params({"method": method, **params}))
    order = [c for c in np.argsort(case["pixels"]) if result.present[c]]
    ordered = result.weights[order] * (-1 if method == "logit_adjustment" else 1)
    assert (np.diff(ordered) <= 1e-12 * np.abs(ordered[1:])).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_median_freq_decreases_with_the_share_within_the_images_of_a_class(data: st.DataObject) -> None:
    case = data.draw(cases())
    result = compute_weights(counts_of(case), WeightSpec(method="median_freq"))
    f = [n / i if i else 0 for n, i in zip(case["pixels"], case["image_pixels"], strict=True)]
    ordered = result.weights[[c for c in np.argsort(f) if result.present[c]]]
    assert (np.diff(ordered) <= 1e-12 * ordered[1:]).all()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_permuting_the_classes_permutes_the_weights(method: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    params = {"method": method, **data.draw(parameters(method))}
    if METHODS[method].kind == "weights":
        params |= {
            "normalize": data.draw(st.sampled_from(NORMALIZE[:-1])),
            "absent": data.draw(st.sampled_from(ABSENT)),
        }
    order = data.draw(st.permutations(range(len(case["pixels"]))))
    permuted = {k: [v[c] for c in order] if isinstance(v, list) else v for k, v in case.items()}
    spec = WeightSpec.from_params(params)
    try:
        weights = compute_weights(counts_of(case), spec).weights
    except Unanswerable:
        with pytest.raises(Unanswerable):
            compute_weights(counts_of(permuted), spec)
        return
    np.testing.assert_allclose(
        compute_weights(counts_of(permuted), spec).weights, weights[list(order)], rtol=1e-12
    )


def simple(pixels: list[int], names: tuple[str, ...] = (), ignored: tuple[int, ...] = ()) -> ClassCounts:
    is_ignored = np.isin(np.arange(len(pixels)), ignored)
    return ClassCounts(
        np.array(pixels, np.int64), is_ignored, int(np.array(pixels)[~is_ignored].sum()), names=names
    )


def weights(counts: ClassCounts, **params: Any) -> list[float]:
    result: list[float] = compute_weights(counts, WeightSpec.from_params(params)).weights.tolist()
    return result


def test_the_steps_are_normalize_then_multiply_then_clip_then_absent() -> None:
    # 1/p = 10, 10/9; mean 50/9; weights 1.8 and 0.2.
    result = weights(
        simple([10, 90, 0]), method="power", alpha=1, multiply="0:2,1:10", clip="0.5,1.9", absent="max"
    )
    assert result == pytest.approx([1.9, 1.9, 1.9])
    result = weights(
        simple([10, 90, 0]), method="power", alpha=1, multiply="1:10", clip="1.85,9", absent="one"
    )
    assert result == pytest.approx([1.85, 2.0, 1.0])


def test_normalize_multiply_and_clip_exclude_ignored_and_absent_classes() -> None:
    counts = simple([10, 90, 0, 900], ignored=(3,))
    result = compute_weights(
        counts, WeightSpec.from_params({"multiply": {"2": 5, "3": 5}, "clip": [0.1, 9], "normalize": "sum"})
    )
    assert result.weights.tolist() == pytest.approx([0.75, 0.25, 0, 0])
    assert result.without_effect == ("2", "3")
    assert result.frequency.tolist() == [0.1, 0.9, 0, 0]


def test_absent_eps_returns_the_weights_of_common_implementations() -> None:
    counts = simple([10**6] * 18 + [0])
    assert weights(counts, absent="eps", normalize="none")[18] == pytest.approx(1e5)
    assert weights(counts, method="power", alpha=1, absent="eps", normalize="none")[18] == pytest.approx(1e10)
    assert weights(counts, absent="eps")[0] == pytest.approx(1e-3, rel=0.25)
    assert weights(counts, method="inverse_freq", absent="eps")[0] < 1e-6


def test_absent_error_names_the_classes() -> None:
    with pytest.raises(Unanswerable, match="1 of 3 classes has no pixels: tram"):
        weights(simple([1, 2, 0], names=("a", "b", "tram")), absent="error")


def test_counts_without_pixels_are_rejected() -> None:
    for counts in (simple([0, 0]), simple([5, 0], ignored=(0,)), simple([])):
        with pytest.raises(Unanswerable, match="no pixel is counted"):
            compute_weights(counts, WeightSpec())


def test_an_absent_class_gets_the_smallest_value_of_methods_that_do_not_return_class_weights() -> None:
    assert weights(simple([1, 99, 0]), method="logit_adjustment", tau=2) == pytest.approx(
        [2 * math.log(0.01), 2 * math.log(0.99), 2 * math.log(0.01)]
    )
    assert weights(simple([20, 80, 0]), method="pos_weight") == [4, 0.25, 0.25]


def test_multiply_accepts_names_and_ids_and_rejects_ambiguous_keys() -> None:
    counts = simple([5, 5, 5], names=("road", "person", "road"))
    assert weights(counts, multiply="person:3,2:2") == [1, 3, 2]
    for text, message in (
        ("persn:2", "did you mean 'person'"),
        ("road:2", "several classes are named 'road'"),
        ("person:2,1:2", "same class"),
        ("3:2", "an id from 0 to 2"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            weights(counts, multiply=text)


def test_a_method_that_needs_image_counts_rejects_totals_with_advice() -> None:
    for params in ({"method": "median_freq"}, {"method": "effective_num", "unit": "images"}):
        with pytest.raises(Unanswerable, match=r"totals only\. Use another method"):
            weights(simple([1, 2]), **params)


def test_automatic_beta_is_1_minus_1_over_the_median_count() -> None:
    result = compute_weights(
        simple([10, 1000, 5000, 0]), WeightSpec.from_params({"method": "effective_num", "beta": "auto"})
    )
    assert result.beta == pytest.approx(0.999)
    expected = [effective(n, "0.999") for n in (10, 1000, 5000)]
    assert result.weights[:3] == pytest.approx([w * 3 / sum(expected) for w in expected])


def test_every_method_accepts_one_class_with_one_pixel() -> None:
    one = ClassCounts(np.array([1]), np.array([False]), 1, np.array([1]), np.array([1.0]), 1)
    for name in METHODS:
        extra = {"alpha": 2} if name == "power" else {}
        value = compute_weights(one, WeightSpec.from_params({"method": name, **extra})).weights
        assert value.tolist() == [0.0 if name in ("logit_adjustment", "pos_weight") else 1.0]


def test_extreme_parameters_are_rejected_or_give_finite_weights() -> None:
    counts = simple([1, 2**62])
    assert np.isfinite(weights(counts, method="linear", upper=1e308)).all()
    for params in (
        {"method": "linear", "upper": 1e308, "normalize": "none"},
        {"method": "logit_adjustment", "tau": 1e308},
        {"method": "power", "alpha": 4, "normalize": "min"},
        {"multiply": {"0": 1e308}},
    ):
        with pytest.raises(Unanswerable, match="exceeds the range of float32"):
            weights(counts, **params)
    assert weights(counts, method="power", alpha=4, normalize="none", clip="0,7") == [7, pytest.approx(1)]
