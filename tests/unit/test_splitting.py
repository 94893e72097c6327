"""Stratified divisions and subsets: balance, groups, bounds, determinism and output files."""

from __future__ import annotations

import csv
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.dataset import split_files
from statsvc.dataset.groups import Grouping
from statsvc.errors import InvalidParameter, NotFound, Unanswerable
from statsvc.splitting import units
from statsvc.splitting.bounds import smallest_deviation
from statsvc.splitting.divide import divide_dataset
from statsvc.splitting.request import DivisionRequest, SubsetRequest
from statsvc.splitting.subset import choose_subset
from support.small_tables import table_of

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.dataset.memory_table import MemoryTable
    from statsvc.splitting.result import SplitResult

IMAGE = 100_000
"""Pixels of each image of `scenes`."""


def scenes(images: int = 200, scenes_of: int = 5, **configuration: Any) -> MemoryTable:
    """Return images with six classes of very different sizes, in scenes of consecutive images."""
    rng = np.random.default_rng(7)
    shares = np.array([0.6, 0.3, 0.08, 0.013, 0.005, 0.002])
    rows, paths = [], []
    for image in range(images):
        present = np.array([True, True, *(rng.random(4) < (0.9, 0.5, 0.3, 0.2))])
        counts = rng.multinomial(IMAGE, rng.dirichlet(1000 * shares * present + 1e-9))
        rows.append({c: int(n) for c, n in enumerate(counts) if n})
        paths.append(f"scene{image // scenes_of:03}_{image:04}.png")
    return table_of(rows, paths, num_classes=6, **configuration)


def divide(table: MemoryTable, **params: Any) -> SplitResult:
    return divide_dataset(table, DivisionRequest.from_params(**params))


def deviations(table: MemoryTable, result: SplitResult) -> Any:
    """Return (pixels of a class in a part) / (wanted number) - 1, from the paths: [parts, classes]."""
    row_of = {path: row for row, path in enumerate(table.rows.path)}
    counts = table.rows.counts
    total = np.array(
        [counts[[row_of[path] for path in paths]].sum(axis=0) for paths in result.parts.values()]
    )
    shares = np.array([part["share"] for part in result.report["parts"]])
    return total / counts.sum(axis=0) / shares[:, None] - 1


def test_folds_represent_every_class_far_better_than_random_ones() -> None:
    table = scenes()
    result = divide(table, folds=5)
    assert sorted(path for paths in result.parts.values() for path in paths) == list(table.rows.path)
    assert [len(paths) for paths in result.parts.values()] == [40] * 5
    worst = np.abs(deviations(table, result)).max()
    assert worst < 0.03
    assert result.report["random"]["deviation"] > 0.3
    assert abs(result.report["worst"]["deviation"]) == pytest.approx(worst)
    by_class = [entry["deviation"] for entry in result.report["classes"]]
    assert by_class == pytest.approx(np.abs(deviations(table, result)).max(axis=0))
    # Presence: each fold has its share of the images with a class, within one image or two.
    for c in range(6):
        present = {path for path, row in zip(table.rows.path, table.rows.counts, strict=True) if row[c]}
        in_fold = [len(present & set(paths)) for paths in result.parts.values()]
        assert max(in_fold) - min(in_fold) <= 2


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ("train=0.8,val=0.1,test=0.1", [161, 20, 20]),
        ({"train": 0.7, "val": 0.3}, [141, 60]),
    ],
)
def test_parts_have_their_share_of_the_images_within_one(parts: Any, sizes: list[int]) -> None:
    table = scenes(images=201)
    result = divide(table, parts=parts)
    assert [len(paths) for paths in result.parts.values()] == pytest.approx(sizes, abs=1)
    assert np.abs(deviations(table, result)).max() < 0.1


def test_groups_are_never_divided_and_sizes_differ_by_less_than_a_group() -> None:
    table = scenes()
    result = divide(table, folds=4, grouping=Grouping(pattern=r"^(scene\d+)_"))
    groups = [{path.partition("_")[0] for path in paths} for paths in result.parts.values()]
    assert sum(map(len, groups)) == 40
    assert len(set().union(*groups)) == 40
    assert all(abs(len(paths) - 50) < 5 for paths in result.parts.values())
    assert result.report["groups"]["count"] == 40
    assert result.report["groups"]["largest"]["images"] == 5
    assert np.abs(deviations(table, result)).max() < 0.2


def test_the_same_seed_gives_the_same_division() -> None:
    first, again, other = (divide(scenes(60), folds=3, seed=seed).parts for seed in (4, 4, 5))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(5))
