"""Known layouts: what an entry sets, and splits from folders, shards and globs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import bracex
import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.classes import class_maps
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.known_layouts import LAYOUTS, find_layout
from statsvc.dataset.selection import declared
from statsvc.dataset.splits import Split, detect
from statsvc.errors import InvalidParameter
from statsvc_workers.sources import layouts
from statsvc_workers.sources.patterns import matcher
from statsvc_workers.sources.sources import open_source
from statsvc_workers.sources.split_lists import MAX_BYTES
from support.dataset_trees import TREES
from support.label_trees import write

if TYPE_CHECKING:
    from pathlib import Path

    from support.scans import Workspace


def counted(table: statsvc.LocalTable) -> dict[int, int]:
    """Return the pixels of each raw id that occurs."""
    totals = table.totals()
    return {int(i): int(n) for i, n in zip(totals.class_id, totals.pixels, strict=True) if n}


LABELS = {layout: tree for tree in TREES.values() for layout in (tree.layout,) if layout is not None}


@pytest.mark.parametrize("name", [name for name in LABELS if find_layout(name).rule is None])
def test_a_layout_sets_what_its_entry_says(tmp_path: Path, name: str) -> None:
    tree, layout = LABELS[name], find_layout(name)
    tree.create(tmp_path)
    table = statsvc.scan(tmp_path, layout=name)
    group = (tree.counted or tree.choices)[0]
    assert list(table.rows.path) == tree.paths(group)
    assert (table.configuration.class_map and table.configuration.class_map.name) == layout.class_map
    assert layout.ignore in (None, table.configuration.ignore_index)


def test_camvid_colors_are_decoded_by_the_rule_of_the_layout(tmp_path: Path) -> None:
    (tmp_path / "LabeledApproved_full").mkdir()
    (tmp_path / "701_StillsRaw_full").mkdir()
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[:, :10] = (128, 128, 128)
    for n in range(2):
        Image.fromarray(picture).save(tmp_path / "LabeledApproved_full" / f"0001TP_{n}_L.png")
        write(tmp_path / "701_StillsRaw_full" / f"0001TP_{n}.png", "rgb", n)
    table = statsvc.scan(tmp_path, layout="camvid-colors")
    assert len(table.rows.path) == 2
    assert sorted(counted(table).values()) == [2 * 24 * 10, 2 * 24 * 22]


def test_each_layout_names_its_source_and_an_existing_class_map() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(names) == len(set(names))
    for layout in LAYOUTS:
        assert layout.source.startswith("http")
        assert layout.class_map is None or layout.class_map in class_maps.BUILTIN


def test_a_job_uses_the_layout_that_a_request_names(workspace: Workspace, tmp_path: Path) -> None:
    tree = TREES["CamVid of SegNet"]
    tree.create(tmp_path / "camvid")
    layout = find_layout("camvid")
    configuration = Configuration(ignore_index=layout.ignore, selection=declared("camvid", trusted=False))
    workspace.catalog.create_dataset("c", str(tmp_path / "camvid"), layout.pattern, configuration)
    assert workspace.scan("c")[0].error is None
    made = workspace.record("c").configuration
    assert workspace.record("c").samples == len(tree.paths("labels"))
    assert set(made.splits) == {"train", "val", "test"}
    assert made.selection is not None
    assert (made.selection.layout, made.selection.counted[0].files) == ("camvid", 6)


def test_an_unknown_layout_is_rejected_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="cityscapes"):
        statsvc.scan(tmp_path, layout="cityscape")


@pytest.mark.parametrize(
    ("paths", "sizes"),
    [
        (["data/train-00000-of-00002.parquet/0", "data/train-00001-of-00002.parquet/0",
          "data/validation-00000-of-00001.parquet/0"], {"train": 2, "val": 1}),
        (["train-000.tar/a.png", "test-000.tar/b.png"], {"train": 1, "test": 1}),
        (["trainannot/a.png", "valannot/b.png"], {"train": 1, "val": 1}),
        (["labelsTr/a.nii.gz", "labelsTs/b.nii.gz"], {"train": 1, "test": 1}),
        (["mask_train/a.png", "mask_valid/b.png"], {"train": 1, "val": 1}),
        (["panoptic_train2017/a.png", "panoptic_val2017/b.png"], {"train": 1, "val": 1}),
        (["train/a.png", "valid/b.png", "test/c.png"], {"train": 1, "val": 1, "test": 1}),
        (["training_day/a.png", "trains/b.png", "a-1.parquet/0"], {}),
    ],
)  # fmt: skip
def test_splits_are_detected_from_folders_and_shards(paths: list[str], sizes: dict[str, int]) -> None:
    found = detect(paths)
    assert {name: sum(map(split.contains, paths)) for name, split in found.items()} == sizes


@pytest.mark.parametrize("glob", ["data/train-*", "train-*", "**/train-*/*", "data/train-*/**"])
def test_a_glob_of_shards_matches_their_samples(glob: str) -> None:
    split = Split(glob=glob)
    assert split.contains("data/train-00000-of-00002.parquet/17")
    assert not split.contains("data/validation-00000-of-00001.parquet/17")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[{", "Expecting property name"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"train": 5}]', "train"),
        (b" " * (MAX_BYTES + 1), "more than 16 MB"),
    ],
)
def test_a_list_of_splits_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "splits_final.json").write_bytes(content)
    source = open_source(str(tmp_path), None)
    assert not source.splits
    assert source.selection is not None
    [line] = [line for line in source.selection.lines() if "splits_final.json" in line]
    assert "could not be read as a list of splits" in line
    assert reason in line


def test_a_list_that_can_be_read_is_used_without_the_one_that_cannot(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in "ab":
        Image.new("L", (2, 2)).save(tmp_path / f"{name}.png")
    (lists / "train.txt").write_bytes(b"\xff")
    (lists / "val.txt").write_text("b\n")
    source = open_source(str(tmp_path), None)
    assert list(source.splits) == ["val"]
    assert source.selection is not None
    lines = "\n".join(source.selection.lines())
    assert "train.txt was ignored" in lines
    assert "val (1) are defined by ImageSets/Segmentation/val.txt" in lines


@pytest.mark.parametrize("split", ["trian_*", ["nowhere.png"]])
def test_a_split_that_matches_nothing_fails_the_scan(tmp_path: Path, split: Any) -> None:
    write(tmp_path / "train_0.png", "labels", 0)
    with pytest.raises(InvalidParameter, match=r"matches none of the 1 sample, for example train_0\.png"):
        statsvc.scan(tmp_path, splits={"train": split})


def test_a_mark_is_only_skipped_if_no_path_matches_it() -> None:
    marks = {mark for layout in LAYOUTS for mark in layout.marks or (layout.pattern,)}
    # A path for each mark, and for each alternative in its braces; "**/" is nothing, or two folders.
    paths = {
        re.sub(r"\[(.)[^]]*\]", r"\1", text.replace("**/", folders)).replace("*", "7").replace("?", "7")
        for mark in marks
        for text in bracex.expand(mark)
        for folders in ("", "a/b/")
    }
    for mark in marks:
        expected = any(map(matcher(mark), paths))
        assert expected, mark
        assert all(layouts._matches_any(mark, [path]) == matcher(mark)(path) for path in paths), mark
