"""Patches that contain a class, and the sampler that draws windows around them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import statsvc
from statsvc.api.app import build_app
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.store import home as homes
from support.commands import statsvc as command
from support.expected import CAMVID
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc.local.scan import LocalTable

KITS19 = CAMVID.parent / "kits19"

SIZES = ((96, 128), (130, 77), (40, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("patches")
    random = np.random.default_rng(0)
    for number in range(12):
        height, width = SIZES[number % len(SIZES)]
        labels = np.zeros((height, width), np.uint8)
        labels[height // 2 :] = 1
        if number % 4 == 0:
            top, left = random.integers(0, height - 8), random.integers(0, width - 8)
            labels[top : top + 6, left : left + 7] = 2
        Image.fromarray(labels).save(root / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> LocalTable:
    return statsvc.scan(folder, grid="8x8", class_names=["sky", "road", "person"])


def labels_of(folder: Path) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def paths_of(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.png"))]


def sampler(folder: Path, table: LocalTable, **options: Any) -> Any:
    from statsvc.samplers import PatchSampler

    return PatchSampler(paths_of(folder), table, **{"crop": (32, 48), "num_samples": 600, **options})


def test_patches_are_the_tiles_with_the_class_most_pixels_first(folder: Path, table: LocalTable) -> None:
    patches = table.patches(2)
    images = dict(zip((path.name for path in sorted(folder.glob("*.png"))), labels_of(folder), strict=True))
    total = 0
    for path, values in zip(patches.paths, patches.values.tolist(), strict=True):
        front, top, left, depth, height, width, image_depth, image_height, image_width, pixels = values
        assert (front, depth, image_depth) == (0, 1, 1)
        assert images[path].shape == (image_height, image_width)
        assert (images[path][top : top + height, left : left + width] == 2).sum() == pixels > 0
        total += pixels
    assert total == sum((image == 2).sum() for image in images.values())
    assert patches.values[:, -1].tolist() == sorted(patches.values[:, -1].tolist(), reverse=True)
    assert (table.patches(2, min_pixels=10).values[:, -1] >= 10).all()
    assert (table.patches(2, most=3).values == patches.values[:3]).all()
    with pytest.raises(InvalidParameter, match="3 is not a class"):
        table.patches(3)


def test_every_window_lies_in_its_image_and_contains_the_class(folder: Path, table: LocalTable) -> None:
    images = labels_of(folder)
    drawn = list(sampler(folder, table, probabilities={"person": 1.0}))
    assert len(drawn) == 600
    for index, (top, left, height, width) in drawn:
        image = images[index]
        assert (height, width) == (min(32, image.shape[0]), min(48, image.shape[1]))
        assert 0 <= top <= image.shape[0] - height
        assert 0 <= left <= image.shape[1] - width
        assert (image[top : top + height, left : left + width] == 2).any()
    # Windows vary, and images are drawn in proportion to the pixels of the class.
    assert len({window for _, window in drawn}) > 50
    pixels = np.array([(image == 2).sum() for image in images])
    frequency = np.bincount([index for index, _ in drawn], minlength=len(images)) / len(drawn)
    assert frequency == pytest.approx(pixels / pixels.sum(), abs=0.08)


def test_rare_classes_are_drawn_more_often_and_probabilities_are_followed(
    folder: Path, table: LocalTable
) -> None:
    images = labels_of(folder)

    def with_person(drawn: list[Any]) -> float:
        crops = [images[i][t : t + h, left : left + w] for i, (t, left, h, w) in drawn]
        return float(np.mean([(patch == 2).any() for patch in crops]))

    assert with_person(list(sampler(folder, table))) > 0.9  # temperature 0.01: almost always the rarest class
    some = with_person(list(sampler(folder, table, probabilities={"person": 1, 0: 3})))
    assert 0.18 < some < 0.5
    with pytest.raises(InvalidParameter, match="'cat'"):
        sampler(folder, table, probabilities={"cat": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 32}, "crop: 32 must be"),
        ({"temperature": 0}, "temperature: must be a finite number above 0, not 0"),
        ({"temperature": -0.1}, "temperature: must be a finite number above 0, not -0.1"),
        ({"min_pixels": 0}, "min_pixels: must be an integer of at least 1, not 0"),
        ({"probabilities": {"person": "1"}}, "probabilities: 'person': '1' must be"),
        ({"probabilities": {"person": math.nan}}, "probabilities: 'person': nan must be"),
        ({"probabilities": {"person": 0}}, "probabilities: has no class with a number above 0"),
        ({"probabilities": {"person": 1, "sky": 1}, "min_pixels": 43}, "at least 43 pixels of person; leave"),
    ],
)
def test_an_argument_with_which_a_class_would_silently_not_be_drawn_is_an_error(
    folder: Path, table: LocalTable, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        sampler(folder, table, **options)


def test_classes_without_a_tile_in_the_paths_are_logged(
    folder: Path, table: LocalTable, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = list(sampler(folder, table, min_pixels=43, temperature=10))  # a person has 42 pixels
    assert len(drawn) == 600
    assert "no image of paths has a tile with at least 43 pixels of person" in caplog.text


def test_ranks_share_an_epoch_and_a_run_resumes_in_the_middle(folder: Path, table: LocalTable) -> None:
    whole = list(sampler(folder, table, num_samples=101))
    assert whole == list(sampler(folder, table, num_samples=101))
    assert whole != list(sampler(folder, table, num_samples=101, seed=1))
    ranks = [list(sampler(folder, table, num_samples=101, rank=rank, num_replicas=2)) for rank in (0, 1)]
    assert [len(part) for part in ranks] == [51, 51]
    assert [item for pair in zip(*ranks, strict=True) for item in pair][:101] == whole

    interrupted = sampler(folder, table, num_samples=101)
    iterator = iter(interrupted)
    first = [next(iterator) for _ in range(40)]
    resumed = sampler(folder, table, num_samples=101)
    resumed.load_state_dict(interrupted.state_dict())
    assert first + list(resumed) == whole
    other = sampler(folder, table, num_samples=101, crop=(16, 16))
    with pytest.raises(InvalidParameter, match="digest"):
        other.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(1)
    assert Counter(resumed) != Counter(whole)


def test_images_are_cropped_in_every_form(folder: Path) -> None:
    import torch

    from statsvc.samplers import crop

    array = np.arange(60 * 50 * 3).reshape(60, 50, 3).astype(np.uint8)
    window = (7, 11, 20, 30)
    expected = array[7:27, 11:41]
    assert (crop(array, window) == expected).all()
    assert (np.asarray(crop(Image.fromarray(array), window)) == expected).all()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert (crop(tensor, window).permute(1, 2, 0).numpy() == expected).all()


def test_the_api_pages_the_patches_of_a_scan(folder: Path, table: LocalTable, tmp_path: Path) -> None:
    for name, options in (("plain", ()), ("tiled", ("--grid", "8x8"))):
        command("scan", folder, "--name", name, *options, "--home", tmp_path)
    url = "/datasets/tiled/patches?class_id=2"
    with TestClient(build_app(homes.resolve(str(tmp_path))), base_url="http://127.0.0.1") as client:
        whole = client.get(url).json()
        assert [row["path"] for row in whole["patches"]] == list(table.patches(2).paths)
        assert [row["pixels"] for row in whole["patches"]] == table.patches(2).values[:, -1].tolist()
        rows: list[Any] = []
        after: int | None = 0
        while after is not None:
            page = client.get(f"{url}&limit=5&after={after}").json()
            rows += page["patches"]
            after = page["next"]
        assert rows == whole["patches"]
        etag = {"If-None-Match": client.get(url).headers["etag"]}
        assert client.get(url, headers=etag).status_code == 304
        assert client.get("/datasets/tiled/patches").status_code == 422
        assert client.get("/datasets/tiled/patches?class_id=7").status_code == 422
        assert "--grid 8x8" in client.get("/datasets/plain/patches?class_id=2").json()["detail"]
    with pytest.raises(Unanswerable, match="without a grid"):
        statsvc.scan(folder).patches(2)


def volume(seed: int) -> NDArray[np.uint8]:
    """Return labels [24, 40, 36] with a few voxels of class 2."""
    random = np.random.default_rng(seed)
    labels = np.zeros((24, 40, 36), np.uint8)
    labels[:, 20:] = 1
    front, top, left = (int(random.integers(0, length - 3)) for length in labels.shape)
    labels[front : front + 2, top : top + 3, left : left + 2] = 2
    return labels


def check_windows(drawn: list[Any], volumes: list[NDArray[np.uint8]], crop_size: tuple[int, ...]) -> None:
    from statsvc.samplers import crop

    assert len({index for index, _ in drawn}) == len(volumes)
    for index, window in drawn:
        assert window[3:] == crop_size
        part = crop(volumes[index], window)
        assert part.shape == crop_size  # so it lies inside
        assert (part == 2).any()


def save_tiff(path: Path, labels: NDArray[np.uint8]) -> None:
    import tifffile

    tifffile.imwrite(path, labels, metadata={"axes": "ZYX"}, tile=(16, 16), compression="deflate")


def save_nifti(path: Path, labels: NDArray[np.uint8]) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), path)


def save_zarr(path: Path, labels: NDArray[np.uint8]) -> None:
    import zarr

    zarr.create_array(str(path), data=labels, chunks=(6, 10, 12))


def load_zarr(path: Path) -> NDArray[np.uint8]:
    import zarr

    return np.asarray(zarr.open_array(str(path), mode="r")[...])


@pytest.mark.parametrize(
    ("suffix", "save", "options"),
    [
        (".tif", save_tiff, {"grid": "4x4x4"}),
        (".nii.gz", save_nifti, {"grid": "4x4x4"}),
        (".zarr", save_zarr, {"grid": "4x4x4"}),
        (".zarr", save_zarr, {"rows": "chunk"}),
        (".zarr", save_zarr, {"rows": "chunk", "grid": "2x2x2"}),
        (".zarr", save_zarr, {"rows": "index", "grid": "4x4"}),
    ],
    ids=["tiff", "nifti", "zarr", "chunks", "tiles of chunks", "slices"],
)
def test_windows_of_volumes_contain_the_class_and_no_array_is_opened(
    tmp_path: Path, suffix: str, save: Any, options: dict[str, Any]
) -> None:
    from statsvc.samplers import PatchSampler

    volumes = [volume(seed) for seed in range(3)]
    for number, labels in enumerate(volumes):
        (tmp_path / "labels").mkdir(exist_ok=True)
        save(tmp_path / "labels" / f"{number}{suffix}", labels)
    paths = sorted(str(path) for path in (tmp_path / "labels").iterdir())
    table = statsvc.scan(tmp_path / "labels", **options)
    (tmp_path / "labels").rename(tmp_path / "away")  # a sampler that opens an array would fail
    patches = table.patches(2)
    assert patches.values[:, -1].sum() == sum((labels == 2).sum() for labels in volumes)
    for path, values in zip(patches.paths, patches.values.tolist(), strict=True):
        labels = volumes[int(path.partition(".")[0])]
        region = tuple(slice(a, a + n) for a, n in zip(values[:3], values[3:6], strict=True))
        assert (labels[region] == 2).sum() == values[-1]
        assert tuple(values[6:9]) == labels.shape
    crop_size = (1, 10, 9) if options.get("rows") == "index" else (8, 12, 14)
    sampler = PatchSampler(paths, table, crop=crop_size, probabilities={2: 1}, num_samples=90)
    check_windows(list(sampler), volumes, crop_size)
    with pytest.raises(InvalidParameter, match="depth"):
        PatchSampler(paths, table, crop=(12, 14), probabilities={2: 1})


def test_stored_versions_keep_the_places_of_volumes_and_parts(tmp_path: Path) -> None:
    volumes = [volume(seed) for seed in range(3)]
    labels = tmp_path / "labels"
    for number, array in enumerate(volumes[:2]):
        save_zarr(labels / f"{number}.zarr", array)
    wait_until_stable(labels)
    for name, options in (
        ("parts", ("--rows", "chunk")),
        ("whole", ("--grid", "4x4x4")),
        ("flat", ("--grid", "4x4")),
    ):
        command("scan", labels, "--name", name, *options, "--home", tmp_path / "home")
    save_zarr(labels / "2.zarr", volumes[2])
    wait_until_stable(labels)
    home = homes.resolve(str(tmp_path / "home"))
    choices: dict[str, dict[str, Any]] = {"parts": {"rows": "chunk"}, "whole": {"grid": "4x4x4"}}
    for name, choice in choices.items():
        command("scan", "--name", name, "--home", tmp_path / "home")  # reuses the rows of two arrays
        command("verify", name, "--home", tmp_path / "home")
        expected = statsvc.scan(labels, **choice).patches(2)
        with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
            rows = client.get(f"/datasets/{name}/patches?class_id=2").json()["patches"]
            assert [row["path"] for row in rows] == list(expected.paths)
            keys = ["front", "top", "left", "depth", "height", "width"]
            keys += ["image_depth", "image_height", "image_width", "pixels"]
            assert [[row[key] for key in keys] for row in rows] == expected.values.tolist()
            # Weights under crops, and heat maps, are about images.
            assert client.get(f"/weights?dataset={name}&crop=8").status_code == 422
            assert client.get(f"/datasets/{name}/heatmap").status_code == 422
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        detail = client.get("/datasets/flat/patches?class_id=2").json()["detail"]
        assert "give the grid a depth" in detail


@pytest.mark.skipif(not CAMVID.exists(), reason="the label maps are not available next to the clone")
@pytest.mark.parametrize(
    ("source", "grid", "crop_size"),
    [(CAMVID / "val", "8x8", (64, 64)), (KITS19, "8x8x8", (96, 96, 96))],
    ids=["camvid", "kits19"],
)
def test_windows_of_real_data_contain_their_class_on_two_ranks_and_after_resuming(
    source: Path, grid: str, crop_size: tuple[int, ...]
) -> None:
    import nibabel

    from statsvc.samplers import PatchSampler, crop

    files = sorted(source.iterdir())[:3]
    table = statsvc.scan(source, pattern="{" + ",".join(path.name for path in files) + "}", grid=grid)
    paths = [str(path) for path in files]
    images = [
        np.asarray(Image.open(path)) if path.suffix == ".png" else np.asarray(nibabel.load(path).dataobj).T
        for path in files
    ]
    present = [row["id"] for row in table.weights("uniform").classes if not row.get("absent")]
    for class_id in present:
        arguments: dict[str, Any] = {"crop": crop_size, "probabilities": {class_id: 1}, "num_samples": 60}
        ranks = []
        for rank in (0, 1):
            interrupted = PatchSampler(paths, table, **arguments, rank=rank, num_replicas=2)
            iterator = iter(interrupted)
            first = [next(iterator) for _ in range(11)]
            resumed = PatchSampler(paths, table, **arguments, rank=rank, num_replicas=2)
            resumed.load_state_dict(interrupted.state_dict())
            ranks.append(first + list(resumed))
        drawn = [item for pair in zip(*ranks, strict=True) for item in pair]
        assert drawn == list(PatchSampler(paths, table, **arguments))
        assert all((crop(images[index], window) == class_id).any() for index, window in drawn)
