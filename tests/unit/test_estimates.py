"""Estimates from a sample of images, against formulas written out, other libraries and simulations."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statsvc.dataset.splits import from_dict
from statsvc.sampling.weights import weights_response
from statsvc.weighting.estimate import ImageSums, images_bound, images_needed
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import table_of

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "estimates.py"))


def ask(table: Any, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def sums_of(pixels: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> ImageSums:
    sums = ImageSums(pixels.shape[1])
    for rows in np.array_split(np.arange(len(pixels)), 3):
        sums.add(pixels[rows], total[rows])
    return sums


def test_the_interval_follows_from_the_textbook_variance_of_a_ratio() -> None:
    # Cochran 1977, eq. 6.13, written out for one class and three of ten images.
    x, n = [2, 5, 1], [10, 20, 12]
    r, mean = 8 / 42, 42 / 3
    variance = (1 - 3 / 10) / (3 * mean**2) * sum((a - r * b) ** 2 for a, b in zip(x, n, strict=True)) / 2
    half = 1.959964 * variance**0.5 / (r * (1 - r))
    odds = np.log(r / (1 - r)) + np.array([-half, half])
    got = sums_of(np.array(x)[:, None], np.array(n)).share_intervals(3 / 10)
    np.testing.assert_allclose(got, [1 / (1 + np.exp(-odds))], rtol=1e-6)


@pytest.mark.parametrize("images", [0, 1, 7, 99])
def test_so_few_images_would_be_seen_5_times_in_100_at_the_bound_of_a_rare_class(images: int) -> None:
    seen = np.random.default_rng(0).poisson(1000 * images_bound(images, 1000), 200_000)
    assert np.mean(seen <= images) == pytest.approx(0.05, abs=0.003)


def test_the_bound_of_a_class_that_was_not_seen_is_three_in_n() -> None:
    assert images_bound(0, 500) == pytest.approx(3 / 500, rel=0.002)


def test_intervals_contain_the_truth_at_least_92_times_in_100() -> None:
    rng = np.random.default_rng(5)
    images = SIMULATION["population"](5000, 1.0, rng)
    rows = [row for row in SIMULATION["coverage"](images, 800, 300, rng, 100) if row.reported > 0.5]
    assert len(rows) >= 4
    # 0.92 less two standard deviations of a rate from 300 draws: a correct interval passes.
    assert min(min(row.share, row.weight) for row in rows) > 0.92 - 2 * (0.92 * 0.08 / 300) ** 0.5


def test_the_size_for_a_relative_error_reaches_that_error() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.gamma(1.0, 1000.0, (50_000, 3)).astype(np.int64)
    total = pixels.sum(axis=1)
    share = pixels.sum(axis=0) / total.sum()
    errors = []
    for _ in range(200):
        order = rng.permutation(len(pixels))
        size = images_needed(sums_of(pixels[order[:400]], total[order[:400]]), len(pixels), 0.05, 0.95)
        assert 400 < size < 2000
        drawn = order[:size]
        errors.append(np.abs(pixels[drawn].sum(axis=0) / total[drawn].sum() / share - 1))
    assert np.quantile(errors, 0.95, axis=0).max() < 0.056
    assert np.quantile(errors, 0.95, axis=0).max() > 0.04


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
