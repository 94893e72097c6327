"""Weights under random crops, compared with the pixels themselves and with simulated crops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.weighting.parameters import WeightSpec
from support.expected import CAMVID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc.local.scan import LocalTable

HEIGHT, WIDTH, CLASSES = 120, 160, 4


def scene(seed: int) -> NDArray[np.uint8]:
    """Return a street scene: sky above, a road below, a few cars near the horizon, and a void border."""
    random = np.random.default_rng(seed)
    horizon = HEIGHT // 2 + int(random.integers(-8, 8))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[horizon:] = 1
    for _ in range(4):
        top, left = horizon + int(random.integers(-6, 10)), int(random.integers(20, WIDTH - 40))
        labels[top : top + int(random.integers(4, 20)), left : left + int(random.integers(4, 30))] = 2
    labels[random.integers(0, HEIGHT, 40), random.integers(0, WIDTH, 40)] = 3
    labels[-6:] = 255
    return labels


@pytest.fixture(scope="module")
def scenes() -> NDArray[np.uint8]:
    return np.stack([scene(seed) for seed in range(40)])


@pytest.fixture(scope="module")
def table(scenes: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> LocalTable:
    folder = tmp_path_factory.mktemp("scenes")
    for number, labels in enumerate(scenes):
        Image.fromarray(labels).save(folder / f"{number:03}.png")
    return statsvc.scan(folder, grid="8x8")


def inclusion(length: int, crop: int) -> NDArray[np.float64]:
    """Return how often each pixel is in a crop, by enumerating all crops."""
    crop = min(crop, length)
    hits = np.zeros(length)
    for start in range(length - crop + 1):
        hits[start : start + crop] += 1
    return hits / (length - crop + 1)


def shares(pixels: Any) -> NDArray[np.float64]:
    counts = np.array(pixels, float)
    return np.asarray(counts / counts.sum())


def answered(table: LocalTable, **params: Any) -> NDArray[np.float64]:
    return shares([row["pixels"] for row in table.weights(**params).classes])


@pytest.mark.parametrize("crop", ["40x40", "64x100", "100x32", "120x80"])
def test_shares_under_crops_are_those_of_the_pixels(
    table: LocalTable, scenes: NDArray[np.uint8], crop: str
) -> None:
    height, width = map(int, crop.split("x"))
    factor = np.outer(inclusion(HEIGHT, height), inclusion(WIDTH, width))
    exact = [(factor * (scenes == c)).sum() for c in range(CLASSES)]
    assert answered(table, crop=crop) == pytest.approx(shares(exact), rel=0.05)
    # The effect is real: whole images are much further away.
    assert np.abs(answered(table) / shares(exact) - 1).max() > 0.15


def simulated(
    scenes: NDArray[np.uint8], crop: int, accept: Callable[[NDArray[Any]], bool]
) -> tuple[NDArray[np.float64], float]:
    """Return the shares in MMSegmentation's crops of the real pixels, and crops drawn again per crop."""
    random = np.random.default_rng(0)
    pixels, again, draws = np.zeros(CLASSES), 0, 6000
    for k in range(draws):
        labels = scenes[k % len(scenes)]
        for attempt in range(11):
            top, left = random.integers(0, HEIGHT - crop + 1), random.integers(0, WIDTH - crop + 1)
            counts = np.bincount(labels[top : top + crop, left : left + crop].ravel(), minlength=256)[
                :CLASSES
            ]
            if attempt == 10 or accept(counts):
                break
            again += 1
        pixels += counts
    return shares(pixels), again / draws


def test_rejected_crops_are_those_of_a_simulation(table: LocalTable, scenes: NDArray[np.uint8]) -> None:
    expected, again = simulated(
        scenes, 48, lambda n: bool(np.count_nonzero(n) > 1 and n.max() / n.sum() < 0.75)
    )
    response = table.weights(crop=48, cat_max_ratio=0.75).to_dict()
    assert answered(table, crop=48, cat_max_ratio=0.75) == pytest.approx(expected, rel=0.08)
    assert response["approximation"]["redrawn"] == pytest.approx(again, rel=0.15)
    assert (response["exact"], response["approximation"]["grid"]) == (False, "8x8")
    assert np.abs(answered(table, crop=48) / expected - 1).max() > 0.15


def test_resizing_before_the_crop_averages_over_the_scales(
    table: LocalTable, scenes: NDArray[np.uint8]
) -> None:
    # At scale 0.5 a crop of 60 covers what one of 120 covers in the original.
    assert answered(table, crop="60x40", scale="0.5") == pytest.approx(
        answered(table, crop="120x80"), rel=0.03
    )
    pixels = np.zeros(CLASSES)
    for scale in np.linspace(0.5, 2, 25):
        height, width = round(HEIGHT * scale), round(WIDTH * scale)
        rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
        factor = np.outer(inclusion(height, 48), inclusion(width, 48))
        resized = scenes[:, rows][:, :, columns]
        pixels += [(factor * (resized == c)).sum() for c in range(CLASSES)]
    assert answered(table, crop=48, scale="0.5:2") == pytest.approx(shares(pixels), rel=0.04)


