"""Splits defined by folders, lists, names, globs and folds, in the library and on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from wcmatch import glob as wc

import statsvc as library
from statsvc.dataset import split_files, splits
from statsvc.dataset.class_counts import interpret
from statsvc.dataset.splits import Split
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc_workers.formats import FORMATS
from statsvc_workers.samples import kinds
from support.commands import scan_json, statsvc
from support.damage import npy, write_label
from support.small_tables import table_of

if TYPE_CHECKING:
    from pathlib import Path

PATHS = ["a.png", "b/a.png", "b/c/x_val.png", "b/c/y.nii.gz", "train/0001.tar/7.seg.png", "aachen/v1.png"]


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "b/*", "b/**", "**/c/*", "*_val.*", "?.png", "b/**/*.png", "[ab].png", "aachen/*", "**/[!a]*"],
)
def test_a_glob_matches_the_same_paths_as_a_source_pattern(pattern: str) -> None:
    split = Split.from_dict("s", {"glob": pattern})
    for path in PATHS:
        text = path if "/" in pattern else path.rpartition("/")[2]
        assert split.contains(path) == wc.globmatch(text, pattern, flags=wc.GLOBSTAR | wc.FORCEUNIX), path


def test_an_entry_without_extension_matches_that_name_in_any_folder() -> None:
    split = Split.listed("s", ["y", "b/a", "a.png"])
    assert [path for path in PATHS if split.contains(path)] == ["a.png", "b/a.png", "b/c/y.nii.gz"]


@pytest.mark.parametrize(
    "value",
    [
        {"folder": "train"},
        {"glob": "*_val.png"},
        {"paths": ["a.png"]},
        {"names": ["a"]},
        {"paths": ["a.png"], "names": ["b"]},
    ],
)
def test_a_split_survives_a_round_trip_through_json(value: Any) -> None:
    split = Split.from_dict("s", json.loads(json.dumps(value)))
    assert split.to_dict() == value
    assert Split.from_dict("s", split.to_dict()) == split


@pytest.mark.parametrize(
    "value", [{"glob": ""}, {"glob": 3}, {"names": []}, {"names": "a"}, {"names": [1]}, {"x": []}]
)
def test_an_error_in_a_split_names_the_split(value: Any) -> None:
    with pytest.raises(InvalidParameter, match="mine"):
        splits.from_dict({"mine": value})


def write_cases(folder: Path) -> dict[str, int]:
    """Write five label maps and return their pixels of class 1."""
    pixels = {}
    for k in range(5):
        array = np.zeros((4, 5), np.uint8)
        array.ravel()[: k + 1] = 1
        (folder / f"case_{k}.npy").write_bytes(npy(array))
        pixels[f"case_{k}"] = k + 1
    return pixels


def write_nnunet_folds(file: Path) -> list[dict[str, list[str]]]:
    names = [f"case_{k}" for k in range(5)]
    folds = [{"train": [n for n in names if n != out], "val": [out]} for out in names]
    file.write_text(json.dumps(folds))
    return folds


def test_nnunet_folds_are_splits_by_case_name(tmp_path: Path) -> None:
    labels = tmp_path / "labelsTr"
    labels.mkdir()
    pixels = write_cases(labels)
    folds = write_nnunet_folds(tmp_path / "splits_final.json")
    table = library.scan(labels, splits=tmp_path / "splits_final.json")
    for number, fold in enumerate(folds):
        for part, names in fold.items():
            answer = table.weights(split=f"fold{number}_{part}").to_dict()
            assert answer["classes"][1]["pixels"] == sum(pixels[name] for name in names)


def test_lists_globs_and_folds_on_the_command_line(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    pixels = write_cases(labels)
    write_nnunet_folds(tmp_path / "f.json")
    (tmp_path / "list.txt").write_text("case_1\ncase_2.npy\n\n")
    options = [
        "--split",
        f"some={tmp_path / 'list.txt'}",
        "--split",
        "odd=case_[13].*",
        "--split",
        str(tmp_path / "f.json"),
    ]
    scan_json(labels, "--name", "n", *options)
    for split, names in {"some": [1, 2], "odd": [1, 3], "fold2_val": [2]}.items():
        answer = json.loads(statsvc("weights", "n", "--split", split, "--format", "json").stdout)
        assert answer["classes"][1]["pixels"] == sum(pixels[f"case_{k}"] for k in names)


def test_a_list_entry_without_a_sample_causes_a_warning(tmp_path: Path) -> None:
    write_label(tmp_path / "labels/a.png", np.zeros((2, 2)))
    (tmp_path / "list.txt").write_text("a\nb\n")
    result = statsvc("scan", tmp_path / "labels", "--name", "n", "--split", f"s={tmp_path / 'list.txt'}")
    assert "split s: 1 of 2 paths is not in the dataset, for instance b" in result.stderr


@pytest.mark.parametrize("text", ["[]", "{", '[{"train": "a"}]', "3", "[1]", '[{"train": []}]'])
def test_an_error_in_a_folds_file_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InvalidParameter, match=r"f.json|train"):
        split_files.read_option(str(tmp_path / "f.json"))


def test_a_split_option_that_is_neither_a_file_nor_a_glob_is_rejected() -> None:
    for text in ("a=nowhere.txt", "=x", "plain"):
        with pytest.raises(InvalidParameter, match="split"):
            split_files.read_option(text)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (Split(folder="val"), "no file is in a folder of that name"),
        (Split(glob="val/*"), r"check the glob 'val/\*'"),
        (Split(names=frozenset({"b", "c"})), "it lists 2 paths, and none is in the dataset, for instance b"),
        (
            Split(paths=frozenset({"b.png"})),
            "it lists 1 path, and none is in the dataset, for instance b.png",
        ),
    ],
)
def test_a_split_without_samples_is_rejected_with_the_reason(split: Split, reason: str) -> None:
    table = table_of([{0: 1}], ["train/a.png"], splits={"s": split})
    with pytest.raises(Unanswerable, match=reason):
        interpret(table, split="s")


def test_the_extensions_of_split_entries_are_those_of_the_file_formats() -> None:
    lossy, folders = {".jpg", ".jpeg"}, {".zarr", ".ome.zarr"}
    assert set(splits.EXTENSIONS) == {*FORMATS, *kinds.DETECTED, *lossy, *folders}
    assert len(splits.EXTENSIONS) == len(set(splits.EXTENSIONS))
    for number, extension in enumerate(splits.EXTENSIONS):
        assert not any(later.endswith(extension) for later in splits.EXTENSIONS[number + 1 :]), extension