def test_no_division_is_better_than_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [{0: 1000, 1: int(size)} for size in rng.lognormal(0, 1.5, 8) * 100]
    table = table_of(rows)
    share = np.array([0.5, 0.3, 0.2])
    pixels = table.rows.counts / table.rows.counts.sum(axis=0)
    best = min(
        max(abs(pixels[np.array(parts) == j, 1].sum() / share[j] - 1) for j in range(3))
        for parts in itertools.product(range(3), repeat=8)
        if len(set(parts)) == 3
    )
    assert smallest_deviation(pixels[:, 1], 8, share) <= best + 1e-12
    assert smallest_deviation(np.full(4, 0.25), 4, np.full(3, 1 / 3)) == pytest.approx(0.5)


def test_few_groups_are_compared_exhaustively() -> None:
    table = scenes(30, scenes_of=5)
    result = divide(table, folds=3, grouping=Grouping(pattern=r"^(scene\d+)_"))
    group = np.arange(30) // 5
    pixels = np.array([table.rows.counts[group == g].sum(axis=0) for g in range(6)])
    best = min(
        np.abs(
            np.array([pixels[np.array(p) == j].sum(axis=0) for j in range(3)]) / pixels.sum(axis=0) * 3 - 1
        ).max()
        for p in itertools.product(range(3), repeat=6)
        if len(set(p)) == 3
    )
    assert result.report["bound"] == {"deviation": pytest.approx(best, rel=1e-4), "exact": True}


def test_the_report_says_what_is_impossible() -> None:
    rows = [{0: 100, 1: 10} for _ in range(20)]
    rows[3][2], rows[8][2] = 50, 50
    rows[5][1] = 500
    report = divide(table_of(rows), folds=4).report
    assert [(entry["code"], entry["class"]) for entry in report["impossible"]] == [
        ("too_large", 1),
        ("too_few", 2),
    ]
    assert "occurs in 2 images, fewer than the 4 parts" in report["impossible"][1]["message"]
    assert report["bound"]["deviation"] >= 1
    with pytest.raises(Unanswerable, match="3 groups cannot fill 5 parts"):
        divide(scenes(15), folds=5, grouping=Grouping(pattern=r"^(scene\d+)"))


def test_ignored_ids_and_unreadable_samples_take_no_part() -> None:
    table = table_of(
        [{0: 10, 1: 5, 255: 1000 * (k % 2)} for k in range(12)], failed={"z.png": "broken"}, num_classes=2
    )
    result = divide(table, folds=3)
    assert "z.png" not in {path for paths in result.parts.values() for path in paths}
    assert result.report["failed"] == 1
    assert [entry["id"] for entry in result.report["classes"]] == [0, 1]
    assert result.report["worst"]["deviation"] == 0


