"""`statsvc weights`: files, class maps and usage errors."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from support.command_line import invoke
from support.commands import scan_json

if TYPE_CHECKING:
    from pathlib import Path


def test_weights_are_written_as_npy_csv_and_json(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    expected = scan_json(street, *home)["weights"]["weights"]
    for suffix in ("npy", "csv", "json"):
        invoke("weights", "-o", tmp_path / f"w.{suffix}", *home)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), expected)
    assert json.loads((tmp_path / "w.json").read_text())["weights"] == expected
    with (tmp_path / "w.csv").open() as file:
        assert [float(row["weight"]) for row in csv.DictReader(file)] == expected
    assert "npy" in invoke("weights", "-o", tmp_path / "w.txt", *home, code=2).stderr


def test_a_class_map_file_applies_to_one_request_only(street_home: tuple[Path, Path], tmp_path: Path) -> None:
    _, home = street_home
    (tmp_path / "two.csv").write_text("id,train_id,name\n0,0,sky\n1,1,rest\n2,1,rest\n3,1,rest\n")
    raw = json.loads(invoke("weights", "street", "--home", home).stdout)
    merged = json.loads(
        invoke("weights", "street", "--class-map", tmp_path / "two.csv", "--home", home).stdout
    )
    pixels = [row["pixels"] for row in raw["classes"]]
    assert [row["pixels"] for row in merged["classes"]] == [pixels[0], sum(pixels[1:4])]
    assert [row["name"] for row in merged["classes"]] == ["sky", "rest"]
    assert json.loads(invoke("weights", "street", "--home", home).stdout) == raw
    options = ("--class-map", tmp_path / "two.csv", "--url", "http://127.0.0.1:9")
    assert "omit --url" in invoke("weights", "street", *options, code=2).stderr


def test_weights_of_a_dataset_whose_scans_fail_say_how_old_the_counts_are(
    street: Path, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home")
    labels = shutil.copytree(street, tmp_path / "labels")
    scan_json(labels, "--name", "street", *home)
    fresh = invoke("weights", "street", *home)
    assert "old" not in fresh.stderr
    shutil.rmtree(labels)
    for count in ("scan", "2 scans"):
        invoke("scan", "--name", "street", *home, code=1)
        stale = invoke("weights", "street", *home)
        assert stale.stdout == fresh.stdout
        assert f"because the last {count} failed; see: statsvc jobs --dataset street" in stale.stderr


def test_an_empty_option_value_is_rejected_by_name(street_home: tuple[Path, Path]) -> None:
    home = ("--home", street_home[1])
    for option in ("--split", "--multiply", "--method"):
        result = invoke("weights", "street", f"{option}=", "--format", "csv", *home, code=2)
        assert result.stdout == ""
        assert f"{option}: " in result.stderr
        assert "empty" in result.stderr
    assert "class map ''" in invoke("weights", "street", "--class-map=", *home, code=2).stderr


def test_usage_errors_suggest_the_nearest_name_and_exit_with_2(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    assert "weights" in invoke("wieghts", code=2).stderr
    assert "--method" in invoke("weights", "--metod", "enet", code=2).stderr
    assert "dataset" in invoke("weights", *home, code=1).stderr
    scan_json(street, "--name", "street", *home)
    assert "street" in invoke("weights", "stret", *home, code=2).stderr
    assert "sqrt_inv_freq" in invoke("weights", "--method", "sqrt_inv", *home, code=2).stderr
    assert "alpha" in invoke("weights", "--alpha", "2", *home, code=2).stderr
    other = tmp_path / "other"
    other.mkdir()
    assert str(street) in invoke("scan", other, "--name", "street", *home, code=1).stderr
