"""Splits from folders, lists, names, globs and folds, in the library, on the command line and over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from wcmatch import glob as wc

import statsvc as library
from statsvc.dataset import split_files, splits
from statsvc.dataset.splits import Split
from statsvc.errors import InvalidParameter
from support.commands import scanned, statsvc
from support.damage import npy, write_label

if TYPE_CHECKING:
    from pathlib import Path

PATHS = ["a.png", "b/a.png", "b/c/x_val.png", "b/c/y.nii.gz", "train/0001.tar/7.seg.png", "aachen/v1.png"]


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "b/*", "b/**", "**/c/*", "*_val.*", "?.png", "b/**/*.png", "[ab].png", "aachen/*", "**/[!a]*"],
)
def test_a_glob_means_what_it_means_in_pattern(pattern):
    split = Split.from_dict("s", {"glob": pattern})
    for path in PATHS:
        text = path if "/" in pattern else path.rpartition("/")[2]
        assert split.contains(path) == wc.globmatch(text, pattern, flags=wc.GLOBSTAR | wc.FORCEUNIX), path


def test_an_entry_without_an_extension_is_a_name_in_any_folder():
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
def test_every_form_reads_back_from_json(value):
    split = Split.from_dict("s", json.loads(json.dumps(value)))
    assert split.to_dict() == value
    assert Split.from_dict("s", split.to_dict()) == split


@pytest.mark.parametrize(
    "value", [{"glob": ""}, {"glob": 3}, {"names": []}, {"names": "a"}, {"names": [1]}, {"x": []}]
)
def test_a_malformed_split_is_refused_by_its_name(value):
    with pytest.raises(InvalidParameter, match="mine"):
        splits.from_dict({"mine": value})


def cases(folder: Path) -> dict[str, int]:
    """Write five cases; return the pixels of class 1 of each."""
    pixels = {}
    for k in range(5):
        array = np.zeros((4, 5), np.uint8)
        array.ravel()[: k + 1] = 1
        (folder / f"case_{k}.npy").write_bytes(npy(array))
        pixels[f"case_{k}"] = k + 1
    return pixels


def folds_of_nnunet(file: Path) -> list[dict[str, list[str]]]:
    names = [f"case_{k}" for k in range(5)]
    folds = [{"train": [n for n in names if n != out], "val": [out]} for out in names]
    file.write_text(json.dumps(folds))
    return folds


def test_folds_of_nnunet_are_splits_by_case_name(tmp_path):
    labels = tmp_path / "labelsTr"
    labels.mkdir()
    pixels = cases(labels)
    folds = folds_of_nnunet(tmp_path / "splits_final.json")
    table = library.scan(labels, splits=tmp_path / "splits_final.json")
    for number, fold in enumerate(folds):
        for part, names in fold.items():
            answer = table.weights(split=f"fold{number}_{part}").to_dict()
            assert answer["classes"][1]["pixels"] == sum(pixels[name] for name in names)


def test_lists_globs_and_folds_on_the_command_line(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    pixels = cases(labels)
    folds_of_nnunet(tmp_path / "f.json")
    (tmp_path / "list.txt").write_text("case_1\ncase_2.npy\n\n")
    options = [
        "--split",
        f"some={tmp_path / 'list.txt'}",
        "--split",
        "odd=case_[13].*",
        "--split",
        str(tmp_path / "f.json"),
    ]
    scanned(labels, "--name", "n", *options)
    for split, names in {"some": [1, 2], "odd": [1, 3], "fold2_val": [2]}.items():
        answer = json.loads(statsvc("weights", "n", "--split", split, "--format", "json").stdout)
        assert answer["classes"][1]["pixels"] == sum(pixels[f"case_{k}"] for k in names)


def test_names_that_are_no_samples_are_told(tmp_path):
    write_label(tmp_path / "labels/a.png", np.zeros((2, 2)))
    (tmp_path / "list.txt").write_text("a\nb\n")
    done = statsvc("scan", tmp_path / "labels", "--name", "n", "--split", f"s={tmp_path / 'list.txt'}")
    assert "split s: 1 of 2 paths are not in the dataset, for instance b" in done.stderr


@pytest.mark.parametrize("text", ["[]", "{", '[{"train": "a"}]', "3", "[1]", '[{"train": []}]'])
def test_malformed_folds_are_refused_by_their_file(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InvalidParameter, match=r"f.json|train"):
        split_files.read_option(str(tmp_path / "f.json"))


def test_a_split_that_is_neither_a_file_nor_a_glob_is_refused():
    for text in ("a=nowhere.txt", "=x", "plain"):
        with pytest.raises(InvalidParameter, match="split"):
            split_files.read_option(text)
