"""The demo label maps."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.errors import InvalidParameter
from statsvc.local.demo import CLASS_NAMES, VOID, make_demo, street_scene


def frames(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_the_frames_are_8_bit_grayscale_pngs_of_the_requested_size(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", images=10, size=(96, 48))
    assert list(frames(tmp_path / "demo")) == [
        *(f"train/frame_{number:06}.png" for number in (1, 2, 3, 4, 6, 7, 8, 9)),
        *(f"val/frame_{number:06}.png" for number in (5, 10)),
    ]
    for path in (tmp_path / "demo").rglob("*.png"):
        with Image.open(path) as image:
            assert (image.mode, image.size, image.format) == ("L", (96, 48), "PNG")


def test_another_process_creates_the_same_files(tmp_path: Path) -> None:
    make_demo(tmp_path / "here", images=6, size=(64, 40), seed=3)
    code = "import sys, statsvc.local.demo as d; d.make_demo(sys.argv[1], images=6, size=(64, 40), seed=3)"
    root = Path(statsvc.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=root, check=True)
    assert frames(tmp_path / "here") == frames(tmp_path / "there")


def test_a_frame_depends_on_its_number_and_the_seed_but_not_on_the_number_of_frames(tmp_path: Path) -> None:
    few = frames(make_demo(tmp_path / "few", images=3, size=(64, 40)))
    many = frames(make_demo(tmp_path / "many", images=4, size=(64, 40)))
    other = frames(make_demo(tmp_path / "other", images=3, size=(64, 40), seed=1))
    assert few.items() <= many.items()
    assert not set(few.values()) & set(other.values())
    digests = {hashlib.sha256(data).hexdigest() for data in many.values()}
    assert len(digests) == 4


def test_every_class_occurs_and_small_objects_are_rare() -> None:
    scenes = [street_scene(number) for number in range(1, 241)]
    pixels = np.bincount(np.concatenate([scene.ravel() for scene in scenes]), minlength=256)
    share = dict(zip(CLASS_NAMES, pixels / pixels.sum(), strict=False))
    assert np.flatnonzero(pixels).tolist() == [*range(len(CLASS_NAMES)), VOID]
    assert min(share["road"], share["building"], share["sky"]) > 0.1
    assert 0 < share["traffic light"] < share["bicyclist"] < share["pedestrian"] < share["car"] < 0.1
    with_bicyclist = sum((scene == CLASS_NAMES.index("bicyclist")).any() for scene in scenes)
    assert 20 < with_bicyclist < 100


def test_the_border_of_a_scene_is_ignored() -> None:
    scene = street_scene(1, (2048, 1024))
    assert scene.shape == (1024, 2048)
    assert scene.dtype == np.uint8
    for edge in (scene[:8], scene[-8:], scene[:, :8], scene[:, -8:]):
        assert (edge == VOID).all()
    assert (scene[8:-8, 8:-8] != VOID).all()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 200), (400, 32)])
def test_a_scene_of_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    for number in range(1, 60):
        scene = street_scene(number, size)
        assert scene.shape == (size[1], size[0])
        assert set(np.unique(scene)) <= {*range(len(CLASS_NAMES)), VOID}


def test_a_second_run_does_not_change_the_files(tmp_path: Path) -> None:
    folder = make_demo(tmp_path / "demo", images=5, size=(64, 40))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    make_demo(folder, images=5, size=(64, 40))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


def test_an_interrupted_run_is_completed(tmp_path: Path) -> None:
    def stop(done: int, images: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole = frames(make_demo(tmp_path / "whole", images=6, size=(64, 40)))
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "cut", images=6, size=(64, 40), progress=stop)
    assert len(frames(tmp_path / "cut")) == 3
    assert frames(make_demo(tmp_path / "cut", images=6, size=(64, 40))) == whole


def test_another_demo_replaces_only_the_frames(tmp_path: Path) -> None:
    folder = make_demo(tmp_path / "demo", images=12, size=(64, 40))
    notes = folder / "train" / "notes.txt"
    notes.write_text("mine")
    make_demo(folder, images=4, size=(64, 40), seed=7)
    assert frames(folder) == frames(make_demo(tmp_path / "fresh", images=4, size=(64, 40), seed=7))
    assert notes.read_text() == "mine"


def test_a_folder_with_other_contents_is_rejected_and_not_changed(tmp_path: Path) -> None:
    frame = tmp_path / "labels" / "train" / "frame_000001.png"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"mine")
    with pytest.raises(InvalidParameter, match=r"labels is not empty.*new or empty"):
        make_demo(tmp_path / "labels")
    assert frame.read_bytes() == b"mine"
    with pytest.raises(InvalidParameter, match="is a file"):
        make_demo(frame)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert len(frames(make_demo(tmp_path, images=2, size=(64, 40)))) == 2


@pytest.mark.parametrize(("images", "size", "parameter"), [(0, (64, 40), "images"), (1, (16, 40), "size")])
def test_impossible_requests_are_rejected(
    tmp_path: Path, images: int, size: tuple[int, int], parameter: str
) -> None:
    with pytest.raises(InvalidParameter, match=parameter):
        make_demo(tmp_path / "demo", images=images, size=size)
    assert not (tmp_path / "demo").exists()


def test_the_progress_callback_counts_every_frame(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_demo(tmp_path / "demo", images=3, size=(64, 40), progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
