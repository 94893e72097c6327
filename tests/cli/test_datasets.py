"""Datasets on the command line: registration, configuration, versions and deletion."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import xarray

from statsvc.local.demo import make_demo
from support.command_line import invoke
from support.commands import scan_json, statsvc
from support.label_maps import gray_png
from support.label_trees import write

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dataset_whose_first_scan_failed_is_not_the_default(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    home = street_home[1]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(gray_png(1, (4, 4))[:40])
    invoke("scan", tmp_path / "broken", "--name", "broken", "--home", home, code=1)
    assert json.loads(invoke("weights", "--home", home).stdout)["dataset"] == "street"
    for arguments in (("weights", "broken"), ("weights", "broken", "--version", "9")):
        stderr = invoke(*arguments, "--home", home, code=2).stderr
        assert "failed" in stderr
        assert "a.png" in stderr
        assert "None" not in stderr
    listing = invoke("jobs", "--home", home).stdout.splitlines()
    assert any("a.png" in line and not line.startswith(" ") for line in listing)
    assert len([line for line in listing if "broken" in line and "failed" in line]) == 1


def test_options_that_do_not_fit_the_dataset_are_reported(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _ = street_home
    home = ("--home", tmp_path / "home")
    missing = invoke("scan", labels, "--class-names", "missing.txt", *home, code=2)
    assert "missing.txt" in missing.stderr
    missing = invoke("scan", labels, "--split", "fold0=missing.txt", *home, code=2)
    assert "missing.txt" in missing.stderr
    assert "''" in invoke("scan", labels, "--name", "", *home, code=2).stderr

    names = tmp_path / "names.json"
    for text, reason in (
        ('["sky", "road"', "line 1: invalid JSON"),
        ("[1, 2]", "expected the name of a class"),
    ):
        names.write_text(text)
        stderr = invoke("scan", labels, "--class-names", names, *home, code=2).stderr
        assert f"--class-names: {names}" in stderr
        assert reason in stderr

    (tmp_path / "fold.txt").write_text("train/missing.png\ntrain/frame_000001.png\n")
    stderr = invoke(
        "scan", labels, "--class-names", "sky,road", "--split", f"fold0={tmp_path / 'fold.txt'}", *home
    ).stderr
    assert "2 class names for" in stderr
    assert "1 of 2 paths is not in the dataset, for instance train/missing.png" in stderr


def test_a_dataset_is_identified_by_its_folder_and_pattern(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _ = street_home
    home = ("--home", tmp_path / "home")
    scan_json(labels, "--name", "all", *home)
    scan_json(labels, "--name", "train", "--pattern", "train/**", *home)
    scan_json(labels, "--name", "copy", *home)
    listed = json.loads(invoke("datasets", "--json", *home).stdout)
    images = {row["dataset"]: row["images"] for row in listed}
    assert images["all"] == images["copy"] == 24
    assert 0 < images["train"] < 24

    several = invoke("scan", labels, *home, code=2).stderr
    assert "Add --name with one of: all, copy" in several
    assert scan_json(labels, "--pattern", "train/**", *home)["weights"]["dataset"] == "train"
    for other in ((tmp_path,), (labels, "--pattern", "val/**")):
        message = invoke("scan", *other, "--name", "train", *home, code=1).stderr
        assert "choose another name with --name" in message.lower()


def test_another_rule_is_refused_with_the_commands_that_help(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _ = street_home
    home = ("--home", tmp_path / "home", "--name", "s")
    scan_json(labels, *home)
    message = invoke("scan", labels, "--rule", "id // 1000", *home, code=1).stderr
    assert "--name s-2, or delete this dataset first: statsvc datasets s --delete" in message
    scan_json(labels, "--rule", "id // 1000", "--home", tmp_path / "home", "--name", "s-2")


def test_a_dataset_whose_first_scan_failed_takes_another_rule(tmp_path: Path) -> None:
    colors = tmp_path / "masks"
    for seed in range(2):
        write(colors / f"{seed}.png", "colors", seed)
    (tmp_path / "colors.csv").write_text("r,g,b,id,name\n0,0,0,0,void\n128,0,0,1,car\n0,128,0,2,road\n")
    home = ("--home", tmp_path / "home", "--name", "c")
    assert "is color-coded" in invoke("scan", colors, *home, code=1).stderr
    scanned = scan_json(colors, "--rule", tmp_path / "colors.csv", *home)
    assert (scanned["weights"]["version"], scanned["scan"]["counted"]) == (1, 2)


def test_a_moved_dataset_keeps_its_counts_and_its_limit_of_removed_samples(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=24, size=(64, 32))
    home = ("--home", tmp_path / "home")
    scan_json(labels, "--name", "mv", *home)
    elsewhere = labels.rename(tmp_path / "elsewhere")
    message = invoke("scan", elsewhere, "--name", "mv", *home, code=1).stderr
    assert f"The source of mv is {labels}, not {elsewhere}" in message
    assert "add --name mv --move" in message
    moved = scan_json(elsewhere, "--name", "mv", "--move", *home)
    assert (moved["scan"]["counted"], moved["scan"]["reused"]) == (0, 24)
    assert moved["weights"]["version"] == 1
    assert json.loads(invoke("datasets", "mv", "--json", *home).stdout)["source"] == str(elsewhere)

    lost = invoke("scan", "--name", "mv", "--pattern", "val/*.png", "--move", *home, code=1).stderr
    assert "nothing was published" in lost.lower()
    unmatched = invoke("scan", labels.parent, "--name", "mv", "--pattern", "x", "--move", *home, code=1)
    assert "no file" in unmatched.stderr.lower()
    back = scan_json("--name", "mv", "--pattern", "**/*.png", "--move", *home)
    assert (back["scan"]["reused"], back["weights"]["version"]) == (24, 1)
    assert "--move" in invoke("scan", "--name", "mv", "--move", *home, code=2).stderr
    assert (
        "no dataset 'new' to move"
        in invoke("scan", elsewhere, "--name", "new", "--move", *home, code=2).stderr
    )


def test_names_that_are_not_utf8_are_rejected_before_anything_is_counted(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home")
    (tmp_path / "map.json").write_text('{"map": {"0": 0}, "names": ["\\ud800"]}')
    stderr = statsvc("scan", street_home[0], "--class-map", tmp_path / "map.json", *home, code=2).stderr
    assert "--class-map: " in stderr
    assert "lone surrogate" in stderr
    stderr = statsvc("scan", street_home[0], "--class-names", "a,\udcff", *home, code=2).stderr
    assert "--class-names: " in stderr
    other = shutil.copytree(street_home[0], tmp_path / "street\udcff")
    stderr = statsvc("scan", other, *home, code=2).stderr
    assert "SOURCE: " in stderr
    assert "not UTF-8" in stderr
    assert invoke("jobs", "--json", *home).stdout.strip() == "[]"


def test_a_scan_that_changes_only_the_configuration_reports_its_version(
    street_home: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _ = street_home
    home = ("--home", tmp_path / "home")
    invoke("scan", labels, "--name", "street", *home)
    stderr = invoke("scan", labels, "--name", "street", "--ignore", "3", *home).stderr
    assert "0 counted" in stderr
    assert "version 2, the same counts with another configuration" in stderr
    assert "no new version" in invoke("scan", labels, "--name", "street", *home).stderr


def test_xarray_opens_the_arrays_of_every_version(street_home: tuple[Path, Path], tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    invoke("scan", street_home[0], "--name", "street", *home)
    invoke("scan", "--name", "street", "--ignore", "3", *home)
    versions = json.loads(invoke("versions", "street", "--json", *home).stdout)
    assert [version["by"] for version in versions] == ["configuration", "scan"]
    for version in versions:
        opened = xarray.open_zarr(version["arrays"], consolidated=False)
        assert int(opened["class_pixels"].sum()) == version["pixels"] == 24 * 128 * 64
    assert versions[0]["arrays"] in invoke("versions", "street", *home).stderr


def test_version_numbers_of_a_deleted_dataset_are_not_used_again(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    assert scan_json(street, "--name", "street", *home)["weights"]["version"] == 1
    invoke("datasets", "street", "--delete", *home)
    assert scan_json(street, "--name", "street", *home)["weights"]["version"] == 2
