"""What an answer from a sample of images contains."""

from __future__ import annotations

from typing import Any

import numpy as np

from statsvc.dataset.splits import from_dict
from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.sample_intervals import images_bound
from support.small_tables import table_of


def ask(table: Any, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def rows(count: int) -> list[dict[int, int]]:
    rng = np.random.default_rng(3)
    found = [{0: int(a), 1: int(b), 255: 9} for a, b in rng.integers(1, 100, (count, 2))]
    for row in found[:7]:
        row[2] = 50
    return found


def test_an_answer_says_what_it_estimates_and_which_classes_it_does_not() -> None:
    table = table_of(rows(200), num_classes=4, failed={"z.png": "is empty"}, sampled_from=1000)
    body = ask(table)
    assert body["estimate"] == {"images": 201, "of": 1000, "confidence": 0.95}
    sky, road, pole, absent = body["classes"]
    for row in (sky, road):
        low, high = row["interval"]
        assert low < row["frequency"] < high
        assert "weight_interval" not in row  # normalization makes it depend on the rare class
    assert pole["images_bound"] == images_bound(7, 200)
    assert absent["images_bound"] == images_bound(0, 200)
    assert "interval" not in pole
    (warning,) = [each for each in body["warnings"] if each["code"] == "not_estimated"]
    assert "2 of 4 classes" in warning["message"]
    assert warning["message"].endswith("Count more label maps")
    assert ask(table) == body


def test_weights_that_do_not_depend_on_rare_classes_have_intervals() -> None:
    body = ask(table_of(rows(200), sampled_from=1000), normalize="none")
    for row in body["classes"][:2]:
        low, high = row["weight_interval"]
        assert low < row["weight"] < high
        # sqrt(1/p): the interval of the weight is that of the share, transformed.
        np.testing.assert_allclose([low, high], np.array(row["interval"][::-1]) ** -0.5, rtol=0.01)
    assert "weight_interval" not in body["classes"][2]
    with_all = ask(table_of([{k: row[k] for k in (0, 1)} for row in rows(200)], sampled_from=1000))
    assert all(
        low < row["weight"] < high for row in with_all["classes"] for low, high in [row["weight_interval"]]
    )


def test_numbers_of_images_are_extrapolated_where_a_method_depends_on_them() -> None:
    sample = [{0: 5, 1: 7}] * 60 + [{0: 5}] * 60
    params = {"method": "effective_num", "unit": "images", "beta": 0.999}
    estimated = ask(table_of(sample, sampled_from=480), **params)
    np.testing.assert_allclose(
        estimated["weights"], ask(table_of(sample * 4), **params)["weights"], rtol=1e-12
    )
    assert [row["images"] for row in estimated["classes"]] == [120, 60]


def test_a_sample_of_a_split_is_one_of_the_split() -> None:
    paths = [f"train/{k:03}.png" if k % 2 else f"val/{k:03}.png" for k in range(240)]
    splits = {"train": {"glob": "train/*"}}
    table = table_of(rows(240), paths=paths, splits=from_dict(splits), sampled_from=480)
    alone = table_of(rows(240)[1::2], sampled_from=240)
    got, expected = ask(table, split="train"), ask(alone)
    assert [row.get("interval") for row in got["classes"]] == [
        row.get("interval") for row in expected["classes"]
    ]
