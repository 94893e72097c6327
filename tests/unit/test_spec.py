"""WeightSpec: accepted and rejected values, the canonical form, and the descriptions of parameters."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statsvc.client.query import as_text
from statsvc.errors import InvalidParameter
from statsvc.weighting.beta import Beta
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import PARAMETERS, WeightSpec
from statsvc.weighting.reference import describe_methods, describe_samplers
from statsvc.weighting.value_types import Number


def spec(**params: Any) -> WeightSpec:
    return WeightSpec.from_params(params)


EQUAL: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"method": "sqrt_inv_freq", "normalize": "mean", "absent": "zero", "denominator": "counted"}),
    ({"method": "effective_num", "beta": "0.9999"}, {"method": "effective_num", "beta": "1-1e-4"}),
    ({"method": "effective_num", "beta": 0.9999}, {"method": "effective_num", "unit": "pixels"}),
    ({"method": "effective_num", "beta": "1-1e-7"}, {"method": "effective_num", "beta": 1 - 1e-7}),
    ({"method": "effective_num", "beta": "1-1e-20"}, {"method": "effective_num", "beta": "1-0.01e-18"}),
    ({"method": "enet"}, {"method": "enet", "c": "1.020"}),
    ({"ignore_index": "255,254"}, {"ignore": ["254", "255", "255"]}),
    ({"ignore_index": "none"}, {"ignore_index": []}),
    ({"ignore_index": "-1"}, {"ignore_index": np.int64(-1)}),
    ({"multiply": "person:2,11:1.5"}, {"multiply": {11: 1.5, "person": 2}}),
    ({"clip": "0.1,10"}, {"clip": (0.1, 10)}),
    ({"num_classes": " 19 "}, {"num_classes": 19, "split": None}),
    ({"recipe": "enet"}, {"recipe": "enet", "method": "enet", "c": 1.02}),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equivalent_parameters_resolve_to_equal_specs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert spec(**one).resolved() == spec(**other).resolved()
    assert json.dumps(spec(**one).to_dict()) == json.dumps(spec(**other).to_dict())


def test_ignoring_no_ids_differs_from_the_default() -> None:
    assert spec(ignore_index="none").resolved() != spec().resolved()
    assert spec(ignore_index="none").to_dict()["ignore_index"] == []
    assert spec().to_dict()["ignore_index"] is None


@pytest.mark.parametrize("params", [params for pair in EQUAL for params in pair])
def test_the_canonical_form_parses_to_an_equivalent_spec(params: dict[str, Any]) -> None:
    canonical = json.loads(json.dumps(spec(**params).to_dict()))
    assert WeightSpec.from_params(canonical).resolved() == spec(**params).resolved()
    assert spec(**params).resolved().resolved() == spec(**params).resolved()


def test_the_canonical_form_contains_only_parameters_of_the_method() -> None:
    assert list(spec().to_dict()) == [
        "method", "strength", "normalize", "absent", "denominator", "ignore_index", "num_classes",
        "class_map", "unexpected", "split", "clip", "multiply", "recipe",
    ]  # fmt: skip
    assert spec(method="effective_num", beta="1-1e-7").to_dict()["beta"] == 0.9999999
    assert spec(method="effective_num", beta="1-1e-20").to_dict()["beta"] == "1-1e-20"
    assert "normalize" not in spec(method="pos_weight").to_dict()


def test_a_recipe_sets_the_method_in_both_ways_to_create_a_spec() -> None:
    assert WeightSpec(recipe="segnet").resolved() == spec(recipe="segnet").resolved()
    assert WeightSpec(recipe="segnet").resolved().method == "median_freq"


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"methd": "enet"}, "methd: unknown parameter .did you mean 'method'"),
    ({"method": "sqrt_freq"}, "method: expected one of .*did you mean 'sqrt_inv_freq'"),
    ({"method": "enet", "alpha": 1}, "alpha belongs to method=power, not to enet"),
    ({"beta": 0.9}, "beta belongs to method=effective_num, not to sqrt_inv_freq"),
    ({"method": "power"}, r"alpha: power requires alpha, a number in \[0, 4\]"),
    ({"method": "power", "alpha": "4.5"}, r"alpha: 4.5 is out of range; use a number in \[0, 4\]"),
    ({"method": "power", "alpha": "nan"}, "alpha: expected a number"),
    ({"method": "power", "alpha": float("nan")}, "alpha: nan is not a finite number"),
    ({"method": "power", "alpha": float("inf")}, "alpha: inf is not a finite number"),
    ({"method": "power", "alpha": "1e400"}, "alpha: 1e400 is not a finite number"),
    ({"method": "power", "alpha": 10**400}, "alpha: expected a number"),
    ({"method": "power", "alpha": True}, "alpha: expected a number"),
    ({"method": "power", "alpha": "1_0"}, "alpha: expected a number"),
    ({"method": "power", "alpha": ["1", "2"]}, "alpha: expected a number"),
    ({"method": "power", "alpha": ""}, "alpha: the value is empty"),
    ({"method": "enet", "c": 0.99}, "c: 0.99 is out of range"),
    ({"method": "inverse_eps", "epsilon": 0}, r"epsilon: 0 is out of range; use a number in \(0, ∞\)"),
    ({"method": "linear", "upper": -1}, "upper: -1 is out of range"),
    ({"method": "logit_adjustment", "tau": 0}, "tau: 0 is out of range"),
    ({"method": "effective_num", "beta": "1"}, "beta: 1 is out of range"),
    ({"method": "effective_num", "beta": 1.0}, "beta: 1.0 is out of range"),
    ({"method": "effective_num", "beta": "-0.1"}, "beta: -0.1 is out of range"),
    ({"method": "effective_num", "beta": "1-2"}, "beta: 1-2 is out of range"),
    ({"method": "effective_num", "beta": "1-0"}, "beta: 1-0 is out of range"),
    ({"method": "effective_num", "beta": "1-x"}, "beta: expected a number in"),
    ({"method": "effective_num", "beta": "nan"}, "beta: expected a number in"),
    ({"method": "effective_num", "unit": "classes"}, "unit: expected one of pixels, images"),
    ({"method": "pos_weight", "normalize": "mean"}, "normalize: pos_weight returns pos_weight"),
    ({"method": "logit_adjustment", "clip": "0,1"}, "clip: logit_adjustment returns additive"),
    ({"method": "logit_adjustment", "multiply": "0:2"}, "leave out multiply"),
    ({"method": "logit_adjustment", "absent": "one"}, "leave out absent"),
    ({"ignore": "1", "ignore_index": "2"}, "another name of ignore_index"),
    ({"ignore_index": "none,3"}, "use either ids or none"),
    ({"ignore_index": "255;254"}, "ignore_index: expected an integer"),
    ({"ignore_index": "99999999999999999999"}, "does not fit in 64 bits"),
    ({"ignore_index": [True]}, "expected an integer"),
    ({"num_classes": 0}, "num_classes: 0 is out of range"),
    ({"num_classes": "65537"}, "num_classes: 65537 is out of range"),
    ({"num_classes": 2.0}, "num_classes: expected an integer"),
    ({"class_map": "../map.yaml"}, "class_map: expected one of ade20k, bdd100k, .*, voc, none, not"),
    ({"clip": "5"}, "clip: expected lo,hi"),
    ({"clip": "5,1"}, "clip: 5,1 is out of range"),
    ({"clip": "-1,1"}, "clip: -1,1 is out of range"),
    ({"clip": "0,1e39"}, "within float32"),
    ({"multiply": "person"}, "expected class:factor pairs"),
    ({"multiply": "person:0"}, "factors are above 0"),
    ({"multiply": "a:1,a:2"}, "a occurs twice"),
    ({"multiply": 7}, "expected class:factor pairs"),
    ({"multiply": ":2"}, "expected class:factor pairs"),
    ({"split": 3}, "expected a name"),
    ({"recipe": "erfnet-decode"}, "did you mean 'erfnet-decoder'"),
    ({"recipe": "enet", "c": 1.1}, "c: recipe enet sets c=1.02; leave out either recipe or c"),
    ({"recipe": "ocnet", "beta": 0.5}, "beta belongs to method=effective_num, not to log_count"),
    ({"absent": "zer"}, "did you mean 'zero'"),
    ({"denominator": "everything"}, "expected one of counted, all"),
    ({"unexpected": "ignore"}, "expected one of report, error"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "message"), REJECTED)
def test_an_invalid_parameter_is_rejected_with_its_name_and_its_range(
    params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        WeightSpec.from_params(params)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InvalidParameter) as caught:
        spec(method="enet", alpha=1, foo=2, clip="x", num_classes=-1)
    assert [name for name, _ in caught.value.errors] == ["foo", "clip", "num_classes", "alpha"]


def test_resolving_checks_a_spec_created_without_from_params() -> None:
    with pytest.raises(InvalidParameter, match="alpha: 99 is out of range"):
        WeightSpec(method="power", alpha=99).resolved()


@given(st.floats(0, 1, exclude_max=True))
def test_the_complement_of_a_float_beta_is_exact(beta: float) -> None:
    assert Beta.parse(beta).complement == float(1 - Decimal(repr(beta)))


@given(st.floats(1e-300, 1))
def test_beta_written_as_1_minus_x_keeps_x(x: float) -> None:
    assert Beta.parse(f"1-{x!r}").complement == x


@given(st.one_of(st.floats(0, 1, exclude_max=True), st.floats(1e-300, 1).map("1-{!r}".format)))
def test_beta_survives_its_json_form(value: float | str) -> None:
    beta = Beta.parse(value)
    assert Beta.parse(json.loads(json.dumps(beta.to_json()))) == beta == Beta.parse(str(beta))


def test_automatic_beta_depends_on_the_median_count() -> None:
    beta = Beta.parse("auto")
    assert (beta.to_json(), beta.complement_for(np.array([1.0, 1000.0, 4000.0]))) == ("auto", 0.001)


def test_every_default_is_an_allowed_value() -> None:
    for parameter in PARAMETERS.values():
        if parameter.default is not None:
            assert parameter.parse(parameter.type.to_json(parameter.default)) == parameter.default
        if isinstance(parameter.type, Number) and not parameter.required:
            assert parameter.type.contains(parameter.default)


def test_every_parameter_of_one_method_or_sampler_is_described_with_it() -> None:
    described = {
        parameter["name"]
        for owner in [*describe_methods(), *describe_samplers()]
        for parameter in owner["parameters"]
    }
    assert described == {name for name, parameter in PARAMETERS.items() if parameter.owner}


def test_methods_are_described_with_defaults_and_ranges() -> None:
    described = {method["name"]: method for method in json.loads(json.dumps(describe_methods()))}
    assert list(described) == list(METHODS)
    assert described["power"]["parameters"][0] == {
        "name": "alpha",
        "default": None,
        "required": True,
        "range": "[0, 4]",
        "description": "Exponent: 0 gives uniform weights, 1 inverse frequency",
    }
    assert described["effective_num"]["parameters"][0]["range"] == "[0, 1)"


def test_numpy_and_tensor_values_are_those_of_python() -> None:
    torch = pytest.importorskip("torch")
    params = {"ignore_index": [0, 255], "clip": [0.25, 4.0], "num_classes": 19, "strength": 0.5}
    for form in (np.asarray, torch.tensor):
        assert spec(**{name: form(value) for name, value in params.items()}) == spec(**params)


@pytest.mark.parametrize(
    "params",
    [
        {"crop": (512, 256), "scale": (0.5, 2.0), "cat_max_ratio": 0.75},
        {"clip": [0.1, 10], "ignore_index": (0, 255), "multiply": {"car": 2.0}},
        {"sampler": "rare_class", "min_pixels": 20, "split": "city:zurich"},
    ],
)
def test_the_text_that_the_client_sends_means_the_same_as_the_python_value(params: dict[str, Any]) -> None:
    def sent(values: dict[str, Any]) -> WeightSpec:
        return WeightSpec.from_params({name: as_text(value) for name, value in values.items()})

    wanted = WeightSpec.from_params(params)
    assert sent(params) == wanted
    recorded = {name: value for name, value in wanted.to_dict().items() if value is not None}
    assert sent(recorded) == wanted.resolved()
