"""Weights and histogram responses: their content, and every warning in and outside its case."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.classes.class_maps import ClassMap, builtin
from statsvc.dataset.splits import detect
from statsvc.errors import InvalidParameter, NotFound, Unanswerable
from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.histogram import histogram_response
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import CAMVID_NAMES, TotalsTable, camvid, cityscapes, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.table import Table


def ask(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def codes(body: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in body["warnings"]]


def test_the_camvid_response_matches_the_documented_example() -> None:
    body = ask(camvid(class_names=tuple(CAMVID_NAMES)), ignore_index="11")
    assert (body["dataset"], body["method"], body["kind"]) == ("camvid", "sqrt_inv_freq", "weights")
    assert (body["exact"], body["images"], body["failed"], body["pixels"]) == (True, 367, 0, 60913605)
    assert round(body["expected_weight"], 4) == 0.3913
    sky = body["classes"][0]
    assert {key: sky[key] for key in ("id", "name", "pixels", "images")} == {
        "id": 0,
        "name": "sky",
        "pixels": 10682767,
        "images": 366,
    }
    assert (round(sky["frequency"], 5), round(sky["weight"], 4), round(sky["loss_share"], 4)) == (
        0.17538,
        0.3431,
        0.1538,
    )
    assert body["spec"]["ignore_index"] == [11]
    assert body["weights"] == [row["weight"] for row in body["classes"]]
    assert body["warnings"] == []
    assert body["schema"] == 2
    assert np.isfinite(json.loads(json.dumps(body, allow_nan=False))["weights"]).all()


def test_an_ignored_class_keeps_its_index_with_weight_0() -> None:
    body = ask(table_of([{0: 10, 1: 20, 2: 30}], num_classes=3, ignore_index=(1,)))
    assert body["classes"][1] == {
        "id": 1,
        "name": "1",
        "pixels": 20,
        "images": 1,
        "frequency": 0.0,
        "weight": 0.0,
        "loss_share": 0.0,
        "ignored": True,
    }
    assert (body["pixels"], body["ignored_pixels"]) == (40, 20)
    assert "ignored" not in body["classes"][0]


def test_ids_above_the_classes_are_unexpected_and_not_counted() -> None:
    rows = [{0: 10, 1: 20}, {0: 5, 7: 3}, {7: 4, 9: 1}]
    body = ask(table_of(rows, paths=["a.png", "b.png", "c.png"], num_classes=2))
    assert body["unexpected"] == [
        {"id": 7, "pixels": 7, "examples": ["b.png", "c.png"]},
        {"id": 9, "pixels": 1, "examples": ["c.png"]},
    ]
    assert body["pixels"] == 35
    assert body["classes"][0]["frequency"] == pytest.approx(15 / 35)
    whole = ask(table_of(rows, num_classes=2), denominator="all")
    assert whole["classes"][0]["frequency"] == pytest.approx(15 / 43)


def test_unexpected_ids_can_be_rejected() -> None:
    table = table_of([{0: 10, 7: 3}], paths=["b.png"], num_classes=2)
    with pytest.raises(
        Unanswerable, match=r"demo has 1 unexpected id.*id 7 \(3 pixels, for example in b.png\)"
    ):
        ask(table, unexpected="error")
    assert ask(table, unexpected="error", ignore_index="7")["pixels"] == 10


def test_warnings_distinguish_raw_ids_from_training_ids() -> None:
    class_map = ClassMap("mine", ((7, 0), (8, 1), (10, 255)))
    table = table_of([{7: 1, 8: 2, 10: 80, 255: 16}], class_map=class_map, num_classes=2)
    messages = {w["code"]: w["message"] for w in ask(table, ignore_index="255")["warnings"]}
    # 255 is both: a raw id that the map does not know, and the training id that 10 becomes.
    assert "raw id 255 (16 pixels" in messages["unexpected_ids"]
    assert "Add the raw ids to the class map, as a class or as ignored" in messages["unexpected_ids"]
    assert "ignore_index" not in messages["unexpected_ids"]
    assert messages["ignored_majority"].startswith("training id 255 is ignored")
    table = table_of([{7: 1, 8: 2}], class_map=class_map, num_classes=1)
    messages = {w["code"]: w["message"] for w in ask(table)["warnings"]}
    assert "training id 1 (2 pixels" in messages["unexpected_ids"]
    assert "ignore_index" in messages["unexpected_ids"]


def test_ids_outside_the_class_map_are_reported_with_their_raw_id() -> None:
    class_map = ClassMap("mine", ((7, 0), (8, 1), (9, 1), (10, 255), (11, 5)))
    body = ask(table_of([{7: 1, 8: 2, 9: 4, 10: 8, 11: 3, 0: 16}], class_map=class_map, num_classes=2))
    assert [row["pixels"] for row in body["classes"]] == [1, 6]
    # 0 is a raw id, 5 a training id: both have the same example file.
    assert [(entry["id"], entry["pixels"]) for entry in body["unexpected"]] == [(0, 16), (5, 3)]
    assert [entry["examples"] for entry in body["unexpected"]] == [["0000.png"], ["0000.png"]]
    assert body["ignored_pixels"] == 8
    assert body["spec"]["class_map"] == "mine"


def test_an_image_contains_a_merged_class_if_it_contains_any_of_its_ids() -> None:
    class_map = ClassMap("mine", ((1, 0), (2, 0), (3, 1)))
    rows = [{1: 10, 2: 10}, {2: 10}, {3: 5, 1: 5}]
    body = ask(table_of(rows, class_map=class_map, num_classes=2), method="median_freq", normalize="none")
    assert [row["images"] for row in body["classes"]] == [3, 1]
    f = [35 / 40, 5 / 10]
    assert body["weights"] == pytest.approx([np.median(f) / f[0], np.median(f) / f[1]])


def test_another_class_map_replaces_the_names_and_ignored_ids_of_the_dataset() -> None:
    table = table_of(
        [{0: 10, 1: 20, 255: 5}], num_classes=5, ignore_index=(1,), class_names=("a", "b", "c", "d", "e")
    )
    default = ask(table)
    assert len(default["weights"]) == 5
    assert default["classes"][1]["ignored"] is True
    binary = ask(table, class_map="binary")
    assert [row["pixels"] for row in binary["classes"]] == [10, 25]
    assert [row["name"] for row in binary["classes"]] == ["0", "1"]
    assert binary["spec"]["ignore_index"] == [255]


def test_class_map_none_returns_raw_ids_and_an_equal_map_counts_as_the_datasets_own() -> None:
    table = table_of(
        [{7: 10, 8: 20, 33: 5}], num_classes=19, class_map=cityscapes_map(), class_names=("way",)
    )
    assert ask(table)["classes"][0]["name"] == "way"
    assert ask(table, class_map="cityscapes")["classes"][0]["name"] == "way"
    raw = ask(table, class_map="none")
    assert len(raw["weights"]) == 34
    assert raw["classes"][33]["pixels"] == 5
    assert raw["spec"]["class_map"] == "none"


def cityscapes_map() -> ClassMap:
    return ClassMap.from_dict(json.loads(json.dumps(builtin("cityscapes").to_dict())))


def test_explicit_num_classes_takes_precedence() -> None:
    table = table_of([{0: 10, 1: 20}], num_classes=5)
    assert len(ask(table, num_classes=3)["weights"]) == 3
    assert len(ask(table, num_classes=3, class_map="binary")["weights"]) == 3
    assert len(ask(table, class_map="reduce_zero_label")["weights"]) == 1


def test_255_and_negative_ids_are_ignored_by_default() -> None:
    body = ask(table_of([{-2: 5, -1: 5, 0: 10, 1: 20, 255: 7}]))
    assert body["spec"]["ignore_index"] == [-2, -1, 255]
    assert (body["pixels"], body["ignored_pixels"], len(body["weights"])) == (30, 17, 2)
    # An explicit set replaces the rule.
    explicit = ask(table_of([{-1: 5, 0: 10, 1: 20}]), ignore_index="1")
    assert [entry["id"] for entry in explicit["unexpected"]] == [-1]


def test_totals_suffice_for_methods_that_do_not_need_image_counts() -> None:
    body = ask(cityscapes(), class_map="cityscapes")
    assert body["images"] is None
    assert body["classes"][0]["images"] is None
    with pytest.raises(Unanswerable, match="totals: median_freq needs to know in which images"):
        ask(cityscapes(), method="median_freq", class_map="cityscapes")


def test_a_request_without_counted_pixels_is_rejected_with_the_name_of_the_dataset() -> None:
    with pytest.raises(Unanswerable, match="demo: no pixel is counted"):
        ask(table_of([{255: 10}]))
    with pytest.raises(Unanswerable, match="demo: no pixel is counted"):
        ask(table_of([{}]))


def test_instance_ids_are_rejected_instead_of_creating_millions_of_classes() -> None:
    table = table_of([{0: 10, 26001: 5, 2**31: 3}])
    with pytest.raises(Unanswerable, match="the highest id is 2147483648"):
        ask(table)
    assert len(ask(table, num_classes=2)["weights"]) == 2


def test_a_split_counts_only_its_samples_and_an_unknown_split_is_rejected_with_a_suggestion() -> None:
    paths = ["train/a.png", "train/b.png", "val/c.png"]
    table = table_of([{0: 1, 1: 1}, {0: 2}, {0: 4, 1: 8}], paths=paths, splits=detect(paths))
    assert ask(table, split="train")["pixels"] == 4
    assert ask(table, split="train")["images"] == 2
    assert ask(table)["pixels"] == 16
    with pytest.raises(NotFound, match=r"no split 'trian' \(did you mean 'train'\?\)"):
        ask(table, split="trian")


def test_methods_that_do_not_return_class_weights_report_their_kind() -> None:
    body = ask(table_of([{0: 10, 1: 30}]), method="logit_adjustment")
    assert body["kind"] == "additive"
    assert body["weights"] == pytest.approx([np.log(0.25), np.log(0.75)])
    assert body["expected_weight"] is None
    assert body["classes"][0]["loss_share"] is None
    assert ask(table_of([{0: 10, 1: 30}]), method="pos_weight")["kind"] == "pos_weight"


def test_multiply_accepts_class_names_and_rejects_unknown_ones() -> None:
    table = table_of([{0: 10, 1: 10}], class_names=("road", "person"))
    assert ask(table, multiply="person:3")["weights"] == [1, 3]
    with pytest.raises(InvalidParameter, match="'persn' is not a class"):
        ask(table, multiply="persn:3")


def test_the_value_of_automatic_beta_is_reported() -> None:
    assert ask(table_of([{0: 100, 1: 300}]), method="effective_num", beta="auto")["beta"] == pytest.approx(
        0.995
    )


TRAIN_VAL = ["train/a.png", "val/b.png"]
TWO = {0: 50, 1: 50}

# One tiny class hides in max/min that most classes have the same weight.
NINE_OF_TWELVE = [
    4_000_000,
    2_000_000,
    900_000,
    500_000,
    200_000,
    100_000,
    80_000,
    70_000,
    60_000,
    30_000,
    20_000,
    1416,
]

WARNINGS: dict[str, tuple[Callable[[], dict[str, Any]], str, Callable[[], dict[str, Any]]]] = {
    "failed_samples": (
        lambda: ask(table_of([TWO], failed={"bad.png": "not a PNG"})),
        "1 sample could not be read and is not counted .bad.png: not a PNG",
        lambda: ask(table_of([TWO])),
    ),
    "unexpected_ids": (
        lambda: ask(table_of([{**TWO, 5: 7}], num_classes=2)),
        r"id 5 \(7 pixels, for example in 0000.png\)",
        lambda: ask(table_of([{**TWO, 5: 7}], num_classes=2), ignore_index="5"),
    ),
    "id_255_is_a_class": (
        lambda: ask(table_of([{**TWO, 255: 5, 300: 5}])),
        "ids up to 300 occur, so id 255 is counted as a class",
        lambda: ask(table_of([{**TWO, 255: 5, 300: 5}], num_classes=19)),
    ),
    "binary_mask": (
        lambda: ask(table_of([{0: 50, 255: 20}])),
        "class_map=binary",
        lambda: ask(table_of([{0: 50, 255: 20}]), class_map="binary"),
    ),
    "ignored_majority": (
        lambda: ask(table_of([{**TWO, 255: 101}])),
        "id 255 is ignored but covers 50.2% of all pixels",
        lambda: ask(table_of([{**TWO, 255: 100}])),
    ),
    "absent_classes": (
        lambda: ask(table_of([TWO], num_classes=3, class_names=("a", "b", "tram"))),
        r"1 of 3 classes has no pixels and gets weight 0 \(absent=zero\): tram",
        lambda: ask(table_of([TWO], num_classes=2)),
    ),
    "absent_eps": (
        lambda: ask(table_of([TWO], num_classes=3), absent="eps", normalize="none"),
        r"up to 1e\+05, while the largest weight of a present class is 1.41",
        lambda: ask(table_of([TWO], num_classes=3), absent="max"),
    ),
    "mostly_empty": (
        lambda: ask(table_of([TWO], num_classes=5)),
        "only 2 of 5 classes have pixels; check num_classes .5.",
        lambda: ask(table_of([TWO], num_classes=4)),
    ),
    "one_class": (
        lambda: ask(table_of([{0: 10}])),
        r"only one class has pixels \(0\)",
        lambda: ask(table_of([TWO])),
    ),
    "effective_num_uniform": (
        lambda: ask(table_of([{0: 10**6, 1: 10**8}]), method="effective_num"),
        r"beta=0.9999 and unit=pixels equals uniform within 1 % \(max/min 1.000000\); beta=1-1.9802e-08",
        lambda: ask(table_of([{0: 10**6, 1: 10**8}]), method="effective_num", beta="auto"),
    ),
    "effective_num_inverse": (
        lambda: ask(table_of([{0: 1000, 1: 100}]), method="effective_num", beta="1-1e-7"),
        r"beta=0.9999999 and unit=pixels equals inverse frequency within 1 % \(max/min 10\)",
        lambda: ask(table_of([{0: 1000, 1: 100}]), method="effective_num", beta="0.99"),
    ),
    "effective_num_flat": (
        lambda: ask(table_of([dict(enumerate(NINE_OF_TWELVE))]), method="effective_num"),
        r"beta=0.9999 and unit=pixels gives 9 of 12 classes the same weight within 1 %, although the largest "
        r"of their counts is 66.67 times the smallest; beta=1-1.11111e-05 with unit=pixels gives",
        lambda: ask(
            table_of([dict(enumerate(NINE_OF_TWELVE))]),
            method="effective_num",
            beta="1-1.11111e-05",
        ),
    ),
    "extreme_ratio": (
        lambda: ask(table_of([{0: 10_010_000, 1: 10}])),
        "1000 times the smallest .1 .*, 0 ",
        lambda: ask(table_of([{0: 9_990_000, 1: 10}])),
    ),
    "zero_in_float32": (
        lambda: ask(table_of([{0: 2**62, 1: 1}]), method="power", alpha=4),
        "a weight that rounds to 0 in float32, .* the loss: 0",
        lambda: ask(table_of([{0: 2**62, 1: 1}]), method="power", alpha=2),
    ),
    "multiply_without_effect": (
        lambda: ask(table_of([TWO], num_classes=3), multiply="2:4"),
        "no pixels: 2",
        lambda: ask(table_of([TWO], num_classes=3), multiply="1:4"),
    ),
    "all_splits": (
        lambda: ask(table_of([TWO, TWO], paths=TRAIN_VAL, splits=detect(TRAIN_VAL))),
        r"those of all splits together \(train, val\); for training, use split=train",
        lambda: ask(table_of([TWO, TWO], paths=TRAIN_VAL, splits=detect(TRAIN_VAL)), split="train"),
    ),
}


@pytest.mark.parametrize("code", WARNINGS)
def test_each_warning_is_emitted_with_its_numbers_and_only_in_its_case(code: str) -> None:
    with_warning, message, without_warning = WARNINGS[code]
    body = with_warning()
    assert codes(body).count(code) == 1
    text = next(warning["message"] for warning in body["warnings"] if warning["code"] == code)

    assert re.search(message, text), text
    assert code not in codes(without_warning())


def test_equal_counts_cause_no_warning_about_beta_and_one_split_none_about_splits() -> None:
    assert codes(ask(table_of([{0: 10**7, 1: 10**7}]), method="effective_num")) == []
    only_train = ["train/a.png", "train/b.png"]
    assert codes(ask(table_of([TWO, TWO], paths=only_train, splits=detect(only_train)))) == []


def test_suggested_values_of_beta_change_the_weights() -> None:
    rows = [{0: 10**7, 1: 10**6}] * 3 + [{0: 10**7}] * 20_000
    table = table_of(rows)
    body = ask(table, method="effective_num")
    assert "unit=images gives max/min" in body["warnings"][0]["message"]
    images = ask(table, method="effective_num", unit="images")
    assert codes(images) == ["extreme_ratio"]


@pytest.mark.parametrize(
    ("method", "gentler"),
    [("sqrt_inv_freq", ["enet"]), ("enet", []), ("inverse_freq", ["sqrt_inv_freq", "enet"])],
)
def test_the_warning_about_extreme_weights_recommends_gentler_methods(
    method: str, gentler: list[str]
) -> None:
    counts = {0: 10**12, 1: 10}
    body = ask(table_of([counts]), method=method, multiply={"1": 1000})
    (message,) = (w["message"] for w in body["warnings"] if w["code"] == "extreme_ratio")
    assert re.findall(r"method=(\w+)", message) == gentler
    assert message.endswith("a strength below 1 or clip=lo,hi")


def test_no_warning_recommends_a_method_that_equals_the_one_in_use() -> None:
    counts = {0: 10**12, 1: 10}
    for params in ({"method": "power", "alpha": 0.5}, {"method": "inverse_freq", "strength": 0.5}):
        (warning,) = ask(table_of([counts]), **params)["warnings"]
        assert warning["code"] == "extreme_ratio"
        assert "method=enet" in warning["message"]
        assert "sqrt_inv_freq" not in warning["message"]


def test_the_warning_about_an_estimate_does_not_recommend_the_absent_policy_in_use() -> None:
    table = table_of([TWO], num_classes=3, sampled_from=1000)
    assert "or use absent=max" in ask(table)["warnings"][0]["message"]
    assert "or use absent=max" not in ask(table, absent="max")["warnings"][0]["message"]


def test_estimates_are_marked_as_not_exact() -> None:
    assert ask(table_of([TWO], sampled_from=1000))["exact"] is False


def test_the_histogram_lists_every_id_with_its_state() -> None:
    table = table_of([{0: 10, 1: 20, 255: 5}, {7: 5}], failed={"x.png": "broken"}, num_classes=2)
    body = histogram_response(table)
    assert [(row["id"], row["pixels"], row["images"], row["share"]) for row in body["classes"]] == [
        (0, 10, 1, 0.25),
        (1, 20, 1, 0.5),
        (7, 5, 1, 0.125),
        (255, 5, 1, 0.125),
    ]
    assert [row["id"] for row in body["classes"] if row.get("ignored")] == [255]
    assert [row["id"] for row in body["classes"] if row.get("unexpected")] == [7]
    assert body["unexpected"] == [{"id": 7, "pixels": 5, "examples": ["0001.png"]}]
    assert (body["failed"], body["images"], body["pixels"], body["num_classes"]) == (1, 2, 40, 2)
    binary = histogram_response(table, class_map="binary")
    assert [(row["id"], row["pixels"]) for row in binary["classes"]] == [(0, 10), (1, 25), (7, 5)]


def test_the_histogram_of_a_table_without_pixels_is_empty() -> None:
    body = histogram_response(table_of([{}]))
    assert (body["classes"], body["pixels"], body["num_classes"]) == ([], 0, 0)


def test_class_weights_provide_the_fields_of_the_response() -> None:
    response = ask(table_of([{0: 10, 1: 40}, {0: 50}], class_names=("road", "person")))
    weights = ClassWeights(response)
    assert weights.numpy().dtype == np.float32
    np.testing.assert_array_equal(weights.numpy(), np.array(response["weights"], np.float32))
    assert weights.to_list() == response["weights"]
    assert weights.to_dict() == response
    assert len(weights) == 2
    assert (weights.dataset, weights.version, weights.method, weights.exact) == (
        "demo",
        None,
        "sqrt_inv_freq",
        True,
    )
    assert weights.classes[1]["name"] == "person"
    assert weights.warnings == []
    assert repr(weights) == "<ClassWeights of demo: sqrt_inv_freq, 2 classes>"
    log = weights.to_log()
    assert log["class_weights/person"] == response["weights"][1]
    assert log["class_weights/_method"] == "sqrt_inv_freq"
    assert all(isinstance(value, (int, float, str)) for value in log.values())


def test_class_weights_are_indexed_by_name_and_id_and_compared() -> None:
    counts = {0: 10, 1: 40, 2: 50}
    weights = ClassWeights(ask(table_of([counts], class_names=("road", "car", "car"))))
    assert weights["road"] == weights[0] == weights.to_list()[0]
    assert list(weights) == weights.to_list()
    with pytest.raises(NotFound, match=r"demo has no class 'raod' \(did you mean 'road'"):
        weights["raod"]
    with pytest.raises(InvalidParameter, match="several classes are named 'car'; use a class id"):
        weights["car"]
    for class_id in (-1, 3):
        with pytest.raises(IndexError, match="not in 0 … 2"):
            weights[class_id]
    same = ClassWeights.from_dict(json.loads(json.dumps(weights.to_dict())))
    assert same == weights
    assert hash(same) == hash(weights)
    assert same != ClassWeights({**weights.to_dict(), "version": 2})
    assert weights != weights.to_list()


def test_a_notebook_shows_a_table_with_a_bar_for_each_class_and_escapes_names() -> None:
    weights = ClassWeights(ask(table_of([{0: 75, 1: 25}], num_classes=3, class_names=("<b>", "car", "tram"))))
    html = weights._repr_html_()
    assert [name in html for name in ("&lt;b&gt;", "car", "tram", "<b>")] == [True, True, True, False]
    assert re.findall(r"width:([\d.]+)em", html) == ["6.93", "12.00", "0.00"]  # 1 / sqrt(3) of the largest
    assert "1 of 3 classes has no pixels" in html


def test_the_plot_has_a_bar_for_each_class() -> None:
    pytest.importorskip("matplotlib").use("agg")
    weights = ClassWeights(ask(table_of([{0: 75, 1: 25}], class_names=("a$b$", "car"))))
    axes: Any = weights.plot()
    assert [bar.get_width() for bar in axes.patches] == weights.to_list()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a$b$", "car"]
    assert weights.plot(axes) is axes
    axes.figure.canvas.draw()


def test_classes_with_the_same_name_are_logged_separately() -> None:
    weights = ClassWeights(ask(table_of([{0: 10, 1: 40}], class_names=("road", "road"))))
    assert {"class_weights/road_0", "class_weights/road_1"} <= set(weights.to_log())


def test_class_weights_convert_to_a_float32_tensor() -> None:
    torch = pytest.importorskip("torch")
    weights = ClassWeights(ask(table_of([{0: 10, 1: 40}])))
    tensor = weights.tensor()
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), weights.numpy())
    assert weights.tensor("cpu").device.type == "cpu"


def test_a_class_map_can_be_applied_to_totals_of_raw_ids() -> None:
    table = TotalsTable({0: 10, 255: 30})
    assert ask(table, class_map="binary")["weights"] == pytest.approx(
        np.array([10**-0.5, 30**-0.5]) / np.mean([10**-0.5, 30**-0.5])
    )
