"""The experiment of the documentation continues where it was interrupted, and crops what it says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module benchmarks/training.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("training")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Label maps of 64×64 pixels and features from which the classes can be learned."""
    labels, features = tmp_path / "labels", tmp_path / "features"
    features.mkdir()
    random = np.random.default_rng(0)
    for split, number, mirrors in (("train", 8, 2), ("val", 4, 1)):
        (labels / split).mkdir(parents=True)
        maps = random.integers(0, 12, (number, 4, 4), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        for index, label in enumerate(maps):
            Image.fromarray(label).save(labels / split / f"{index}.png")
        entries = np.stack([maps, maps[:, :, ::-1]], 1)[:, :mirrors].reshape(-1, 64, 64)
        for level, (channels, stride) in enumerate(((24, 4), (40, 8), (112, 16), (320, 32))):
            points = entries[:, stride // 2 :: stride, stride // 2 :: stride]
            found = random.normal(0, 0.1, (len(entries), channels, *points.shape[1:]))
            found[:, :12] += np.eye(12)[points].transpose(0, 3, 1, 2)
            np.save(features / f"{split}_{level}.npy", found.astype(np.float16))
        np.save(features / f"{split}_labels.npy", maps)
    return labels, features


def test_finished_runs_are_kept_and_only_the_missing_ones_are_trained(
    training: ModuleType, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, features = folders
    settings = {"epochs": 30, "images_per_step": 4, "crop": [32, 32], "crops_per_step": 16}
    options: dict[str, Any] = {"features": features, "file": tmp_path / "data" / "runs.json"}
    variants = importlib.import_module("training_runs")
    runs = [(variants.CE, 0), (variants.CROPS["patch sampler"], 0)]

    def stored() -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = json.loads(options["file"].read_text())["runs"]
        return lines

    # No time is left after the first run.
    assert training.train_missing(runs, labels, settings=settings, minutes=0, **options) == 1
    (first,) = stored()
    assert first["loss"][-1] < 0.5 * first["loss"][0]
    assert len(first["iou"]) == len(first["recall"]) == 11
    assert np.nanmean(first["recall"]) > 0.5
    assert training.train_missing(runs, labels, settings=settings, **options) == 0
    assert first in stored()
    assert {run["sampler"] for run in stored()} == {None, "patches"}
    before = options["file"].stat().st_mtime_ns
    assert training.train_missing(runs, labels, settings=settings, **options) == 0
    assert options["file"].stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="Delete the file to start over"):
        training.train_missing(runs, labels, settings={**settings, "epochs": 3}, **options)


def test_a_crop_has_the_features_and_labels_of_its_window(
    training: ModuleType, folders: tuple[Path, Path]
) -> None:
    encoder = importlib.import_module("frozen_encoder")
    data = encoder.load(folders[1], "train")
    whole, whole_label = data.batch([3, 3], [False, True])
    # The window begins at column 32; in the mirror image it begins at 64 - 32 - 32 = 0.
    part, label = data.batch([3, 3], [False, True], [(16, 32, 32, 32)] * 2)
    for entry, column in enumerate((32, 0)):
        for level, cropped, stride in zip(whole[:3], part[:3], (4, 8, 16), strict=True):
            rows = slice(16 // stride, 48 // stride)
            columns = slice(column // stride, (column + 32) // stride)
            np.testing.assert_allclose(level[entry, :, rows, columns], cropped[entry], atol=1e-3)
        assert label[entry].equal(whole_label[entry, 4:12, column // 4 : column // 4 + 8])
    # A window that begins two pixels later has the average of two neighbors at stride 4.
    (shifted, *_), _ = data.batch([3], [False], [(16, 30, 32, 32)])
    neighbors = (whole[0][0, :, 4:12, 7:15] + whole[0][0, :, 4:12, 8:16]) / 2
    np.testing.assert_allclose(shifted[0], neighbors, atol=1e-3)