def test_images_beyond_the_largest_number_of_units_are_balanced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statsvc.splitting.stratify.MAX_UNITS", 100)
    table = scenes(1000)
    result = divide(table, folds=5)
    assert [len(paths) for paths in result.parts.values()] == [200] * 5
    assert np.abs(deviations(table, result)).max() < 0.1
    assert result.report["random"]["deviation"] > 0.15
    by_class = [entry["deviation"] for entry in result.report["classes"]]
    assert by_class == pytest.approx(np.abs(deviations(table, result)).max(axis=0))
    grouped = divide(table, folds=5, grouping=Grouping(pattern=r"^(scene\d+)_"))
    groups = [{path.partition("_")[0] for path in paths} for paths in grouped.parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 200


def test_a_balancer_keeps_the_sizes() -> None:
    share = np.array([0.7, 0.2, 0.1])
    balancer = units.Balancer(np.array([1000]), share, np.random.default_rng(0))
    parts = np.concatenate([balancer.assign(np.ones((7, 1), np.int64)) for _ in range(100)])
    assert np.bincount(parts, minlength=3) == pytest.approx(700 * share, abs=25)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "either a number of folds"),
        ({"folds": 1}, "from 2 to 100"),
        ({"folds": True}, "from 2 to 100"),
        ({"folds": 3, "parts": "a=0.5,b=0.5"}, "either a number of folds"),
        ({"parts": "a=0.5,b=0.4"}, "add up to 0.9"),
        ({"parts": "a=0.5,a=0.5"}, "more than once"),
        ({"parts": "a=x"}, "wrong form"),
        ({"parts": {"a/b": 0.5, "c": 0.5}}, "not a valid name"),
        ({"parts": {"a": 1.0}}, "2 to 100 parts"),
        ({"parts": {"a": float("nan"), "b": 0.5}}, "between 0 and 1"),
        ({"folds": 2, "seed": -1}, "seed"),
        ({"folds": 2, "beta": 0.9}, "unknown parameter"),
    ],
)
def test_a_malformed_request_is_rejected(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        DivisionRequest.from_params(**params)


def test_folds_are_written_as_nnunet_reads_them(tmp_path: Path) -> None:
    result = divide(scenes(20), folds=4)
    (file,) = result.write(tmp_path / "splits_final.json")
    folds = json.loads(file.read_text())
    assert [set(fold) for fold in folds] == [{"train", "val"}] * 4
    cases = {path.removesuffix(".png") for path in scenes(20).rows.path}
    for fold in folds:
        assert set(fold["train"]) | set(fold["val"]) == cases
        assert not set(fold["train"]) & set(fold["val"])
    read = split_files.folds(file)
    for name, split in result.configured().items():
        assert {p for p in scenes(20).rows.path if read[name].contains(p)} == split.paths


def test_parts_are_written_as_lists_and_csv(tmp_path: Path) -> None:
    result = divide(scenes(20), parts="train=0.8,val=0.2")
    files = result.write(tmp_path / "lists")
    assert [file.name for file in files] == ["train.txt", "val.txt"]
    assert files[1].read_text().split() == list(result.parts["val"])
    (file,) = result.write(tmp_path / "parts.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert {row["path"]: row["part"] for row in rows} == {
        path: name for name, paths in result.parts.items() for path in paths
    }
    with pytest.raises(InvalidParameter, match="unknown"):
        result.write(tmp_path / "parts.parquet")


def test_json_has_paths_where_names_are_not_unique() -> None:
    table = table_of([{0: 1}, {0: 1}], ["a/x.png", "b/x.png"])
    assert sorted(json.loads(divide(table, folds=2).to_json())[0]["train"]) in (["a/x.png"], ["b/x.png"])


def subset_shares(table: MemoryTable, result: SplitResult) -> Any:
    rows = [list(table.rows.path).index(path) for path in result.parts["subset"]]
    pixels = table.rows.counts[rows].sum(axis=0)
    return pixels / pixels.sum()


def test_a_natural_subset_has_the_shares_of_the_dataset() -> None:
    table = scenes()
    result = choose_subset(table, SubsetRequest.from_params(images=50))
    shares = subset_shares(table, result)
    natural = table.totals().pixels / table.totals().pixels.sum()
    assert len(result.parts["subset"]) == 50
    assert np.abs(shares / natural - 1).max() < 0.03
    assert [entry["share"] for entry in result.report["classes"]] == pytest.approx(shares)


def test_a_subset_with_a_wanted_share_of_a_class() -> None:
    table = scenes(class_names=tuple("abcdef"))
    result = choose_subset(table, SubsetRequest.from_params(images=40, target="d=0.011"))
    shares = subset_shares(table, result)
    assert shares[3] == pytest.approx(0.011, rel=0.05)
    natural = table.totals().pixels / table.totals().pixels.sum()
    assert shares[0] == pytest.approx(0.989 * natural[0] / (1 - natural[3]), rel=0.05)
    with pytest.raises(InvalidParameter, match="no class 'x'"):
        choose_subset(table, SubsetRequest.from_params(images=40, target="x=0.03"))
    with pytest.raises(Unanswerable, match="only 200 images"):
        choose_subset(table, SubsetRequest.from_params(images=201))


def test_a_uniform_subset_has_more_of_the_rare_classes_than_any_random_one() -> None:
    table = scenes()
    result = choose_subset(table, SubsetRequest.from_params(images=20, target="uniform"))
    reached = np.abs(subset_shares(table, result) - 1 / 6).sum()
    rng = np.random.default_rng(0)
    for _ in range(200):
        pixels = table.rows.counts[rng.permutation(200)[:20]].sum(axis=0)
        assert reached < np.abs(pixels / pixels.sum() - 1 / 6).sum()


@pytest.mark.parametrize("target", ["even", "a=2", {"a": -1.0}, "a=0.6,b=0.6", {}])
def test_a_malformed_target_is_rejected(target: Any) -> None:
    with pytest.raises(InvalidParameter, match="target"):
        SubsetRequest.from_params(images=5, target=target)


def test_an_unknown_split_is_reported() -> None:
    with pytest.raises(NotFound, match="no split"):
        divide(scenes(20), folds=2, split="training")


def test_numpy_scalars_are_the_same_arguments_as_numbers() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [
        (DivisionRequest, {"folds": 3, "seed": 2}),
        (DivisionRequest, {"parts": {"a": 0.5, "b": 0.5}}),
        (SubsetRequest, {"images": 9, "target": {"1": 0.25}, "seed": 2}),
    ]
    for request, numbers in cases:
        scalars = {
            name: {key: np.float32(share) for key, share in value.items()}
            if isinstance(value, dict)
            else np.asarray(value)[()]
            for name, value in numbers.items()
        }
        assert request.from_params(**scalars) == request.from_params(**numbers)
