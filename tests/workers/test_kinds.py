"""Which files of a folder are counted: trees of public datasets, written by the test, and photographs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from statsvc.dataset.counting_rule import Counting
from statsvc.errors import AmbiguousSource, SourceError
from statsvc_workers.sources.content import Look, inspect
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source
from support.label_trees import SHAPE, gray, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tree:
    """A folder tree: for each group of files its content and paths, of which `{}` is the image's name.

    counted  the groups that are counted without a question; None if the user is asked
    choices  the groups that the user is asked to choose from, each with a pattern of its own
    """

    groups: dict[str, str]
    counted: str | None = None
    choices: tuple[str, ...] = ()
    images: tuple[str, ...] = ("a_0", "b_1", "c_2")
    content: dict[str, str] = field(default_factory=dict)

    def create(self, root: Path) -> None:
        """Write the files."""
        seed = 0
        for group, template in self.groups.items():
            for image in self.images:
                seed += 1
                write(root / template.format(image), self.content.get(group, group), seed)

    def paths(self, group: str) -> list[str]:
        """Return the paths of a group."""
        return sorted(self.groups[group].format(image) for image in self.images)


NUMBERS = ("0", "1", "2")
CASES = ("case_00000", "case_00001", "case_00002")

TREES: dict[str, Tree] = {
    "voc": Tree(
        {
            "class": "SegmentationClass/{}.png",
            "object": "SegmentationObject/{}.png",
            "jpg": "JPEGImages/{}.jpg",
        },
        choices=("class", "object"),
        content={"class": "palette", "object": "palette"},
    ),
    "nnunet": Tree(
        {
            "image": "imagesTr/{}_0000.nii.gz",
            "label": "labelsTr/{}.nii.gz",
            "test": "imagesTs/t{}_0000.nii.gz",
        },
        counted="label",
        content={"image": "gray", "test": "gray"},
    ),
    "kits": Tree(
        {"image": "{}/imaging.nii.gz", "label": "{}/segmentation.nii.gz"},
        counted="label",
        images=CASES,
        content={"image": "gray"},
    ),
    "lits": Tree(
        {"image": "volume-{}.nii", "label": "segmentation-{}.nii"},
        counted="label",
        images=NUMBERS,
        content={"image": "gray"},
    ),
    "lits batches": Tree(
        {"image": "Training Batch 1/volume-{}.nii", "label": "Training Batch 1/segmentation-{}.nii"},
        counted="label",
        images=NUMBERS,
        content={"image": "gray"},
    ),
    "gray images": Tree(
        {"gray": "images/{}.png", "labels": "masks/{}.png"},
        counted="labels",
    ),
    "gray images without a known name": Tree(
        {"gray": "one/{}.png", "labels": "two/{}.png"},
        counted="labels",
    ),
    "prefixes": Tree(
        {"gray": "image_{}.png", "labels": "mask_{}.png"},
        counted="labels",
        images=NUMBERS,
    ),
    "suffixes": Tree({"gray": "{}.tif", "labels": "{}-seg.tif"}, counted="labels"),
    "brats": Tree(
        {
            "t1": "{0}/{0}_t1.nii.gz",
            "t2": "{0}/{0}_t2.nii.gz",
            "flair": "{0}/{0}_flair.nii.gz",
            "seg": "{0}/{0}_seg.nii.gz",
        },
        counted="seg",
        images=("BraTS_001", "BraTS_002"),
        content={"t1": "gray", "t2": "gray", "flair": "gray"},
    ),
    "kitti": Tree(
        {
            "rgb": "training/image_2/{}_10.png",
            "ids16": "training/instance/{}_10.png",
            "labels": "training/semantic/{}_10.png",
        },
        choices=("ids16", "labels"),
    ),
    "mapillary": Tree(
        {
            "jpg": "training/images/{}.jpg",
            "old": "training/v1.2/labels/{}.png",
            "new": "training/v2.0/labels/{}.png",
            "ids16": "training/v2.0/instances/{}.png",
        },
        choices=("old", "new", "ids16"),
        content={"old": "palette", "new": "palette"},
    ),
    "cityscapes": Tree(
        {
            "rgb": "leftImg8bit/train/x/{}_leftImg8bit.png",
            "labels": "gtFine/train/x/{}_gtFine_labelIds.png",
            "ids16": "gtFine/train/x/{}_gtFine_instanceIds.png",
            "colors": "gtFine/train/x/{}_gtFine_color.png",
        },
        choices=("labels", "ids16", "colors"),
        images=("x_000000_000019", "x_000001_000019"),
    ),
    "cityscapes, fine and coarse": Tree(
        {
            "fine": "gtFine/train/x/{}_gtFine_labelIds.png",
            "coarse": "gtCoarse/train/x/{}_gtCoarse_labelIds.png",
        },
        choices=("fine", "coarse"),
        images=("x_000000_000019", "x_000001_000019"),
        content={"fine": "labels", "coarse": "labels"},
    ),
    "two experts, CHASE": Tree(
        {"first": "Image_{}L_1stHO.png", "second": "Image_{}L_2ndHO.png"},
        choices=("first", "second"),
        content={"first": "labels", "second": "labels"},
    ),
    "suffixes of the number of classes": Tree(
        {"two": "{}_2class.png", "three": "{}_3class.png"},
        choices=("two", "three"),
        content={"two": "labels", "three": "labels"},
    ),
    "other extension and name": Tree(
        {"scan": "p{}/t1.nii.gz", "labels": "p{}/seg.npy"},
        counted="labels",
        images=NUMBERS,
        content={"scan": "gray"},
    ),
    "floating-point scans": Tree(
        {"scan": "p{}/t1.npy", "labels": "p{}/seg.npy"},
        counted="labels",
        images=NUMBERS,
        content={"scan": "float"},
    ),
    "prefixes without a known name": Tree(
        {"gray": "x_{}.npy", "labels": "y_{}.npy"}, counted="labels", images=NUMBERS
    ),
    "two sets of classes": Tree(
        {"two": "semantic_2class/{}.tif", "three": "semantic_3class/{}.tif", "rgb": "s2_images/{}.tif"},
        choices=("two", "three"),
        content={"two": "labels", "three": "labels"},
    ),
    "predictions": Tree(
        {"labels": "gt/{}.png", "pred": "pred/{}.png"},
        choices=("labels", "pred"),
        content={"pred": "labels"},
    ),
    "augmented": Tree(
        {
            "gray": "train/image/{}.png",
            "labels": "train/label/{}.png",
            "aug image": "train/aug/image_{}.png",
            "aug mask": "train/aug/mask_{}.png",
        },
        choices=("labels", "aug mask"),
        images=NUMBERS,
        content={"aug image": "gray", "aug mask": "labels"},
    ),
    "depth": Tree(
        {"depth": "depth/{}.png", "labels": "label/{}.png"}, counted="labels", content={"depth": "gray"}
    ),
    "segnet camvid": Tree(
        {"rgb": "train/{}.png", "labels": "trainannot/{}.png"},
        counted="labels",
    ),
    "change detection": Tree(
        {"A": "train/A/{}.png", "B": "train/B/{}.png", "labels": "train/label/{}.png"},
        counted="labels",
        content={"A": "rgb", "B": "rgb"},
    ),
    "characters of shells and globs": Tree(
        {"labels": "it's a [1] $HOME & (x)/{}.png", "ids16": 'it\'s a "2" {{y}}, ‘z’!/instance/{}.png'},
        choices=("labels", "ids16"),
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_label_maps_of_a_dataset_are_chosen_or_asked_for(tmp_path: Path, name: str) -> None:
    tree = TREES[name]
    tree.create(tmp_path)
    if tree.counted is not None:
        source = open_source(str(tmp_path), None)
        assert list(list_samples(source).path) == tree.paths(tree.counted)
        assert source.selection is not None
        assert sum(group.files for group in source.selection.skipped) == sum(
            len(tree.paths(group)) for group in tree.groups if group != tree.counted
        )
        return
    with pytest.raises(AmbiguousSource) as caught:
        open_source(str(tmp_path), None)
    offered = [
        list(list_samples(open_source(str(tmp_path), pattern)).path) for pattern in caught.value.patterns
    ]
    assert sorted(offered) == sorted(tree.paths(group) for group in tree.choices)


def test_a_pattern_is_printed_so_that_a_shell_passes_it_on_unchanged(tmp_path: Path) -> None:
    TREES["characters of shells and globs"].create(tmp_path)
    with pytest.raises(AmbiguousSource) as caught:
        open_source(str(tmp_path), None)
    for pattern in caught.value.patterns:
        assert f"--pattern '{pattern}' " in str(caught.value)
        assert not set(pattern) & set("'\"‘’\\")
        printed = subprocess.run(["sh", "-c", f"printf %s '{pattern}'"], capture_output=True, check=True)
        assert printed.stdout.decode() == pattern


@pytest.mark.parametrize("pattern", [None, "*.png"])
@pytest.mark.parametrize("content", ["gray", "rgb"])
def test_photographs_are_rejected(tmp_path: Path, content: str, pattern: str | None) -> None:
    for seed in range(3):
        write(tmp_path / f"{seed}.png", content, seed)
    with pytest.raises(SourceError, match="looks like a photograph"):
        open_source(str(tmp_path), pattern)
    with pytest.raises(SourceError, match="looks like a photograph"):
        open_source(str(tmp_path / "0.png"), None)
    assert open_source(str(tmp_path), None, trusted=True).pattern == "*.png"


def test_a_pattern_that_matches_images_and_label_maps_is_rejected(tmp_path: Path) -> None:
    TREES["nnunet"].create(tmp_path)
    with pytest.raises(AmbiguousSource, match="matches images as well as label maps") as caught:
        open_source(str(tmp_path), "*.nii.gz")
    assert caught.value.patterns == ("labelsTr/**/*.nii.gz",)


def test_a_pattern_that_joins_two_kinds_of_label_map_is_noted(tmp_path: Path) -> None:
    TREES["voc"].create(tmp_path)
    selection = open_source(str(tmp_path), "*.png").selection
    assert selection is not None
    (note,) = selection.notes
    assert "matches 2 kinds" in note
    assert "SegmentationObject" in note


def test_masks_of_classes_with_a_scan_next_to_them_are_merged_by_the_rule_that_is_offered(
    tmp_path: Path,
) -> None:
    for seed, organ in enumerate(("liver", "spleen", "kidney_left", "kidney_right")):
        for patient in ("s0", "s1", "s2"):
            write(tmp_path / patient / "ct.nii.gz", "gray", seed)
            write(tmp_path / patient / "segmentations" / f"{organ}.nii.gz", "mask", seed)
    with pytest.raises(AmbiguousSource, match="--rule mask-per-class"):
        open_source(str(tmp_path), None)
    counting = Counting(rule="mask-per-class")
    source = open_source(str(tmp_path), None, counting)
    listing = list_samples(source, counting=counting)
    assert list(listing.path) == [f"s{k}/segmentations" for k in range(3)]
    assert listing.class_names == ("background", "kidney_left", "kidney_right", "liver", "spleen")


def superpixels() -> NDArray[np.uint16]:
    """Return 400 instance ids in blocks."""
    return np.kron(np.arange(400, dtype=np.uint16).reshape(20, 20), np.ones((8, 8), np.uint16))


def soft_edges() -> NDArray[np.uint8]:
    """Return a mask of 0 and 255 with interpolated edges."""
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 11, 12))
    return np.asarray(mask.resize((256, 256), Image.Resampling.BILINEAR))


def noise(classes: int) -> NDArray[np.uint8]:
    """Return a label map without any structure, with 255 as ignored id."""
    random = np.random.default_rng(0)
    ids = random.integers(0, classes, (64, 64)).astype(np.uint8)
    ids[random.random((64, 64)) < 0.2] = 255
    return ids


def parcels(block: int) -> NDArray[np.int32]:
    """Return a map of 74 FreeSurfer ids in blocks without any order."""
    ids = np.array([0, 4, *range(1000, 1036), *range(2000, 2036)], np.int32)
    return np.kron(np.random.default_rng(0).choice(ids, (64, 64)), np.ones((block, block), np.int32))


def scan_on_black() -> NDArray[np.int16]:
    """Return a scan of an object that fills a tenth of the picture."""
    picture = np.zeros((128, 128), np.int16)
    picture[40:80, 40:80] = np.random.default_rng(0).normal(900, 150, (40, 40))
    return picture


@pytest.mark.parametrize(
    ("make", "look"),
    [
        (superpixels, Look.LABELS),
        (soft_edges, Look.LABELS),
        (lambda: noise(19), Look.LABELS),
        (lambda: noise(150), Look.LABELS),
        (lambda: parcels(1), Look.LABELS),
        (lambda: parcels(2), Look.LABELS),
        (lambda: np.kron(noise(117), np.ones((2, 2), np.uint8)), Look.LABELS),
        (lambda: gray(0), Look.PHOTO),
        (lambda: gray(0) // 4, Look.PHOTO),
        (lambda: np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8), Look.PHOTO),
        (lambda: np.random.default_rng(0).normal(0, 60, SHAPE).astype(np.int16), Look.PHOTO),
        (scan_on_black, Look.PHOTO),
    ],
)
def test_the_look_of_a_file(tmp_path: Path, make: Callable[[], NDArray[Any]], look: Look) -> None:
    np.save(tmp_path / "a.npy", make())
    content = inspect(str(tmp_path), "a.npy")
    assert content is not None
    assert content.look is look
