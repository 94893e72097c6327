"""Recipes: published weights, computed from published counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.classes.class_maps import ClassMap
from statsvc.errors import InvalidParameter
from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.recipes import RECIPES
from support.expected import PUBLISHED
from support.small_tables import CAMVID_NAMES, TotalsTable, camvid, cityscapes, table_of

if TYPE_CHECKING:
    from statsvc.dataset.table import Table

KITTI = PUBLISHED["semantic_kitti"]


def ask(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"num_classes": 12},
        {"num_classes": 12, "ignore_index": (11,)},
        {"num_classes": 11, "ignore_index": (11, 255), "class_names": tuple(CAMVID_NAMES)},
    ],
)
def test_segnet_returns_the_published_weights_for_every_way_to_ignore_void(
    configuration: dict[str, Any],
) -> None:
    body = ask(camvid(**configuration), recipe="segnet")
    np.testing.assert_allclose(body["weights"], PUBLISHED["camvid_train"]["median_freq"], rtol=0, atol=1e-9)
    assert body["recipe"] == "segnet"
    assert body["warnings"] == []


def test_median_freq_with_void_as_class_12_returns_the_published_weights() -> None:
    body = ask(camvid(), method="median_freq", normalize="none", num_classes="12")
    np.testing.assert_allclose(body["weights"], PUBLISHED["camvid_train"]["median_freq"], rtol=0, atol=1e-9)


def test_segnet_ignores_255_and_negative_ids() -> None:
    rows = [{-1: 5, 0: 10, 1: 20, 2: 5, 255: 60}]
    body = ask(table_of(rows, num_classes=2, ignore_index=(-1, 2, 255)), recipe="segnet")
    assert [row["pixels"] for row in body["classes"]] == [10, 20, 5]
    assert body["spec"]["ignore_index"] == [-1, 255]
    assert body["weights"] == pytest.approx([1, 0.5, 2])


def test_segnet_keeps_an_explicit_num_classes() -> None:
    body = ask(camvid(num_classes=11, ignore_index=(11,)), recipe="segnet", num_classes=11)
    assert len(body["weights"]) == 11
    assert body["unexpected"][0]["id"] == 11


@pytest.mark.parametrize(("recipe", "tolerance"), [("erfnet-decoder", 6e-4), ("erfnet-encoder", 4e-3)])
def test_erfnet_returns_the_published_weights(recipe: str, tolerance: float) -> None:
    body = ask(cityscapes(), recipe=recipe, class_map="cityscapes")
    published = PUBLISHED["cityscapes_fine_train"][recipe.replace("-", "_")]["weights"]
    np.testing.assert_allclose(body["weights"], published, rtol=tolerance)


def test_ocnet_returns_the_published_weights_except_for_traffic_light() -> None:
    body = ask(cityscapes(), recipe="ocnet", class_map="cityscapes")
    off = np.abs(np.array(body["weights"]) / PUBLISHED["cityscapes_fine_train"]["ocnet_hrnet"]["weights"] - 1)
    assert body["classes"][6]["name"] == "traffic light"
    assert off[6] == pytest.approx(0.12, abs=0.01)
    assert np.delete(off, 6).max() < 0.028


def test_enet_applies_its_formula_to_all_pixels() -> None:
    counts = PUBLISHED["cityscapes_fine_train"]["counts_by_labelId"]
    everything = sum(counts.values())
    body = ask(cityscapes(), recipe="enet", class_map="cityscapes")
    for row, raw in zip(body["classes"], PUBLISHED["cityscapes_fine_train"]["trainId_order"], strict=True):
        assert row["weight"] == pytest.approx(1 / np.log(1.02 + counts[str(raw)] / everything))


def test_semantic_kitti_returns_the_printed_weights() -> None:
    # The contents are shares; they add up to 0.9999985, and the rest goes to unlabeled, which is ignored.
    counts = {int(raw): round(share * 10**15) for raw, share in KITTI["content"].items()}
    counts[0] += 10**15 - sum(counts.values())
    learning_map = ClassMap(
        "semantic-kitti",
        tuple(sorted((int(raw), train_id) for raw, train_id in KITTI["learning_map"].items())),
    )
    body = ask(TotalsTable(counts, class_map=learning_map, num_classes=20), recipe="semantic-kitti")
    assert body["classes"][0]["ignored"] is True
    # Four decimals of what was a float32.
    np.testing.assert_allclose(body["weights"], KITTI["weights"], rtol=2e-7, atol=6e-5)


def test_randla_applies_its_formula() -> None:
    counts = KITTI["randla_counts"]
    body = ask(TotalsTable({**dict(enumerate(counts)), 255: 10**9}), recipe="randla")
    assert body["weights"] == pytest.approx([1 / (n / sum(counts) + 0.02) for n in counts])


@pytest.mark.parametrize("imbalance", ["imbalance_100", "imbalance_10"])
@pytest.mark.parametrize("beta", ["0.9", "0.99", "0.999", "0.9999"])
def test_effective_num_returns_the_weights_of_long_tailed_cifar(imbalance: str, beta: str) -> None:
    published = PUBLISHED["cifar10_long_tailed"][imbalance]
    body = ask(TotalsTable(dict(enumerate(published["counts"]))), method="effective_num", beta=beta)
    np.testing.assert_allclose(body["weights"], published["effective_num"][beta], rtol=1e-9)


def test_road_on_cityscapes_contributes_37_20_and_5_percent_of_the_loss() -> None:
    for method, share in (("uniform", 0.37), ("sqrt_inv_freq", 0.20), ("inverse_freq", 0.05)):
        body = ask(cityscapes(), method=method, class_map="cityscapes")
        assert body["classes"][0]["name"] == "road"
        assert body["classes"][0]["loss_share"] == pytest.approx(share, abs=0.005)


def test_mean_normalized_weights_reduce_an_unweighted_mean_loss_4_and_12_times_on_cityscapes() -> None:
    for method, times in (("sqrt_inv_freq", 4), ("inverse_freq", 12)):
        body = ask(cityscapes(), method=method, class_map="cityscapes")
        assert 1 / body["expected_weight"] == pytest.approx(times, rel=0.08)
        scaled = ask(cityscapes(), method=method, class_map="cityscapes", normalize="expected")
        assert scaled["expected_weight"] == pytest.approx(1)


def test_a_recipe_rejects_other_values_of_its_settings_and_accepts_other_parameters() -> None:
    for name, recipe in RECIPES.items():
        for parameter in recipe.settings:
            other = {
                "method": "uniform", "normalize": "max", "denominator": "counted", "clip": "1,2"
            }.get(parameter, 1.5)  # fmt: skip
            if other == recipe.settings[parameter]:
                other = "all"
            with pytest.raises(InvalidParameter, match=f"recipe {name} sets"):
                WeightSpec.from_params({"recipe": name, parameter: other})
        same = WeightSpec.from_params({"recipe": name, **recipe.settings})
        assert same == WeightSpec.from_params({"recipe": name})
        more = WeightSpec.from_params(
            {"recipe": name, "absent": "one", "ignore_index": "7", "num_classes": 3}
        )
        assert (more.absent, more.ignore_index, more.num_classes) == ("one", (7,), 3)
