"""Known layouts: each on a tree that the test writes, with counts from Pillow, nibabel and NumPy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.classes import class_maps
from statsvc.dataset.splits import Split, detect
from statsvc.errors import AmbiguousSource, InvalidParameter
from statsvc_workers.sources.layouts import LAYOUTS, find_layout
from statsvc_workers.sources.sources import open_source
from support.label_trees import labels, write

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A small dataset in a known layout.

    counted  paths of the label maps
    others   paths of other files → their content, as `write` makes it
    texts    paths of text files → their content
    splits   split → samples, as the layout defines them
    asks     whether a scan without `--layout` asks
    """

    counted: tuple[str, ...]
    others: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    asks: bool = False


def both(template: str) -> tuple[str, str]:
    """Return two paths of one folder."""
    return template.format(0), template.format(1)


EXAMPLES: dict[str, Example] = {
    "voc": Example(
        both("VOC2012/SegmentationClass/2007_00000{}.png"),
        others={"VOC2012/SegmentationObject/2007_000000.png": "labels", "VOC2012/JPEGImages/a.jpg": "jpg"},
        texts={
            "VOC2012/ImageSets/Segmentation/train.txt": "2007_000000\n",
            "VOC2012/ImageSets/Segmentation/val.txt": "2007_000001\n",
            "VOC2012/ImageSets/Segmentation/trainval.txt": "2007_000000\n2007_000001\n",
            "VOC2012/ImageSets/Segmentation/test.txt": "2008_000009\n",
        },
        splits={"train": 1, "val": 1, "trainval": 2},
        asks=True,
    ),
    "cvat": Example(
        both("SegmentationClass/{}.png"), texts={"labelmap.txt": "# label:color_rgb:parts:actions"}
    ),
    "voc-export": Example(
        both("SegmentationClass/{}.png"), others={"SegmentationObject/0.png": "labels"}, asks=True
    ),
    "cityscapes": Example(
        ("gtFine/train/x/x_0_gtFine_labelIds.png", "gtFine/val/y/y_0_gtFine_labelIds.png"),
        others={
            "gtFine/train/x/x_0_gtFine_instanceIds.png": "ids16",
            "gtFine/val/y/y_0_gtFine_instanceIds.png": "ids16",
            "leftImg8bit/train/x/x_0_leftImg8bit.png": "rgb",
        },
        splits={"train": 1, "val": 1},
        asks=True,
    ),
    "nnunet": Example(
        both("labelsTr/case_{}.nii.gz"),
        others={"imagesTr/case_0_0000.nii.gz": "gray", "imagesTr/case_1_0000.nii.gz": "gray"},
        texts={
            "dataset.json": "{}",
            "splits_final.json": json.dumps([{"train": ["case_0"], "val": ["case_1"]}]),
        },
        splits={"fold0_train": 1, "fold0_val": 1},
    ),
    "kits": Example(
        both("case_0000{}/segmentation.nii.gz"),
        others={"case_00000/imaging.nii.gz": "gray", "case_00001/imaging.nii.gz": "gray"},
    ),
    "lits": Example(both("segmentation-{}.nii"), others={"volume-0.nii": "gray", "volume-1.nii": "gray"}),
    "kitti": Example(
        both("training/semantic/00000{}_10.png"),
        others={"training/instance/000000_10.png": "ids16", "training/image_2/000000_10.png": "rgb"},
        splits={"train": 2},
        asks=True,
    ),
    "mapillary": Example(
        ("training/labels/a.png", "validation/labels/b.png"),
        others={"training/instances/a.png": "ids16", "validation/instances/b.png": "ids16"},
        splits={"train": 1, "val": 1},
        asks=True,
    ),
    "mapillary-v2": Example(
        ("training/v2.0/labels/a.png", "validation/v2.0/labels/b.png"),
        others={"training/v1.2/labels/a.png": "labels", "training/v2.0/instances/a.png": "ids16"},
        splits={"train": 1, "val": 1},
        asks=True,
    ),
    "ade20k": Example(
        ("annotations/training/ADE_train_00000001.png", "annotations/validation/ADE_val_00000001.png"),
        others={"images/training/ADE_train_00000001.jpg": "jpg"},
        splits={"train": 1, "val": 1},
    ),
    "bdd100k": Example(
        ("labels/sem_seg/masks/train/a.png", "labels/sem_seg/masks/val/b.png"),
        others={
            "labels/sem_seg/colormaps/train/a.png": "colors",
            "labels/sem_seg/colormaps/val/b.png": "colors",
        },
        splits={"train": 1, "val": 1},
        asks=True,
    ),
    "camvid": Example(
        ("trainannot/0001.png", "valannot/0002.png", "testannot/0003.png"),
        others={"train/0001.png": "rgb", "val/0002.png": "rgb", "test/0003.png": "rgb"},
        splits={"train": 1, "val": 1, "test": 1},
    ),
    "roboflow": Example(
        ("train/a_mask.png", "valid/b_mask.png", "test/c_mask.png"),
        others={"train/a.jpg": "jpg", "valid/b.jpg": "jpg", "test/c.jpg": "jpg"},
        texts={"train/_classes.csv": "Pixel Value, Class\n0, background\n"},
        splits={"train": 1, "val": 1, "test": 1},
    ),
    "coco-stuff": Example(
        ("train2017/000000000009.png", "val2017/000000000139.png"), splits={"train": 1, "val": 1}
    ),
    "landcover-ai": Example(
        both("masks/M-33-20-D-c-4-{}.tif"),
        others={"images/M-33-20-D-c-4-0.tif": "rgb", "images/M-33-20-D-c-4-1.tif": "rgb"},
    ),
    "loveda": Example(
        ("Train/Urban/masks_png/0.png", "Val/Rural/masks_png/1.png"),
        others={"Train/Urban/images_png/0.png": "rgb", "Val/Rural/images_png/1.png": "rgb"},
        splits={"train": 1, "val": 1},
    ),
    "levir-cd": Example(
        ("train/label/train_1.png", "test/label/test_1.png"),
        others={f"{split}/{side}/{split}_1.png": "rgb" for split in ("train", "test") for side in ("A", "B")},
        splits={"train": 1, "test": 1},
    ),
    "inria": Example(
        both("train/gt/austin{}.tif"),
        others={"train/images/austin0.tif": "rgb", "test/images/bloomington0.tif": "rgb"},
        splits={"train": 2},
    ),
}


