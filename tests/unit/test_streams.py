"""Weights of streams: comparison with simulated draws and with the published formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from statsvc.client.client import Client
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.memory_table import MemoryTable
from statsvc.dataset.table import Block, Table
from statsvc.errors import InvalidParameter, NotFound, Unanswerable
from statsvc.local.calculate import calculate_class_weights
from statsvc.sampling import mixtures
from statsvc.sampling.weights import weights_response
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.parameters import WeightSpec
from support.reference_samplers import OTHER_PIXELS, PIXELS, daformer_probabilities, lvis_repeat_factors
from support.small_tables import CAMVID_NAMES, TotalsTable, table_of

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid" / "train"


def ask(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def mix(*parts: tuple[Table, float], **params: Any) -> dict[str, Any]:
    return weights_response(parts, WeightSpec.from_params(params))


def codes(body: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in body["warnings"]]


def of(n: np.ndarray[Any, Any], **configuration: Any) -> MemoryTable:
    return table_of([dict(enumerate(row)) for row in n.tolist()], **configuration)


def test_rare_class_weights_match_simulated_draws() -> None:
    body = ask(
        of(PIXELS, num_classes=4), sampler="rare_class", temperature=0.3, min_pixels=20, method="inverse_freq"
    )
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))
    share = q @ PIXELS / (q @ PIXELS).sum()
    raw = 1 / share
    np.testing.assert_allclose(body["weights"], raw / raw.mean(), rtol=1e-9)
    np.testing.assert_allclose([row["frequency"] for row in body["classes"]], share, rtol=1e-9)
    np.testing.assert_allclose([row["pixels"] for row in body["classes"]], 6 * (q @ PIXELS), rtol=1e-9)
    np.testing.assert_allclose([row["images"] for row in body["classes"]], 6 * (q @ (PIXELS > 0)), rtol=1e-9)
    np.testing.assert_allclose(
        [row["seen"] for row in body["classes"]], share / (PIXELS.sum(0) / PIXELS.sum()), rtol=1e-9
    )
    assert body["stream"]["draws"] == body["images"] == 6
    # Only the empty image has no class with 20 pixels.
    assert [part["never_drawn"] for part in body["stream"]["datasets"]] == [1]
    assert "images_never_drawn" in codes(body)


def test_repeat_factor_weights_match_simulated_epochs() -> None:
    body = ask(of(PIXELS, num_classes=4), sampler="repeat_factor", threshold=0.9, method="inverse_freq")
    r = np.array(lvis_repeat_factors(PIXELS, 0.9))
    share = r @ PIXELS / (r @ PIXELS).sum()
    raw = 1 / share
    np.testing.assert_allclose(body["weights"], raw / raw.mean(), rtol=1e-9)
    np.testing.assert_allclose(
        [row["images"] for row in body["classes"]], 6 * (r @ (PIXELS > 0)) / r.sum(), rtol=1e-9
    )


def test_median_frequency_of_a_stream_uses_presence_per_image() -> None:
    body = ask(
        of(PIXELS, num_classes=4), sampler="rare_class", temperature=0.3, min_pixels=20, method="median_freq"
    )
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))
    f = (q @ PIXELS) / ((q * PIXELS.sum(1)) @ (PIXELS > 0))
    raw = np.median(f) / f
    np.testing.assert_allclose(body["weights"], raw / raw.mean(), rtol=1e-9)


def test_a_stream_without_repeated_images_equals_the_files() -> None:
    table = of(PIXELS, num_classes=4)
    for method in ("sqrt_inv_freq", "median_freq", "enet", "logit_adjustment", "pos_weight"):
        # No class is in less than a thousandth of the images.
        stream, files = ask(table, method=method, sampler="repeat_factor"), ask(table, method=method)
        np.testing.assert_allclose(stream["weights"], files["weights"], rtol=1e-9)
        assert stream["pixels"] == pytest.approx(files["pixels"])
        assert [row["seen"] for row in stream["classes"]] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("denominator", ["counted", "all"])
def test_ignored_pixels_are_drawn_but_not_counted(denominator: str) -> None:
    body = ask(
        of(PIXELS),
        sampler="repeat_factor",
        threshold=0.9,
        ignore_index="0",
        num_classes=4,
        denominator=denominator,
    )
    counted = PIXELS[:, 1:]
    r = np.array(lvis_repeat_factors(counted, 0.9))
    q = r / r.sum()
    total = (q @ (PIXELS if denominator == "all" else counted)).sum()
    np.testing.assert_allclose(
        [row["frequency"] for row in body["classes"]], [0.0, *(q @ counted / total)], rtol=1e-9
    )
    assert body["ignored_pixels"] == pytest.approx(6 * float(q @ PIXELS[:, 0]))
    assert body["classes"][0]["ignored"] is True


def test_the_sampler_uses_classes_after_the_class_map() -> None:
    rows = [{0: 50, 255: 50}, {0: 90, 1: 10}, {0: 100}]
    body = ask(table_of(rows), sampler="rare_class", temperature=0.5, min_pixels=10, class_map="binary")
    merged = np.array([[50, 50], [90, 10], [100, 0]])
    q = np.array(daformer_probabilities(merged, 0.5, 10))
    np.testing.assert_allclose([row["pixels"] for row in body["classes"]], 3 * (q @ merged), rtol=1e-9)


def test_a_sampler_draws_only_from_the_split() -> None:
    paths = [f"{'train' if k < 4 else 'val'}/{k}.png" for k in range(6)]
    table = table_of(
        [dict(enumerate(row)) for row in PIXELS.tolist()],
        paths,
        splits={"train": _split(paths[:4])},
        num_classes=4,
    )
    body = ask(table, sampler="repeat_factor", threshold=0.9, split="train")
    np.testing.assert_allclose(body["weights"], ask(of(PIXELS[:4], num_classes=4), sampler="repeat_factor",
                                                    threshold=0.9)["weights"])  # fmt: skip
    with pytest.raises(NotFound, match="no split 'test'"):
        ask(table, sampler="repeat_factor", split="test")


def _split(paths: list[str]) -> Any:
    from statsvc.dataset.splits import Split

    return Split(paths=frozenset(paths))


def test_samples_that_could_not_be_read_are_not_drawn() -> None:
    rows = [dict(enumerate(row)) for row in PIXELS.tolist()]
    whole = table_of(rows, failed={"zz.png": "damaged"}, num_classes=4)
    body = ask(whole, sampler="rare_class", min_pixels=20)
    assert body["weights"] == ask(of(PIXELS, num_classes=4), sampler="rare_class", min_pixels=20)["weights"]
    assert body["failed"] == 1
    assert "failed_samples" in codes(body)


def test_automatic_min_pixels_is_3000_and_smaller_for_small_images_with_a_warning() -> None:
    for side, expected in ((1024, 3000), (600, 2060), (10, 1)):
        table = table_of([{0: side * side - 1, 1: 1}, {0: side * side}])
        body = ask(table, sampler="rare_class")
        assert body["spec"]["min_pixels"] == expected
        lowered = [w["message"] for w in body["warnings"] if w["code"] == "min_pixels_lowered"]
        assert [f"from {expected:,} pixel{'' if expected == 1 else 's'} on" in text for text in lowered] == (
            [] if expected == 3000 else [True]
        )
        # The spec that the answer names gives the same answer, without the notice.
        again = ask(table, **body["spec"])
        assert again["weights"] == body["weights"]
        assert "min_pixels_lowered" not in codes(again)


def test_the_softmax_leaves_out_classes_without_an_eligible_image() -> None:
    body = ask(of(PIXELS, num_classes=4), sampler="rare_class", temperature=0.3, min_pixels=30)
    q = np.array(daformer_probabilities(PIXELS, 0.3, 30))
    np.testing.assert_allclose([row["pixels"] for row in body["classes"]], 6 * (q @ PIXELS), rtol=1e-9)
    message = next(w["message"] for w in body["warnings"] if w["code"] == "classes_never_chosen")
    assert "30 pixels of 3, so" in message
    with pytest.raises(Unanswerable, match="smaller min_pixels"):
        ask(of(PIXELS, num_classes=4), sampler="rare_class", min_pixels=10_000)


def test_a_temperature_near_zero_draws_for_the_rarest_class_and_does_not_overflow() -> None:
    body = ask(of(PIXELS, num_classes=4), sampler="rare_class", temperature=1e-9, min_pixels=10)
    # Only images 0 and 5 hold class 3.
    np.testing.assert_allclose(
        [row["pixels"] for row in body["classes"]], 3 * (PIXELS[0] + PIXELS[5]), rtol=1e-9
    )


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=12),
    st.floats(0.05, 3),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_image_probabilities_match_implementations_from_the_papers(
    rows: list[list[int]], temperature: float, min_pixels: int
) -> None:
    n = np.array(rows)
    table = of(n, num_classes=3)
    if not (n >= min_pixels).any():
        with pytest.raises(Unanswerable):
            ask(table, sampler="rare_class", temperature=temperature, min_pixels=min_pixels)
        return
    q = np.array(daformer_probabilities(n, temperature, min_pixels))
    body = ask(table, sampler="rare_class", temperature=temperature, min_pixels=min_pixels)
    np.testing.assert_allclose([r["pixels"] for r in body["classes"]], len(n) * (q @ n), rtol=1e-8, atol=1e-8)
    r = np.array(lvis_repeat_factors(n, 0.7))
    body = ask(table, sampler="repeat_factor", threshold=0.7)
    expected = len(n) * (r @ n) / r.sum()
    np.testing.assert_allclose([r["pixels"] for r in body["classes"]], expected, rtol=1e-8)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_rare_class_shows_bicyclist_of_camvid_2_5_times_as_often() -> None:
    maps = [np.asarray(Image.open(file)) for file in sorted(CAMVID.glob("*.png"))]
    n = np.array([np.bincount(labels.ravel(), minlength=12) for labels in maps])
    rows = Block([f"{k:04}.png" for k in range(len(n))], np.zeros(len(n), np.uint8), [""] * len(n), n)
    configuration = Configuration(class_names=tuple(CAMVID_NAMES), ignore_index=(11,), num_classes=11)
    table = MemoryTable("camvid", configuration, np.arange(12), rows)
    files, stream = ask(table)["classes"][10], ask(table, sampler="rare_class")["classes"][10]
    assert (files["name"], round(files["weight"], 2)) == ("bicyclist", 2.61)
    assert round(stream["seen"], 1) == 2.5
    assert round(stream["weight"], 2) == 1.85
    # An actual stream of draws shows it as often.
    q = np.array(daformer_probabilities(n[:, :11], 0.01, 989))
    drawn = np.random.default_rng(0).choice(len(n), 20_000, p=q)
    share = n[drawn, 10].sum() / n[drawn, :11].sum()
    assert share == pytest.approx(stream["frequency"], rel=0.03)


def test_methods_that_need_absolute_counts_are_rejected_for_streams() -> None:
    for params in ({"method": "effective_num"}, {"method": "log_count"}, {"recipe": "ocnet"}):
        with pytest.raises(InvalidParameter, match="a stream has only shares"):
            ask(of(PIXELS), sampler="rare_class", **params)
        with pytest.raises(InvalidParameter, match="a stream has only shares"):
            mix((of(PIXELS), 0.5), (of(PIXELS), 0.5), **params)


def test_parameters_of_another_sampler_are_rejected() -> None:
    for params, name in (
        ({"temperature": 0.1}, "temperature"),
        ({"sampler": "repeat_factor", "min_pixels": 5}, "min_pixels"),
        ({"sampler": "rare_class", "threshold": 0.1}, "threshold"),
        ({"sampler": "rare_clas"}, "sampler"),
        ({"sampler": "image_weights"}, "sampler"),
        ({"sampler": "rare_class", "temperature": 0}, "temperature"),
        ({"sampler": "rare_class", "min_pixels": 0}, "min_pixels"),
        ({"sampler": "repeat_factor", "threshold": 1.5}, "threshold"),
    ):
        with pytest.raises(InvalidParameter) as rejected:
            WeightSpec.from_params(params)
        assert [parameter for parameter, _ in rejected.value.errors] == [name]


def test_a_spec_without_a_sampler_has_no_sampler_parameters() -> None:
    assert not {"sampler", "temperature", "min_pixels", "threshold"} & set(
        WeightSpec.from_params({}).to_dict()
    )
    body = ask(of(PIXELS))
    assert "stream" not in body
    assert "seen" not in body["classes"][0]
    assert WeightSpec.from_params({"sampler": "rare_class"}).to_dict() | {} == {
        **WeightSpec.from_params({}).to_dict(),
        "sampler": "rare_class",
        "temperature": 0.01,
        "min_pixels": "auto",
    }


def test_streams_are_rejected_for_totals_and_estimates() -> None:
    with pytest.raises(Unanswerable, match="totals only"):
        ask(TotalsTable({0: 10, 1: 5}), sampler="rare_class")
    with pytest.raises(Unanswerable, match="totals only"):
        mix((TotalsTable({0: 10, 1: 5}), 0.5), (of(PIXELS[:, :2]), 0.5), num_classes=2)
    with pytest.raises(Unanswerable, match="only some of the images"):
        ask(table_of([{0: 10}], sampled_from=1000), sampler="rare_class")


def test_a_dataset_in_memory_can_be_weighted_for_a_sampler() -> None:
    dataset = [(None, np.repeat(np.arange(4), row).astype(np.uint8)) for row in PIXELS.tolist() if sum(row)]
    options: dict[str, Any] = {
        "sampler": "rare_class",
        "temperature": 0.3,
        "min_pixels": 20,
        "verbose": False,
    }
    weights = calculate_class_weights(dataset, 4, **options)
    n = PIXELS[PIXELS.sum(1) > 0]
    share = (q := np.array(daformer_probabilities(n, 0.3, 20))) @ n / (q @ n).sum()
    np.testing.assert_allclose(weights, share**-0.5 / (share**-0.5).mean(), rtol=1e-6)
    with pytest.raises(Unanswerable, match="only some of the images"):
        calculate_class_weights(dataset, 4, samples=3, **options)


def test_an_empty_split_is_rejected() -> None:
    table = of(PIXELS, num_classes=4, splits={"none": _split(["x.png"])})
    for sampler in ("rare_class", "repeat_factor"):
        with pytest.raises(Unanswerable, match="matches no sample: it lists 1 path, and none"):
            ask(table, sampler=sampler, split="none")
    with pytest.raises(Unanswerable, match="matches no sample"):
        mix((table, 0.5), (named(of(PIXELS), "b"), 0.5), split="none")


def named(table: MemoryTable, name: str, version: int | None = None) -> MemoryTable:
    table.dataset, table.version = name, version
    return table


def test_a_mixture_draws_images_in_proportion_to_the_shares() -> None:
    a, b = named(of(PIXELS, num_classes=4), "a", 3), named(of(OTHER_PIXELS, num_classes=4), "b", 12)
    body = mix((a, 0.7), (b, 0.3), method="inverse_freq")
    shown = 0.7 * PIXELS.mean(0) + 0.3 * OTHER_PIXELS.mean(0)
    np.testing.assert_allclose([row["frequency"] for row in body["classes"]], shown / shown.sum(), rtol=1e-9)
    assert (body["dataset"], body["version"], body["images"]) == ("a@3:0.7,b@12:0.3", None, 8)
    assert mixtures.parse(body["dataset"]) == (
        mixtures.MixturePart("a", 3, 0.7),
        mixtures.MixturePart("b", 12, 0.3),
    )
    files = np.concatenate([PIXELS, OTHER_PIXELS]).sum(0)
    np.testing.assert_allclose(
        [row["seen"] for row in body["classes"]], shown / shown.sum() / (files / files.sum()), rtol=1e-9
    )


def test_a_sampler_draws_within_each_dataset_of_a_mixture() -> None:
    a, b = named(of(PIXELS, num_classes=4), "a"), named(of(OTHER_PIXELS, num_classes=4), "b")
    body = mix(
        (a, 0.25), (b, 0.75), sampler="rare_class", temperature=0.3, min_pixels=20, method="median_freq"
    )
    n = np.concatenate([PIXELS, OTHER_PIXELS])
    q = np.array(
        [
            *(0.25 * np.array(daformer_probabilities(PIXELS, 0.3, 20))),
            *(0.75 * np.array(daformer_probabilities(OTHER_PIXELS, 0.3, 20))),
        ]
    )
    f = (q @ n) / ((q * n.sum(1)) @ (n > 0))
    np.testing.assert_allclose(body["weights"], np.median(f) / f / (np.median(f) / f).mean(), rtol=1e-9)


def test_a_mixture_in_proportion_to_the_images_equals_all_files_together() -> None:
    a, b = named(of(PIXELS, num_classes=4), "a"), named(of(OTHER_PIXELS, num_classes=4), "b")
    together = ask(of(np.concatenate([PIXELS, OTHER_PIXELS]), num_classes=4), method="median_freq")
    body = mix((a, 6 / 8), (b, 2 / 8), method="median_freq")
    np.testing.assert_allclose(body["weights"], together["weights"], rtol=1e-9)
    assert [row["seen"] for row in body["classes"]] == pytest.approx([1.0] * 4)


def test_a_mixture_of_datasets_with_different_classes_is_rejected() -> None:
    a = named(of(PIXELS, num_classes=4, class_names=("road", "car", "person", "pole")), "a")
    cases = (
        (of(OTHER_PIXELS, num_classes=5), "a has 4 classes but b has 5"),
        (
            of(OTHER_PIXELS, num_classes=4, class_names=("road", "person", "car", "pole")),
            "class 1 is 'car' in a but 'person' in b",
        ),
        (of(OTHER_PIXELS, num_classes=4, ignore_index=(2,)), "b ignores class 2 but a counts it"),
    )
    for other, message in cases:
        with pytest.raises(Unanswerable, match=message):
            mix((a, 0.5), (named(other, "b"), 0.5))
    unnamed = named(of(OTHER_PIXELS, num_classes=4), "b")
    assert [row["name"] for row in mix((unnamed, 0.5), (a, 0.5))["classes"]] == [
        "road",
        "car",
        "person",
        "pole",
    ]
    ignoring = named(of(OTHER_PIXELS, num_classes=4, ignore_index=(2,)), "b")
    assert mix((a, 0.5), (ignoring, 0.5), ignore_index="2")["spec"]["ignore_index"] == [2]


def test_mixtures_are_parsed_with_shares_and_optional_versions() -> None:
    part = mixtures.MixturePart
    assert mixtures.parse("street") is None
    assert mixtures.parse(None) is None
    assert mixtures.parse("a:3, b:1") == (part("a", None, 0.75), part("b", None, 0.25))
    assert mixtures.parse("a@2:.5,b:5e-1") == (part("a", 2, 0.5), part("b", None, 0.5))
    assert mixtures.parse("a@paper.1:1,b@3:1") == (part("a", "paper.1", 0.5), part("b", 3, 0.5))
    for wrong in ("a:1", "a:0.5,b", "a:0.5,a:0.5", "a:0,b:1", "a:-1,b:2", "a:x,b:1", "a:nan,b:1",
                  "a@-x:1,b:1", "a@0:1,b:1", ":1,b:1", "a:1,,b:1", "a:inf,b:1", "a:1e999,b:1"):  # fmt: skip
        with pytest.raises(InvalidParameter) as rejected:
            mixtures.parse(wrong)
        assert rejected.value.errors[0][0] == "dataset", wrong


def test_a_cached_table_reads_its_rows_once_for_a_sampler() -> None:
    table = of(PIXELS, num_classes=4)
    reads = []

    class Stored(MemoryTable):
        def blocks(self) -> Any:
            reads.append(1)
            return super().blocks()

    stored = Stored("demo", table.configuration, table.raw_ids(), table.rows)
    remembered = CachedTable(stored)  # type: ignore[arg-type]
    first = ask(remembered, sampler="rare_class", min_pixels=20)
    assert len(reads) == 2  # eligible images, then what they show
    ask(remembered, sampler="rare_class", min_pixels=20, method="median_freq")
    assert len(reads) == 2
    assert ask(remembered, sampler="rare_class", min_pixels=10)["weights"] != first["weights"]


def test_a_run_with_a_mixture_resumes_from_its_pinned_weights() -> None:
    record = mix(
        (named(of(PIXELS), "a", 3), 0.7), (named(of(OTHER_PIXELS), "b", 12), 0.3), sampler="rare_class"
    )
    client = Client("http://127.0.0.1:1")  # no server: a record needs none
    again = client.weights("a:7,b:3", sampler="rare_class", min_pixels="auto", pinned=record)
    assert again.to_list() == record["weights"]
    for other in ("a:1,b:1", "a@4:7,b:3", "b:7,a:3"):
        with pytest.raises(InvalidParameter, match="dataset"):
            client.weights(other, sampler="rare_class", pinned=record)
