"""Intervals of estimates and sizes of samples, against SciPy, written-out formulas and simulations."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from statsvc.weighting.compute import ClassCounts
from statsvc.weighting.conditional_intervals import limits, student_quantile, truncated_interval
from statsvc.weighting.image_sums import ImageSums
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.sample_intervals import images_bound, share_intervals, weight_intervals
from statsvc.weighting.sample_size import images_needed

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "estimates.py"))

Array = np.ndarray[Any, Any]


def sums_of(pixels: Array, total: Array, replicates: int = 0) -> ImageSums:
    sums = ImageSums(pixels.shape[1], replicates)
    for rows in np.array_split(np.arange(len(pixels)), 3):
        sums.add(pixels[rows], total[rows])
    return sums


def sample(images: int, seen: int, seed: int = 0) -> tuple[Array, Array]:
    """Return the pixels of a class that `seen` images contain, [images], and the sizes of the images."""
    rng = np.random.default_rng(seed)
    total = rng.integers(5_000, 20_000, images)
    area = np.where(np.arange(images) < seen, rng.gamma(0.7, 0.05, images), 0)
    return np.maximum((area * total).astype(np.int64), np.arange(images) < seen), total


def written_out(x: Array, n: Array, fraction: float) -> tuple[float, float]:
    """Return the interval of a share from the images themselves, with the distributions of SciPy."""
    m, ratio = len(x), x.sum() / n.sum()
    residual = (x - ratio * n) / x.sum()
    correction = (1 - fraction) * m / (m - 1)
    sd = np.sqrt(correction * (residual**2).sum()) / (1 - ratio)
    odds = np.log(ratio / (1 - ratio))
    t = stats.t.ppf(0.975, x.sum() ** 2 / (x**2).sum() - 1)
    skewness = (residual**3).sum() / (residual**2).sum() ** 1.5
    # Mean and third cumulant of the studentized logit; Hall's transformation is inverted by search.
    curvature = sd * (1 - 2 * ratio)
    k1 = -skewness * np.sqrt(1 - fraction) / 2 + curvature / 2
    k3 = -skewness * (2 - fraction) / np.sqrt(1 - fraction) + 3 * curvature

    def hall(value: float, level: float) -> float:
        a, b = -k1 + k3 / 6, -k3 / 6
        return float(value + a + b * value**2 + b**2 * value**3 / 3 - level)

    lower, upper = (
        max(t, sign * optimize.brentq(hall, -50, 50, args=(sign * t,))) * sd / stats.norm.ppf(0.975)
        for sign in (1, -1)
    )
    # The images that contain the class, half an image less than those of the condition.
    present = x > 0
    p, least = present.mean(), 99.5 / m
    covariance = correction * (residual * (present - p)).sum() / (m * p * (1 - p)) / (1 - ratio)
    excess = np.log(p / (1 - p)) - np.log(least / (1 - least))
    bound = odds - excess * sd**2 / covariance

    def end(level: float, scale: float) -> float:
        def above(mean: float) -> float:
            survival = stats.norm.logsf(odds, mean, scale) - stats.norm.logsf(bound, mean, scale)
            return float(survival - np.log(level))

        return float(optimize.brentq(above, odds - 20 * scale, odds + 20 * scale))

    low, high = end(0.025, lower), end(0.975, upper)
    return 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-high))


@pytest.mark.parametrize("fraction", [0.001, 0.6])
@pytest.mark.parametrize("seen", [102, 110, 130, 400])
def test_the_interval_of_a_share_follows_from_its_formulas_written_out(seen: int, fraction: float) -> None:
    x, n = sample(600, seen)
    [got] = share_intervals(sums_of(x[:, None], n), fraction)
    np.testing.assert_allclose(got, written_out(x, n, fraction), rtol=2e-4)


def test_the_interval_of_an_unskewed_class_is_that_of_a_ratio() -> None:
    # Cochran 1977, eq. 6.13, with no condition near and equal areas: only Student's t remains, nearly z.
    x, n = np.full(2000, 100), np.tile([900, 1100], 1000)
    ratio, mean = 0.1, 1000
    variance = (1 - 0.2) / (2000 * mean**2) * ((x - ratio * n) ** 2).sum() / 1999
    [got] = share_intervals(sums_of(x[:, None], n), 0.2)
    half = stats.t.ppf(0.975, 1999) * variance**0.5
    np.testing.assert_allclose(got, [ratio - half, ratio + half], rtol=1e-4)


@pytest.mark.parametrize("freedom", [2, 3.5, 5, 20, 49, 1000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_quantiles_of_student_are_those_of_scipy(freedom: float, confidence: float) -> None:
    got = student_quantile(confidence, np.array([freedom]))
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    # The expansion is one in 1/ν, and less exact far in the tail.
    assert got[0] == pytest.approx(expected, rel=0.08 if freedom < 3 else 0.03 if freedom < 5 else 0.003)


@pytest.mark.parametrize("images", [0, 1, 7, 99])
def test_the_bound_of_a_rare_class_is_the_exact_one_of_a_poisson_number(images: int) -> None:
    expected = stats.chi2.ppf(0.95, 2 * (images + 1)) / 2 / 1000
    assert images_bound(images, 1000) == pytest.approx(expected, rel=1e-6)


def test_the_bound_of_a_class_that_was_not_seen_is_three_in_n() -> None:
    assert images_bound(0, 500) == pytest.approx(3 / 500, rel=0.002)
    assert images_bound(0, 2) == 1


@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.5, 2.0])
def test_given_two_conditions_an_interval_contains_the_mean_as_often_as_it_says(mean: float) -> None:
    # The estimate and two numbers that must be positive, of which one rises and one falls with it.
    rng = np.random.default_rng(1)
    covariance = np.array([[1.0, 0.6, -0.5], [0.6, 1.0, 0.1], [-0.5, 0.1, 1.0]])
    center = [mean, 0.6 * mean - 0.5, 1.5 - 0.5 * mean]
    drawn = rng.multivariate_normal(center, covariance, 400_000)
    drawn = drawn[(drawn[:, 1:] > 0).all(axis=1)][:4000]
    assert len(drawn) == 4000
    estimate, one = drawn[:, 0], np.ones(len(drawn))
    between = limits(estimate, one, drawn[:, 1:], np.tile([0.6, -0.5], (len(drawn), 1)))
    assert (between[:, 0] < estimate).all()
    assert (estimate < between[:, 1]).all()
    ends = truncated_interval(estimate, np.ones((len(drawn), 2)), between, 0.9)
    assert np.mean(mean < ends[:, 0]) == pytest.approx(0.05, abs=0.013)
    assert np.mean(mean > ends[:, 1]) == pytest.approx(0.05, abs=0.013)


def test_a_class_at_the_limit_has_a_far_lower_end_and_one_far_above_it_does_not() -> None:
    x, n = sample(1000, 100)
    at_limit, above = (
        share_intervals(sums_of(each[:, None], n), 0.01)[0] for each in (x, sample(1000, 300)[0])
    )
    share = x.sum() / n.sum()
    assert at_limit[0] < share / 4
    assert at_limit[1] < share * 1.6
    assert above[0] > sample(1000, 300)[0].sum() / n.sum() / 1.4


def test_an_interval_is_finite_where_one_image_has_nearly_all_pixels_of_a_class() -> None:
    x, n = sample(1000, 150)
    x[0] = 10 * x.sum()
    [ends] = share_intervals(sums_of(x[:, None], n + x), 0.01)
    assert 0 < ends[0] < x.sum() / (n + x).sum() < ends[1] < 1
    assert ends[1] / ends[0] > 20


def test_a_class_with_all_pixels_has_no_uncertainty() -> None:
    n = sample(300, 0)[1]
    np.testing.assert_array_equal(share_intervals(sums_of(n[:, None], n), 0.5), [[1, 1]])


@pytest.mark.parametrize("seen", [101, 106, 400])
def test_the_interval_of_a_weight_is_that_of_its_share_transformed(seen: int) -> None:
    x, n = sample(1000, seen)
    sums = sums_of(x[:, None], n, 4000)
    spec = WeightSpec.from_params({"method": "sqrt_inv_freq", "normalize": "none"}).resolved()
    counts = ClassCounts(np.array([x.sum()]), np.zeros(1, bool), float(n.sum()), samples=1000)
    weights = weight_intervals(sums, counts, spec, 0.1)
    assert weights is not None
    [share] = share_intervals(sums, 0.1)
    np.testing.assert_allclose(np.log(weights[0]), np.log(share[::-1] ** -0.5), atol=0.02)


def test_intervals_contain_the_truth_at_least_92_times_in_100() -> None:
    # Classes that are expected in 80 to 850 of 850 images, so the rarest has an interval only by chance.
    rng = np.random.default_rng(5)
    population = SIMULATION["Population"](SIMULATION["video"](5000, 1.0, rng))
    rows = [row for row in SIMULATION["coverage"](population, 850, 200, rng, 100) if row.draws >= 100]
    assert min(row.expected for row in rows) < 90
    assert len(rows) == 7
    # 0.92 less two and a half standard deviations of a rate from 200 draws: a correct interval passes.
    lowest = min(row.hits[name] / row.given[name] for row in rows for name in ("share", "1/√p"))
    assert lowest > 0.92 - 2.5 * (0.92 * 0.08 / 200) ** 0.5


@pytest.mark.parametrize(("error", "confidence"), [(0.1, 0.95), (0.2, 0.8)])
def test_the_size_for_a_relative_error_reaches_that_error(error: float, confidence: float) -> None:
    rng = np.random.default_rng(2)
    population = SIMULATION["Population"](SIMULATION["video"](50_000, 1.0, rng, lowest=0.1))
    size, reached = SIMULATION["sizes"](population, error, confidence, 200, rng)
    assert len(reached) == 7
    assert min(rate for _, rate in reached) > confidence - 2 * (confidence * (1 - confidence) / 200) ** 0.5
    # Not by drawing far more: the class that determines the size reaches hardly more than was asked.
    assert size < 0.5 * population.images
    assert min(rate for _, rate in reached) < confidence + 0.12


def test_a_pilot_without_common_classes_needs_all_images() -> None:
    x, n = sample(400, 19)
    assert images_needed(sums_of(x[:, None], n), 12_345, 0.1, 0.95) == 12_345
    nothing = ImageSums(0)
    nothing.add(np.zeros((0, 0), np.int64), np.zeros(0, np.int64))
    assert images_needed(nothing, 12_345, 0.1, 0.95) == 12_345
