"""Common mistakes of programs that compute class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from support.expected import PUBLISHED
from support.small_tables import camvid, cityscapes, table_of

if TYPE_CHECKING:
    from statsvc.dataset.table import Table


def ask(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def test_counts_that_float32_cannot_represent_stay_exact() -> None:
    body = ask(table_of([{0: 2**24, 1: 2**24}, {0: 1}]))
    assert [row["pixels"] for row in body["classes"]] == [2**24 + 1, 2**24]
    assert body["weights"][0] < body["weights"][1]


def test_cityscapes_has_more_pixels_than_32_bits_can_count() -> None:
    body = ask(cityscapes(), class_map="cityscapes")
    counts = PUBLISHED["cityscapes_fine_train"]["counts_by_labelId"]
    order = PUBLISHED["cityscapes_fine_train"]["trainId_order"]
    assert body["pixels"] + body["ignored_pixels"] == sum(counts.values()) == 2975 * 2048 * 1024 > 2**32
    assert [row["pixels"] for row in body["classes"]] == [counts[str(raw)] for raw in order]
    assert sum(row["frequency"] for row in body["classes"]) == pytest.approx(1)


def test_sums_above_64_bits_are_exact() -> None:
    body = ask(table_of([{0: 2**62, 1: 2**62, 2: 2**62}, {3: 2**62}]), denominator="all")
    assert body["pixels"] == 2**64
    assert [row["frequency"] for row in body["classes"]] == [0.25] * 4


def test_presence_is_per_image_and_not_per_batch() -> None:
    # A batch of both images would put class 1's denominator at 200 and its weight at twice as much.
    body = ask(table_of([{0: 100}, {0: 50, 1: 50}]), method="median_freq", normalize="none")
    f = [150 / 200, 50 / 100]
    assert body["weights"] == pytest.approx([np.median(f) / f[0], np.median(f) / f[1]])


def test_the_weight_of_bicyclist_on_camvid_is_8_not_14() -> None:
    body = ask(camvid(), method="median_freq", normalize="none")
    assert body["weights"][10] == pytest.approx(8.136508447, abs=1e-9)
    # A program that looks for a class in all images together computes f = p.
    globally = ask(camvid(), method="median_freq_global", normalize="none")
    assert globally["weights"][10] == pytest.approx(14, rel=0.1)


def test_an_absent_class_does_not_change_the_weights_of_others() -> None:
    rows = [{0: 100, 1: 20}, {0: 50, 1: 50}]
    without = ask(table_of(rows), method="median_freq")
    with_absent = ask(table_of(rows, num_classes=3), method="median_freq")
    assert with_absent["weights"] == [*without["weights"], 0.0]
    assert with_absent["classes"][2]["absent"] is True


def test_counting_void_in_the_median_changes_all_weights_by_8_percent() -> None:
    inside = ask(camvid(), method="median_freq", normalize="none", denominator="all")
    outside = ask(
        camvid(), method="median_freq", normalize="none", denominator="all", ignore_index="11", num_classes=12
    )
    ratio = np.array(inside["weights"][:11]) / outside["weights"][:11]
    np.testing.assert_allclose(ratio, ratio[0])
    assert abs(ratio[0] - 1) == pytest.approx(0.08, abs=0.01)
    assert outside["weights"][11] == 0
    assert outside["classes"][11]["ignored"] is True


def test_the_denominator_can_include_void() -> None:
    # Class 1's image is half void: its share there is 0.2 of all pixels and 0.4 of the counted ones.
    rows = [{0: 100}, {0: 30, 1: 20, 255: 50}]
    counted = ask(table_of(rows), method="median_freq", normalize="none")
    of_all = ask(table_of(rows), method="median_freq", normalize="none", denominator="all")
    assert counted["weights"][1] == pytest.approx((130 / 150 + 0.4) / 2 / 0.4)
    assert of_all["weights"][1] == pytest.approx((130 / 200 + 0.2) / 2 / 0.2)


def test_ids_are_counted_exactly_and_not_in_bins() -> None:
    # np.histogram(bins=4) without range would put 1 into bin 0 and 3 into bin 3.
    body = ask(table_of([{1: 7, 3: 9}]), num_classes=4)
    assert [row["pixels"] for row in body["classes"]] == [0, 7, 0, 9]


@pytest.mark.parametrize("beta", ["0.99999999", 0.99999999, "1-1e-8"])
def test_beta_that_rounds_to_1_in_float32_is_exact(beta: str | float) -> None:
    assert np.float32(0.99999999) == 1
    rows = [{0: 10**6, 1: 10**8, 2: 10**9}]
    body = ask(table_of(rows), method="effective_num", beta=beta, normalize="none")
    # 1 - (1 - 1e-8)^n by its series and limits, to 1e-7.
    expected = [1e-8 / -np.expm1(-1e-8 * n) for n in (10**6, 10**8, 10**9)]
    np.testing.assert_allclose(body["weights"], expected, rtol=1e-7)


def test_beta_that_rounds_to_1_in_float64_gives_inverse_frequency() -> None:
    rows = [{0: 10**6, 1: 10**8}]
    body = ask(table_of(rows), method="effective_num", beta="1-1e-20", normalize="max")
    assert body["weights"] == pytest.approx([1, 0.01])
    assert body["spec"]["beta"] == "1-1e-20"
