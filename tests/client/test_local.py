"""`statsvc.scan`, against counts of NumPy."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.classes.class_maps import ClassMap
from statsvc.errors import (
    AmbiguousSource,
    InvalidParameter,
    NotFound,
    SourceError,
    StatsvcError,
    Unanswerable,
)
from support.permissions import without_root_privileges

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"


def write(folder: Path, labels: dict[str, NDArray[Any]]) -> Path:
    for name, label in labels.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
    return folder


def random_labels(count: int, ids: list[int], seed: int = 5) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return {
        f"{'train' if k % 3 else 'val'}/{k:04}.png": rng.choice(ids, size=(7, 11)).astype(np.uint8)
        for k in range(count)
    }


def test_every_pixel_is_counted_once(tmp_path: Path) -> None:
    labels = random_labels(100, [0, 1, 4, 255])
    table = statsvc.scan(write(tmp_path / "streets", labels))
    everything = np.concatenate([label.ravel() for label in labels.values()])
    ids, pixels = np.unique(everything, return_counts=True)
    totals = table.totals()
    assert totals.class_id.tolist() == ids.tolist()
    assert totals.pixels.tolist() == pixels.tolist()
    assert totals.images is not None
    assert totals.images.tolist() == [sum((label == i).any() for label in labels.values()) for i in ids]
    assert totals.samples == 100
    (block,) = table.blocks()
    assert list(block.path) == sorted(labels)
    for path, row in zip(block.path, block.counts, strict=True):
        assert row.tolist() == [int((labels[path] == i).sum()) for i in ids]


def test_one_scan_answers_any_number_of_requests(tmp_path: Path) -> None:
    folder = write(tmp_path / "streets", random_labels(20, [0, 1, 2]))
    table = statsvc.scan(folder, class_names=["road", "sky", "car"])
    n = table.totals().pixels
    for path in folder.rglob("*.png"):
        path.unlink()
    weights = table.weights(method="inverse_freq", normalize="none")
    np.testing.assert_allclose(weights.numpy(), n.sum() / (3 * n), rtol=1e-6)
    assert weights.dataset == "streets"
    assert weights.version is None
    assert [row["name"] for row in weights.classes] == ["road", "sky", "car"]
    assert table.weights(method="uniform").to_list() == [1, 1, 1]
    assert table.weights().method == "sqrt_inv_freq"


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_threads_does_not_change_the_result(tmp_path: Path, workers: int) -> None:
    folder = write(tmp_path / "streets", random_labels(60, [0, 1, 2]))
    one, many = statsvc.scan(folder, workers=1), statsvc.scan(folder, workers=workers)
    (first,), (second,) = one.blocks(), many.blocks()
    assert list(first.path) == list(second.path)
    np.testing.assert_array_equal(first.counts, second.counts)


def test_folders_become_splits(tmp_path: Path) -> None:
    labels = random_labels(30, [0, 1, 2])
    table = statsvc.scan(write(tmp_path / "streets", labels))
    train = np.concatenate([label.ravel() for path, label in labels.items() if path.startswith("train")])
    weights = table.weights(split="train", method="inverse_freq", normalize="none")
    np.testing.assert_allclose(weights.numpy(), train.size / (3 * np.bincount(train)), rtol=1e-6)
    assert "all_splits" in [warning["code"] for warning in table.weights().warnings]
    with pytest.raises(NotFound, match="its splits: train, val"):
        table.weights(split="trian")


def test_named_splits_replace_the_folders(tmp_path: Path) -> None:
    labels = random_labels(6, [0, 1])
    table = statsvc.scan(write(tmp_path / "streets", labels), splits={"custom": ["train/0001.png"]})
    assert table.weights(split="custom").to_dict()["images"] == 1
    with pytest.raises(NotFound):
        table.weights(split="train")


def test_the_number_of_classes_is_inferred_from_the_highest_counted_id(tmp_path: Path) -> None:
    folder = write(tmp_path / "streets", random_labels(10, [0, 3, 7, 255]))
    assert len(statsvc.scan(folder).weights()) == 8
    assert len(statsvc.scan(folder, ignore_index=[255, 7]).weights()) == 4
    assert len(statsvc.scan(folder, num_classes=5).weights()) == 5
    assert len(statsvc.scan(folder, ignore_index=[]).weights()) == 256
    assert len(statsvc.scan(folder, ignore_index=7, num_classes=256).weights()) == 256


def test_a_class_map_is_applied_and_names_its_classes(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 255, 255, 255]], np.uint8)
    folder = write(tmp_path / "masks", {"a.png": mask})
    from_name = statsvc.scan(folder, class_map="binary").weights(method="pos_weight")
    np.testing.assert_allclose(from_name.numpy(), [3 / 2, 2 / 3])

    file = tmp_path / "map.yaml"
    file.write_text("0: 1\n255: 0\n")
    from_file = statsvc.scan(folder, class_map=file).weights(method="pos_weight")
    np.testing.assert_allclose(from_file.numpy(), [2 / 3, 3 / 2])

    class_map = ClassMap("custom", ((0, 0), (255, 255)), ("ground",))
    assert [row["name"] for row in statsvc.scan(folder, class_map=class_map).weights().classes] == ["ground"]
    with pytest.raises(NotFound, match="binary"):
        statsvc.scan(folder, class_map="binray")


def test_unreadable_label_maps_are_reported_and_the_rest_is_counted(tmp_path: Path) -> None:
    labels = random_labels(20, [0, 1])
    folder = write(tmp_path / "streets", labels)
    (folder / "train" / "0001.png").write_bytes(b"")
    Image.new("RGB", (4, 4), "red").save(folder / "train" / "0002.png")
    table = statsvc.scan(folder)
    count, failures = table.failures()
    assert count == 2
    assert [path for path, _ in failures] == ["train/0001.png", "train/0002.png"]
    assert "is empty (0 bytes)" in failures[0][1]
    assert "color-coded" in failures[1][1]
    weights = table.weights()
    assert weights.to_dict()["failed"] == 2
    assert weights.to_dict()["images"] == 18
    assert weights.to_dict()["pixels"] == 18 * 77
    assert "train/0001.png" in weights.warnings[0]["message"]


def test_a_file_without_read_permission_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "streets", random_labels(3, [0, 1]))
    (folder / "train" / "0001.png").chmod(0)
    with without_root_privileges():
        count, [(path, reason)] = statsvc.scan(folder).failures()
    assert (count, path) == (1, "train/0001.png")
    assert "permission denied" in reason


def test_a_label_map_over_max_pixels_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "streets", random_labels(3, [0, 1]) | {"big.png": np.zeros((50, 50), np.uint8)})
    count, failures = statsvc.scan(folder, max_pixels=100).failures()
    assert (count, failures[0][0]) == (1, "big.png")
    assert "max_pixels" in failures[0][1]


def test_a_scan_without_readable_label_maps_raises_the_first_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"No label map .* could be read.* a\.png: .*is empty"):
        statsvc.scan(tmp_path)


def test_an_unusable_source_raises_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        statsvc.scan(tmp_path / "missing")
    with pytest.raises(SourceError, match="empty"):
        statsvc.scan(tmp_path)
    names = ("a_labelIds.png", "a_instanceIds.png", "b_labelIds.png", "b_instanceIds.png")
    write(tmp_path, {name: np.zeros((4, 4), np.uint8) for name in names})
    with pytest.raises(AmbiguousSource) as caught:
        statsvc.scan(tmp_path)
    assert len(caught.value.patterns) == 2
    assert statsvc.scan(tmp_path, pattern="*_labelIds.png").totals().samples == 2


def test_a_single_file_can_be_scanned(tmp_path: Path) -> None:
    write(tmp_path, random_labels(3, [0, 1]))
    assert statsvc.scan(tmp_path / "val" / "0000.png").totals().samples == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 2, "class_names": ["a", "b", "c"]}, "class_names"),
        ({"ignore_index": "many"}, "ignore_index"),
        ({"splits": {"a": 1}}, "splits"),
        ({"workers": 0}, "workers"),
    ],
)
def test_malformed_arguments_are_rejected(tmp_path: Path, arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidParameter, match=what):
        statsvc.scan(write(tmp_path, random_labels(3, [0, 1])), **arguments)


def test_instance_ids_are_rejected_with_advice(tmp_path: Path) -> None:
    ramp = np.arange(3000, dtype=np.uint16).reshape(50, 60)
    folder = write(tmp_path, {"a.png": ramp, "b.png": ramp + 3000})
    with pytest.raises(SourceError, match=r"(?s)looks like .* instance ids.*--rule value"):
        statsvc.scan(folder)
    with pytest.raises(Unanswerable, match="6000 different ids, from 0 to 5999"):
        statsvc.scan(folder, rule="value")


def test_the_progress_callback_ends_with_all_samples(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    statsvc.scan(write(tmp_path, random_labels(70, [0, 1])), progress=lambda *at: seen.append(at))
    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 2


def test_an_interrupted_scan_ends_its_threads(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = write(tmp_path, random_labels(200, [0, 1]))
    with pytest.raises(KeyboardInterrupt):
        statsvc.scan(folder, progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("statsvc-count")]


def test_max_pixels_has_the_same_default_as_a_job() -> None:
    from statsvc_workers.jobs.attempt import MAX_PIXELS

    assert inspect.signature(statsvc.scan).parameters["max_pixels"].default == MAX_PIXELS


def test_a_missing_extra_is_named_with_the_install_command(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['xxhash'] = None\n"
        "import statsvc\n"
        "try:\n"
        "    statsvc.scan('.')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    root = Path(statsvc.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "xxhash is not installed. Run: pip install 'statsvc[workers]'\n", done.stderr


def test_a_users_module_named_workers_does_not_break_a_scan(tmp_path: Path) -> None:
    write(tmp_path / "labels", random_labels(3, [0, 1]))
    (tmp_path / "workers.py").write_text("raise AssertionError('statsvc imported a module of the user')\n")
    (tmp_path / "train.py").write_text("import statsvc\nprint(len(statsvc.scan('labels').weights()))\n")
    # Installed, statsvc does not precede the script's folder on the path.
    search_path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{search_path}"}
    for command in (["train.py"], ["-m", "statsvc", "scan", "labels", "--json", "--workers", "1"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if command == ["train.py"]:
            assert done.stdout == "2\n"


def test_scanning_needs_neither_catalog_nor_dask(tmp_path: Path) -> None:
    write(tmp_path, random_labels(3, [0, 1]))
    code = (
        "import sys, statsvc\n"
        f"statsvc.scan({str(tmp_path)!r}).weights()\n"
        "print([name for name in ('dask', 'distributed', 'sqlalchemy', 'zarr', 'fastapi', 'torch') "
        "if name in sys.modules])"
    )
    root = Path(statsvc.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_unusable_paths_raise_statsvc_errors(tmp_path: Path) -> None:
    for location in (tmp_path / "no\nsuch", tmp_path / ("x" * 300)):
        with pytest.raises(StatsvcError):
            statsvc.scan(location)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs the CamVid label maps in ../shared/data")
def test_camvid_train_has_the_published_counts() -> None:
    table = statsvc.scan(CAMVID / "train", num_classes=12)
    assert table.totals().pixels.tolist() == [
        *(10682767, 14750079, 623349, 20076880, 2845085, 6166762),
        *(743859, 714595, 3719877, 405385, 184967, 2503995),
    ]
    assert table.totals().samples == 367
