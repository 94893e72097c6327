"""Planted faults that the doctor finds, and sound datasets about which it says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.classes import class_maps
from support.doctor_tables import report, streets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Labels = NDArray[Any]

SIZE = (64, 96)


def blobs(seed: int, classes: int, objects: int = 14, background: int = 0) -> Labels:
    """Return a label map of rectangles of random classes."""
    rng = np.random.default_rng(seed)
    labels = np.full(SIZE, background, np.int64)
    for _ in range(objects):
        top, left = rng.integers(0, SIZE[0] - 8), rng.integers(0, SIZE[1] - 8)
        height, width = rng.integers(4, 30, 2)
        labels[top : top + height, left : left + width] = rng.integers(0, classes)
    return labels


def photo(seed: int) -> Labels:
    """Return brightness values as in an image: a gradient with noise."""
    rng = np.random.default_rng(seed)
    gradient = np.linspace(20, 220, SIZE[1]) + np.linspace(0, 25, SIZE[0])[:, None]
    return np.clip(gradient + rng.normal(0, 6, SIZE), 0, 255).astype(np.int64)


def dataset(make: Callable[[int], Labels], images: int = 24) -> dict[str, Labels]:
    return {f"{'val' if n % 4 == 3 else 'train'}/{n:03}.png": make(n) for n in range(images)}


# Masks of 0 and 255


@pytest.mark.parametrize("share", [0.0002, 0.01, 0.3, 0.9])
def test_masks_of_0_and_255_are_found_whatever_the_share_of_white(share: float) -> None:
    def mask(n: int) -> Labels:
        labels = np.zeros(SIZE, np.int64)
        labels.flat[: max(1, int(share * labels.size) + n % 3)] = 255
        return labels

    findings = report(dataset(mask))
    assert findings["binary_masks"]["level"] == "serious"
    assert findings["binary_masks"]["count"] == 24


# Images, instance ids and nodata among classes


def test_images_among_label_maps_are_found() -> None:
    maps = dataset(lambda n: photo(n) if n % 8 == 1 else blobs(n, 5))
    finding = report(maps, num_classes=256)["images"]
    assert (finding["level"], finding["count"]) == ("serious", 3)
    assert set(finding["files"]) == {path for n, path in enumerate(maps) if n % 8 == 1}
    assert "images" in report(dataset(photo), num_classes=256)


def test_ids_far_above_their_number_are_instance_ids() -> None:
    maps = dataset(lambda n: blobs(n, 3) + np.where(blobs(n, 2) == 1, 26000 + n, 0))
    assert report(maps)["instance_ids"]["level"] == "serious"


def test_objects_numbered_in_every_image_are_instance_ids() -> None:
    def numbered(n: int) -> Labels:
        labels = np.zeros(SIZE, np.int64)
        for k in range(5 + n % 15):
            labels[3 * k : 3 * k + 2, 5:40] = k + 1
        return labels

    finding = report(dataset(numbered))["instance_ids"]
    assert "1 to the number of ids" in finding["saw"]


@pytest.mark.parametrize("value", [127, 32767])
def test_a_usual_nodata_value_among_classes_is_found(value: int) -> None:
    maps = streets()
    for path in list(maps)[::3]:
        maps[path][3:9] = value
    findings = report(maps)
    code = "nodata" if value == 127 else "instance_ids" if "instance_ids" in findings else "nodata"
    assert findings[code]["level"] == "serious"
    assert str(value) in findings[code]["saw"]
    assert value in findings[code]["ids"]


def test_a_class_map_that_reduces_reduced_label_maps_is_found() -> None:
    finding = report(streets(), class_map=class_maps.builtin("reduce_zero_label"))["reduced_twice"]
    assert finding["level"] == "serious"
    original = {path: np.where(labels == 255, 0, labels + 1) for path, labels in streets().items()}
    assert report(original, class_map=class_maps.builtin("reduce_zero_label")) == {}


def test_a_step_applied_to_part_of_the_files_is_found() -> None:
    maps = {path: np.where(labels == 255, 0, labels + 1) for path, labels in streets(classes=6).items()}
    reduced = list(maps)[1::5]
    for path in reduced:
        maps[path] = np.where(maps[path] == 0, 255, maps[path] - 1)
    finding = report(maps)["reduced_partly"]
    assert (finding["level"], finding["count"]) == ("serious", len(reduced))
    assert set(finding["files"]) <= set(reduced)


# Exchanged classes


def test_two_classes_exchanged_in_part_of_a_split_are_found() -> None:
    maps = streets()
    exchanged = [path for path in maps if path.startswith("train")][:5]
    for path in exchanged:
        labels = maps[path].copy()
        maps[path][labels == 0], maps[path][labels == 4] = 4, 0
    finding = report(maps)["swapped_classes"]
    assert finding["ids"] == [0, 4]
    assert finding["files"] == sorted(exchanged)
    assert "train" in finding["saw"]


def test_few_files_show_exchanged_classes_if_their_proportions_hardly_vary() -> None:
    scene = np.repeat([0, 1, 2], [4200, 1400, 544])
    maps = dataset(lambda n: np.random.default_rng(n).permutation(scene).reshape(SIZE), images=12)
    path = next(path for path in maps if path.startswith("val"))
    labels = maps[path].copy()
    maps[path][labels == 0], maps[path][labels == 2] = 2, 0
    assert report(maps)["swapped_classes"]["files"] == [path]


# The same scene in two splits


@pytest.mark.parametrize("change", [lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: a.T, np.rot90])
def test_a_mirrored_training_image_in_val_is_found_by_its_pixels(change: Callable[[Labels], Labels]) -> None:
    maps = dataset(lambda n: blobs(n, 6))
    first = next(path for path in maps if path.startswith("train"))
    maps["val/copy.png"] = change(maps[first])
    finding = report(maps, read=True)["leakage"]
    assert (finding["level"], finding["count"]) == ("serious", 1)
    assert finding["files"] == [first, "val/copy.png"]
    # Without pixels, an equal histogram of several ids over many pixels is a notice.
    assert report(maps)["leakage"]["level"] == "notice"


def test_equal_histograms_of_different_pixels_are_no_leak() -> None:
    maps = dataset(lambda n: blobs(n, 6))
    first = next(path for path in maps if path.startswith("train"))
    maps["val/other.png"] = np.random.default_rng(0).permutation(maps[first].ravel()).reshape(SIZE)
    assert "leakage" not in report(maps, read=True)


# Empty and ignored files


def test_files_without_classes_are_found() -> None:
    maps = dataset(lambda n: blobs(n, 5))
    ignored, empty = list(maps)[4], list(maps)[9]
    maps[ignored] = np.full(SIZE, 255, np.int64)
    maps[empty] = np.zeros(SIZE, np.int64)
    findings = report(maps)
    assert (findings["fully_ignored"]["files"], findings["empty"]["files"]) == ([ignored], [empty])
    assert {finding["level"] for finding in findings.values()} == {"notice"}


# Sound datasets


def contours(n: int) -> Labels:
    """A thin class 1 between the background 0 and nuclei 2."""
    labels = np.zeros(SIZE, np.int64)
    rng = np.random.default_rng(n)
    for top in range(4, 52, 12):
        left = int(rng.integers(4, 60))
        labels[top : top + 10, left : left + 14] = 1
        labels[top + 1 : top + 9, left + 1 : left + 13] = 2
    return labels


def lane_markings(n: int) -> Labels:
    """Thin markings 3 on the road 2, a curb 4 between road and sidewalk 5, sky 0 and buildings 1."""
    labels = blobs(n, 2)
    labels[30:] = 2
    labels[30:, 20 + n % 7] = 3
    labels[30:, 60] = 4
    labels[30:, 61:] = 5
    return labels


SOUND: dict[str, Callable[[int], Labels]] = {
    "blobs": lambda n: blobs(n, 7),
    "void": lambda n: np.where(blobs(n + 99, 9) == 8, 255, blobs(n, 7)),
    "contours": contours,
    "lane markings": lane_markings,
    "fragmented land cover": lambda n: np.random.default_rng(n).choice(
        9, SIZE, p=np.array([30, 20, 15, 10, 8, 7, 5, 3, 2]) / 100
    ),
    "two classes": lambda n: (blobs(n, 3) == 2).astype(np.int64),
    "30 classes": lambda n: blobs(n, 30, objects=40),
    "long tail": lambda n: np.random.default_rng(n).choice(12, SIZE, p=0.5 ** np.arange(12) / (2 - 0.5**11)),
    "lesions, some empty": lambda n: (
        np.zeros(SIZE, np.int64) if n % 3 else (blobs(n, 4) == 3).astype(np.int64)
    ),
    "raw ids with gaps": lambda n: np.array([0, 7, 8, 11, 17, 26, 33])[blobs(n, 7)],
    "small scenes": lambda n: blobs(n, 4)[:16, :16],
    "nested classes": lambda n: np.minimum(blobs(n, 4), n % 3 + 1),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_datasets_cause_no_finding(name: str) -> None:
    findings = report(dataset(SOUND[name], images=40), read=True)
    assert {code: finding["saw"] for code, finding in findings.items()} == {}
