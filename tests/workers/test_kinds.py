"""Patterns of the kinds of file, photographs, and the look of pixels."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from statsvc.dataset.counting_rule import Counting
from statsvc.errors import AmbiguousSource, SourceError
from statsvc_workers.sources.content import Look, inspect
from statsvc_workers.sources.grouping import pattern_of_group
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.patterns import matcher
from statsvc_workers.sources.sources import open_source
from support.dataset_trees import TREES
from support.label_trees import SHAPE, gray, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def test_a_pattern_is_printed_so_that_a_shell_passes_it_on_unchanged(tmp_path: Path) -> None:
    TREES["characters of shells and globs"].create(tmp_path)
    with pytest.raises(AmbiguousSource) as caught:
        open_source(str(tmp_path), None)
    for pattern in caught.value.patterns:
        assert f"--pattern '{pattern}' " in str(caught.value)
        assert not set(pattern) & set("'\"‘’\\")
        printed = subprocess.run(["sh", "-c", f"printf %s '{pattern}'"], capture_output=True, check=True)
        assert printed.stdout.decode() == pattern


def test_no_pattern_of_a_group_is_longer_than_a_pattern_may_be() -> None:
    paths = [f"{'x' * 100}{number}/{'y' * 50}{number % 3}.png" for number in range(60)]
    for number in range(3):
        members = [path for path in paths if path.endswith(f"{number}.png")]
        pattern = pattern_of_group(members[:-1], paths, ["*.png"])
        assert all(map(matcher(pattern), members[:-1]))


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
    TREES["nnU-Net v2"].create(tmp_path)
    with pytest.raises(AmbiguousSource, match="matches images as well as label maps") as caught:
        open_source(str(tmp_path), "*.nii.gz")
    assert caught.value.patterns == ("labelsTr/**/*.nii.gz",)


def test_a_pattern_that_joins_two_kinds_of_label_map_is_noted(tmp_path: Path) -> None:
    TREES["Pascal VOC"].create(tmp_path)
    selection = open_source(str(tmp_path), "*.png").selection
    assert selection is not None
    note = selection.notes[0]
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