def create(root: Path, example: Example) -> dict[int, int]:
    """Write a dataset; return the pixels of each id in its label maps."""
    pixels: dict[int, int] = {}
    for seed, path in enumerate(example.counted):
        write(root / path, "labels", seed)
        copies = 3 if path.endswith((".nii", ".nii.gz")) else 1
        ids, counts = np.unique(labels(seed), return_counts=True)
        for each, count in zip(ids.tolist(), counts.tolist(), strict=True):
            pixels[each] = pixels.get(each, 0) + count * copies
    for seed, (path, content) in enumerate(example.others.items()):
        write(root / path, content, 100 + seed)
    for path, text in example.texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return pixels


def counted(table: statsvc.LocalTable) -> dict[int, int]:
    """Return the pixels of each raw id that occurs."""
    totals = table.totals()
    return {int(i): int(n) for i, n in zip(totals.class_id, totals.pixels, strict=True) if n}


def split_sizes(table: statsvc.LocalTable) -> dict[str, int]:
    """Return the number of samples of each split."""
    paths = list(table.rows.path)
    return {name: sum(map(split.contains, paths)) for name, split in table.configuration.splits.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_is_detected_and_counted(tmp_path: Path, name: str) -> None:
    example, layout = EXAMPLES[name], find_layout(name)
    pixels = create(tmp_path, example)
    if example.asks:
        with pytest.raises(AmbiguousSource, match=f"--layout {name} "):
            open_source(str(tmp_path), None)
    else:
        table = statsvc.scan(tmp_path)
        assert table.configuration.selection is not None
        assert table.configuration.selection.layout == name
        assert list(table.rows.path) == sorted(example.counted)
        assert counted(table) == pixels
        assert split_sizes(table) == example.splits
    table = statsvc.scan(tmp_path, layout=name)
    assert list(table.rows.path) == sorted(example.counted)
    assert counted(table) == pixels
    assert split_sizes(table) == example.splits
    assert (table.configuration.class_map and table.configuration.class_map.name) == layout.class_map
    assert table.configuration.ignore_index == layout.ignore


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


@pytest.mark.parametrize("split", ["trian_*", ["nowhere.png"]])
def test_a_split_that_matches_nothing_fails_the_scan(tmp_path: Path, split: Any) -> None:
    write(tmp_path / "train_0.png", "labels", 0)
    with pytest.raises(InvalidParameter, match=r"matches none of the 1 samples, for example train_0\.png"):
        statsvc.scan(tmp_path, splits={"train": split})
