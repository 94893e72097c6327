"""`statsvc split` and `statsvc subset`: registered splits, files, and group rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.command_line import invoke
from support.commands import scan_json

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(street: Path, tmp_path: Path) -> Path:
    scan_json(street, "--name", "street", "--home", tmp_path / "home")
    return tmp_path / "home"


def test_registered_folds_are_splits_of_the_weights(home: Path) -> None:
    done = invoke("split", "--folds", "3", "--json", "--home", home)
    assert "6 splits registered in version 2 of street" in done.stderr
    report = json.loads(done.stdout)
    pixels = []
    for part in report["parts"]:
        answer = json.loads(
            invoke("weights", "--split", f"{part['name']}_val", "--json", "--home", home).stdout
        )
        assert answer["images"] == part["images"] == 8
        pixels.append([row["pixels"] for row in answer["classes"]])
        rest = json.loads(
            invoke("weights", "--split", f"{part['name']}_train", "--json", "--home", home).stdout
        )
        assert rest["images"] == 16
    for c, row in enumerate(report["classes"]):
        assert sum(counts[row["id"]] for counts in pixels) == row["pixels"]
        assert [counts[row["id"]] / row["pixels"] for counts in pixels] == pytest.approx(row["shares"]), c

    # The same division again changes nothing; another one needs --replace, which removes folds beyond it.
    assert "version 2" in invoke("split", "--folds", "3", "--home", home).stderr
    assert "--replace" in invoke("split", "--folds", "2", "--home", home, code=1).stderr
    invoke("split", "--folds", "2", "--replace", "--home", home)
    configuration = json.loads(invoke("datasets", "street", "--json", "--home", home).stdout)["configuration"]
    assert sorted(configuration["splits"]) == [
        "fold0_train",
        "fold0_val",
        "fold1_train",
        "fold1_val",
        "train",
        "val",
    ]


def test_only_the_samples_of_a_split_are_divided_and_files_register_nothing(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "splits_final.json"
    invoke("split", "--folds", "4", "--split", "train", "-o", file, "--home", home)
    folds = json.loads(file.read_text())
    cases = {name for fold in folds for name in fold["val"]}
    assert len(folds) == 4
    assert cases
    assert all(set(fold["train"]) | set(fold["val"]) == cases for fold in folds)
    done = invoke("split", "--parts", "a=0.5,b=0.5", "--dry-run", "--home", home)
    assert "Worst class" in done.stderr
    assert [
        row["version"] for row in json.loads(invoke("versions", "street", "--json", "--home", home).stdout)
    ] == [1]


def test_a_group_rule_of_the_dataset_keeps_groups_together(home: Path) -> None:
    rule = r"tens=_0*(\d*)\d\.png"
    invoke("scan", "--name", "street", "--group", rule, "--home", home)
    report = json.loads(invoke("split", "--folds", "2", "--group", "tens", "--json", "--home", home).stdout)
    assert report["groups"]["rule"] == rule.partition("=")[2]
    assert "--group tens" in invoke("split", "--folds", "2", "--dry-run", "--home", home).stderr
    configuration = json.loads(invoke("datasets", "street", "--json", "--home", home).stdout)["configuration"]
    assert configuration["groups"] == {"tens": {"pattern": rule.partition("=")[2]}}
    stderr = invoke("split", "--folds", "2", "--group", "tenz", "--home", home, code=2).stderr
    assert "did you mean 'tens'?" in stderr
    assert (
        "invalid perl operator"
        in invoke("split", "--folds", "2", "--group", "(?=a)", "--home", home, code=2).stderr
    )


def test_a_subset_is_printed_written_or_registered(home: Path, tmp_path: Path) -> None:
    lines = invoke("subset", "--images", "5", "--target", "uniform", "--home", home).stdout.split()
    assert len(set(lines)) == 5
    result = json.loads(
        invoke(
            "subset", "--images", "5", "--target", "uniform", "--register", "few", "--json", "--home", home
        ).stdout
    )
    assert result["paths"] == lines
    answer = json.loads(invoke("weights", "--split", "few", "--json", "--home", home).stdout)
    assert answer["images"] == 5
    invoke("subset", "--images", "5", "-o", tmp_path / "few.csv", "--home", home)
    assert len((tmp_path / "few.csv").read_text().splitlines()) == 6