@pytest.mark.parametrize("params", [{}, {"method": "median_freq"}, {"sampler": "rare_class"}])
def test_a_crop_larger_than_every_image_changes_nothing(table: LocalTable, params: dict[str, Any]) -> None:
    without, cropped = table.weights(**params), table.weights(**params, crop=1000)
    assert cropped.to_list() == without.to_list()
    assert [row["pixels"] for row in cropped.classes] == [row["pixels"] for row in without.classes]


def test_presence_is_the_probability_that_a_class_occurs_in_a_crop(
    table: LocalTable, scenes: NDArray[np.uint8]
) -> None:
    crop, positions = 64, [(top, left) for top in range(0, 57, 7) for left in range(0, 97, 8)]
    occurs = np.mean(
        [
            [(labels[top : top + crop, left : left + crop] == c).any() for c in range(3)]
            for labels in scenes
            for top, left in positions
        ],
        axis=0,
    )
    images = [row["images"] for row in table.weights(method="median_freq", crop=crop).classes]
    assert np.array(images[:3]) / len(scenes) == pytest.approx(occurs, abs=0.12)


def test_images_of_all_sizes_count_by_their_crops_not_by_their_sizes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.ones((100, 100), np.uint8)).save(tmp_path / "small.png")
    table = statsvc.scan(tmp_path, grid="4x4")
    assert answered(table) == pytest.approx([16 / 17, 1 / 17])
    assert answered(table, crop=100) == pytest.approx([0.5, 0.5])


def test_whole_images_warn_where_crops_would_change_the_weights(tmp_path: Path) -> None:
    labels = np.zeros((600, 600), np.uint8)
    labels[:20] = 1
    Image.fromarray(labels).save(tmp_path / "a.png")
    table = statsvc.scan(tmp_path, grid="8x8")
    (warning,) = (w for w in table.weights().warnings if w["code"] == "crop_matters")
    assert "512x512" in warning["message"]
    assert not [w for w in table.weights(crop=512).warnings if w["code"] == "crop_matters"]
    assert not statsvc.scan(tmp_path).weights().warnings


@pytest.mark.skipif(not CAMVID.exists(), reason="CamVid is not available next to the clone")
@pytest.mark.parametrize(("grid", "error"), [("8x8", 0.02), ("16x16", 0.01)])
def test_shares_of_camvid_under_crops_are_those_of_the_pixels(grid: str, error: float) -> None:
    images = [np.asarray(Image.open(path)) for path in sorted((CAMVID / "val").glob("*.png"))]
    val = statsvc.scan(CAMVID / "val", grid=grid, ignore_index=11)
    for crop in (128, 256):
        weight = np.outer(inclusion(360, crop), inclusion(480, crop)).reshape(-1)
        expected = shares(sum(np.bincount(image.reshape(-1), weight, 12)[:11] for image in images))
        assert answered(val, crop=f"{crop}x{crop}") == pytest.approx(expected, rel=error)


def test_a_table_without_a_grid_says_how_to_get_one(tmp_path: Path) -> None:
    Image.fromarray(scene(0)).save(tmp_path / "a.png")
    with pytest.raises(Unanswerable, match=r"counted without a grid.*grid="):
        statsvc.scan(tmp_path).weights(crop=64)
    np.save(tmp_path / "volume.npy", np.zeros((4, 8, 8), np.uint8))
    table = statsvc.scan(tmp_path, pattern="*.npy", grid="8x8")
    with pytest.raises(Unanswerable, match=r"volume\.npy is not an image"):
        table.weights(crop=4)


def test_parameters_of_crops_are_checked_and_part_of_the_canonical_form() -> None:
    spec = WeightSpec.from_params({"crop": "512x1024", "scale": "0.5:2", "cat_max_ratio": "0.75"}).to_dict()
    assert (spec["crop"], spec["scale"], spec["cat_max_ratio"]) == ([512, 1024], [0.5, 2.0], 0.75)
    assert WeightSpec.from_params(spec).to_dict() == spec
    assert WeightSpec.from_params({"crop": 256}).to_dict()["crop"] == [256, 256]
    assert "crop" not in WeightSpec().to_dict()
    for params, text in (
        ({"scale": "0.5:2"}, "add crop=HxW"),
        ({"crop": "0x5"}, "expected height x width"),
        ({"crop": "5x5x5"}, "expected height x width"),
        ({"crop": 64, "scale": "2:1"}, "expected lo:hi"),
        ({"crop": 64, "cat_max_ratio": 0}, "out of range"),
        ({"crop": 64, "method": "effective_num"}, "depends on the amount"),
    ):
        with pytest.raises(InvalidParameter, match=text):
            WeightSpec.from_params(params)
