"""The command line as a user runs it: real processes, real files, counts checked against Pillow and NumPy."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from statsvc.local.demo import CLASS_NAMES, make_demo
from support.commands import grey, scanned, served, settle, statsvc, waited_for, without_end
from support.damage import bad_files

CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"
PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "published.json").read_text())


def counted_by_pillow(folder: Path) -> dict[int, int]:
    total = np.zeros(256, np.int64)
    for file in folder.rglob("*.png"):
        total += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
    return {int(raw_id): int(total[raw_id]) for raw_id in np.flatnonzero(total)}


def pixels_of(answer: dict[str, Any]) -> dict[int, int]:
    return {row["id"]: row["pixels"] for row in answer["classes"] if row["pixels"]}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_demo(tmp_path_factory.mktemp("labels") / "street", images=24, size=(128, 64))
    settle(folder)
    return folder


def test_a_scan_counts_exactly_and_a_second_one_counts_nothing(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    first = scanned(street, *home, "--class-names", ",".join(CLASS_NAMES))
    expected = counted_by_pillow(street)
    expected.pop(255)
    assert pixels_of(first["weights"]) == expected
    assert first["weights"]["classes"][0]["name"] == "sky"
    assert first["scan"]["counted"] == 24

    again = scanned(street, *home)
    assert (again["scan"]["counted"], again["scan"]["reused"]) == (0, 24)
    assert again["weights"]["version"] == 1

    table = statsvc("scan", street, *home).stdout
    for part in ("sky", "bicyclist", "weight", "share", "█"):
        assert part in table


def test_only_what_changed_is_counted_and_a_server_tells_within_a_second(
    street: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    for file in street.rglob("*.png"):
        (labels / file.parent.name).mkdir(parents=True, exist_ok=True)
        (labels / file.parent.name / file.name).write_bytes(file.read_bytes())
    home = tmp_path / "home"
    scanned(labels, "--name", "street", "--home", home)
    with served(home, "--no-runner") as (url, _):
        assert httpx2.get(url + "/weights").json()["version"] == 1
        changed = next(iter(sorted(labels.rglob("*.png"))))
        changed.write_bytes(grey(3, (64, 128)))
        second = scanned(labels, "--home", home)
        published = time.monotonic()
        assert second["scan"]["counted"] == 1
        waited_for(lambda: httpx2.get(url + "/weights").json()["version"] == 2, 1.0)
        assert time.monotonic() - published < 1.0
        assert pixels_of(httpx2.get(url + "/weights?ignore_index=none&num_classes=256").json()) == (
            counted_by_pillow(labels)
        )


@pytest.mark.skipif(not CAMVID.exists(), reason="needs the CamVid label maps in ../shared/data")
def test_camvid_gives_the_published_counts_and_weights(tmp_path: Path) -> None:
    home = ("--home", tmp_path)
    first = scanned(CAMVID / "train", "--name", "camvid", *home)
    assert [row["pixels"] for row in first["weights"]["classes"]] == PUBLISHED["camvid_train"]["counts"]
    assert [row["images"] for row in first["weights"]["classes"]] == (
        PUBLISHED["camvid_train"]["images_with_class"]
    )
    answer = json.loads(
        statsvc(
            *("weights", "camvid", "--method", "median_freq"),
            *("--normalize", "none", "--num-classes", "12", *home),
        ).stdout
    )
    assert [round(weight, 9) for weight in answer["weights"]] == PUBLISHED["camvid_train"]["median_freq"]
    assert scanned(CAMVID / "train", *home)["scan"]["counted"] == 0


def test_published_cityscapes_counts_give_the_published_erfnet_weights(tmp_path: Path) -> None:
    table = tmp_path / "counts.json"
    table.write_text(json.dumps(PUBLISHED["cityscapes_fine_train"]["counts_by_labelId"]))
    home = ("--home", tmp_path / "home")
    statsvc("import", table, "--name", "cityscapes", "--class-map", "cityscapes", *home)
    output = statsvc("weights", "--recipe", "erfnet-decoder", "--format", "csv", *home).stdout
    rows = list(csv.DictReader(io.StringIO(output)))
    assert rows[0]["name"] == "road"
    expected = PUBLISHED["cityscapes_fine_train"]["erfnet_decoder"]["weights"]
    np.testing.assert_allclose([float(row["weight"]) for row in rows], expected, rtol=6e-4)
    refused = statsvc("weights", "--method", "median_freq", *home, code=1)
    assert "images" in refused.stderr


def test_weights_are_written_as_npy_csv_and_json(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    expected = scanned(street, *home)["weights"]["weights"]
    for suffix in ("npy", "csv", "json"):
        statsvc("weights", "-o", tmp_path / f"w.{suffix}", *home)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), expected)
    assert json.loads((tmp_path / "w.json").read_text())["weights"] == expected
    with (tmp_path / "w.csv").open() as file:
        assert [float(row["weight"]) for row in csv.DictReader(file)] == expected
    assert "npy" in statsvc("weights", "-o", tmp_path / "w.txt", *home, code=2).stderr


def test_bad_label_maps_are_named_everywhere_and_the_rest_is_counted(street: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    good = sorted(street.rglob("*.png"))
    for number, file in enumerate(good):
        (labels / f"good_{number:02d}.png").write_bytes(file.read_bytes())
    bad = bad_files()
    bad["huge.png"] = (grey(1, (400, 400)), "max_pixels")
    for name, (data, _word) in bad.items():
        (labels / name).write_bytes(data)
    home = tmp_path / "home"
    done = statsvc(
        *("scan", labels, "--home", home, "--name", "mixed", "--pattern", "*", "--max-pixels", 100_000),
        "--json",
        code=1,
    )
    result = json.loads(done.stdout)
    assert result["scan"]["failed"] == result["weights"]["failed"] == len(bad)
    assert result["weights"]["images"] == len(good)
    expected = counted_by_pillow(street)
    assert pixels_of(result["weights"]) == {key: value for key, value in expected.items() if key != 255}
    shown = statsvc("datasets", "mixed", "--home", home).stdout
    with served(home, "--no-runner") as (url, _):
        dataset = httpx2.get(url + "/datasets/mixed").json()
        weights = httpx2.get(url + "/weights").json()
        job_id = json.loads(statsvc("jobs", "--json", "--home", home).stdout)[0]["id"]
        job = httpx2.get(f"{url}/jobs/{job_id}").json()
    assert dataset["failed"] == weights["failed"] == job["failed"] == len(bad)
    warning = next(w["message"] for w in weights["warnings"] if w["code"] == "failed_samples")
    assert str(len(bad)) in warning
    assert any(name in warning for name in bad)
    for name, (_data, word) in bad.items():
        line = next(line for line in shown.splitlines() if line.startswith(f"  {name}: "))
        assert word in line
    listed = {failure["path"] for failure in dataset["failures"]}
    assert listed
    assert listed <= set(bad)


def test_a_scan_that_can_read_nothing_fails_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    (tmp_path / "labels" / "b.png").write_bytes(b"not an image at all")
    done = statsvc("scan", tmp_path / "labels", "--home", tmp_path / "home", code=1)
    assert "none of the 2 label maps" in done.stderr
    assert "a.png" in done.stderr
    jobs = json.loads(statsvc("jobs", "--json", "--home", tmp_path / "home").stdout)
    assert jobs[0]["state"] == "failed"


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda folder: None, 1, ["does not exist"]),
        (lambda folder: folder.mkdir(), 1, ["empty"]),
        (lambda folder: (folder.mkdir(), (folder / "a.jpg").write_bytes(b"x")), 1, [".jpg", "JPEG"]),
    ],
    ids=["missing", "empty", "only JPEG"],
)
def test_a_source_without_label_maps_is_a_clear_error(
    make: Any, code: int, words: list[str], tmp_path: Path
) -> None:
    make(tmp_path / "labels")
    done = statsvc("scan", tmp_path / "labels", "--home", tmp_path / "home", code=code)
    assert str(tmp_path / "labels") in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_pattern_that_matches_nothing_and_several_kinds_say_what_there_is(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for frame in range(4):
        for kind in ("labelIds", "instanceIds"):
            image = grey(frame, (4, 4))
            (labels / f"aachen_{frame:06d}_gtFine_{kind}.png").write_bytes(image)
    home = ("--home", tmp_path / "home")
    none = statsvc("scan", labels, "--pattern", "*.tif", *home, code=1)
    assert "*.tif" in none.stderr
    assert "labelIds.png" in none.stderr
    several = statsvc("scan", labels, *home, code=2)
    assert "--pattern '*_labelIds.png'" in several.stderr
    assert "--pattern '*_instanceIds.png'" in several.stderr
    chosen = scanned(labels, "--pattern", "*_labelIds.png", *home)
    assert chosen["scan"]["total"] == 4


def test_an_unmounted_folder_leaves_the_dataset_as_it_was(street: Path, tmp_path: Path) -> None:
    labels, away = tmp_path / "labels", tmp_path / "away"
    labels.mkdir()
    for number, file in enumerate(sorted(street.rglob("*.png"))):
        (labels / f"{number}.png").write_bytes(file.read_bytes())
    home = ("--home", tmp_path / "home")
    before = scanned(labels, "--name", "disk", *home)["weights"]
    labels.rename(away)
    gone = statsvc("scan", "--name", "disk", *home, code=1)
    assert "mounted" in gone.stderr
    labels.mkdir()
    (labels / "0.png").write_bytes((away / "0.png").read_bytes())
    emptied = statsvc("scan", "--name", "disk", *home, code=1)
    assert "23 are missing" in emptied.stderr
    assert "--max-removed" in emptied.stderr
    after = json.loads(statsvc("weights", "disk", *home).stdout)
    assert after["weights"] == before["weights"]
    assert after["version"] == before["version"]
    meant = scanned("--name", "disk", "--max-removed", "1", *home)
    assert meant["scan"]["removed"] == 23
    assert meant["weights"]["images"] == 1


@pytest.fixture
def endless(tmp_path: Path) -> tuple[Path, Path, dict[int, int]]:
    """100 label maps, a folder among them whose counting takes too long to wait for, and the maps' counts."""
    maps = make_demo(tmp_path / "maps", images=100, size=(256, 128))
    expected = counted_by_pillow(maps)
    settle(maps)
    return maps, without_end(maps), {key: value for key, value in expected.items() if key != 255}


def parts_in(home: Path) -> list[Path]:
    return list(home.glob("versions/*/parts/*/*.part"))


def test_a_scan_killed_midway_goes_on_where_it_was(
    endless: tuple[Path, Path, dict[int, int]], tmp_path: Path
) -> None:
    folder, long, expected = endless
    home = tmp_path / "home"
    command = [sys.executable, "-m", "statsvc", "scan", str(folder), "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        waited_for(lambda: parts_in(home))
        first.send_signal(signal.SIGKILL)
    shutil.rmtree(long)
    started = time.monotonic()
    result = scanned(folder, "--home", home)
    assert result["scan"]["recovered"] > 0
    assert result["scan"]["counted"] == 100
    assert pixels_of(result["weights"]) == expected
    assert result["weights"]["images"] == 100
    assert time.monotonic() - started < 60
    assert not parts_in(home)
    [job] = json.loads(statsvc("jobs", "--json", "--home", home).stdout)
    assert (job["state"], job["attempt"], job["version"]) == ("succeeded", 2, 1)


def test_a_runner_killed_midway_is_started_again_and_finishes(
    endless: tuple[Path, Path, dict[int, int]], tmp_path: Path
) -> None:
    folder, long, expected = endless
    home = tmp_path / "home"
    with served(home, "--root", folder) as (url, process):
        made = httpx2.post(url + "/datasets", json={"name": "many", "source": str(folder)})
        assert made.status_code == 201, made.text
        waited_for(lambda: parts_in(home))
        [runner] = children_of(process.pid)
        os.kill(runner, signal.SIGKILL)
        shutil.rmtree(long)
        answer = waited_for(lambda: weights_of(url, "many"), 90)
        job = json.loads(statsvc("jobs", "--json", "--home", home).stdout)[-1]
    assert pixels_of(answer) == expected
    assert answer["images"] == 100
    assert job["state"] == "succeeded"
    assert job["attempt"] == 2
    assert job["progress"]["recovered"] > 0


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def weights_of(url: str, name: str) -> dict[str, Any] | None:
    response = httpx2.get(url + "/weights", params={"dataset": name}, timeout=10)
    return response.json() if response.status_code == 200 else None


def test_the_server_refuses_other_addresses_and_taken_ports(tmp_path: Path) -> None:
    refused = statsvc("serve", "--host", "0.0.0.0", "--home", tmp_path, code=2)
    assert "loopback" in refused.stderr
    assert "ssh -L" in refused.stderr
    with served(tmp_path, "--no-runner") as (url, _):
        port = url.rpartition(":")[2]
        taken = statsvc("serve", "--port", port, "--home", tmp_path, "--no-runner", code=1)
    assert "in use" in taken.stderr


def test_the_runner_ends_with_its_server(tmp_path: Path) -> None:
    with served(tmp_path) as (_, process):
        [runner] = waited_for(lambda: children_of(process.pid))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        waited_for(lambda: not Path(f"/proc/{runner}").exists())


def test_usage_errors_name_the_nearest_and_end_with_2(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    assert "weights" in statsvc("wieghts", code=2).stderr
    assert "--method" in statsvc("weights", "--metod", "enet", code=2).stderr
    assert "dataset" in statsvc("weights", *home, code=1).stderr
    scanned(street, "--name", "street", *home)
    assert "street" in statsvc("weights", "stret", *home, code=2).stderr
    assert "sqrt_inv_freq" in statsvc("weights", "--method", "sqrt_inv", *home, code=2).stderr
    assert "alpha" in statsvc("weights", "--alpha", "2", *home, code=2).stderr
    other = tmp_path / "other"
    other.mkdir()
    assert str(street) in statsvc("scan", other, "--name", "street", *home, code=1).stderr


def test_deleting_a_dataset_never_gives_its_numbers_out_again(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    assert scanned(street, "--name", "street", *home)["weights"]["version"] == 1
    statsvc("datasets", "street", "--delete", *home)
    assert scanned(street, "--name", "street", *home)["weights"]["version"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"7": 1, "7": 2}', ["twice"]),
        ('{"0": 5, " 0": 7}', ["id 0 occurs twice"]),
        ('{"07": 5, "7": 7}', ["id 7 occurs twice"]),
        ("id,pixels\n7,1\n07,2\n", ["line 3", "id 7 occurs twice"]),
        ('{"1_0": 5}', ["1_0"]),
        ('{"7": ' + "9" * 5000 + "}", ["cannot be parsed"]),
        ("[" * 100_000, ["cannot be parsed"]),
        ("id,pixels\n" + "9" * 200_000 + ",1\n", ["line 2"]),
        ('{"7": 0, "8": 0}', ["no counts above 0"]),
        ("id,pixels\n7,0\n", ["no counts above 0"]),
        (json.dumps({str(raw): 1 for raw in range(200_000)}), ["more than 4096 different ids"]),
        ('{"7": -1}', ["-1"]),
        ('{"seven": 1}', ["seven"]),
        ('{"7": 0.5}', ["0.5"]),
        ("{", ["JSON"]),
        ("a,b\n1,2\n", ["id,pixels"]),
        ("id,pixels\n1,x\n", ["line 2"]),
        ("", ["id,pixels"]),
    ],
)
def test_a_table_that_cannot_be_imported_says_where(text: str, words: list[str], tmp_path: Path) -> None:
    table = tmp_path / "counts.txt"
    table.write_text(text)
    done = statsvc("import", table, "--name", "x", "--home", tmp_path / "home", code=2)
    assert str(table) in done.stderr
    for word in words:
        assert word in done.stderr
    assert statsvc("datasets", "--home", tmp_path / "home").stdout == ""


def test_imported_counts_of_ignored_ids_only_are_kept_and_said_to_give_no_weights(tmp_path: Path) -> None:
    table = tmp_path / "counts.json"
    table.write_text('{"255": 5}')
    home = ("--home", tmp_path / "home")
    assert "no weights:" in statsvc("import", table, "--name", "x", *home).stderr
    assert json.loads(statsvc("datasets", "--json", *home).stdout)[0]["pixels"] == 5


def test_imported_image_counts_answer_methods_over_images(tmp_path: Path) -> None:
    table = tmp_path / "counts.csv"
    table.write_text("id,pixels,images\n0,900,10\n1,100,5\n")
    home = ("--home", tmp_path / "home")
    statsvc("import", table, "--name", "x", *home)
    answer = json.loads(
        statsvc(
            *("weights", "--method", "effective_num", "--unit", "images", "--beta", "0.9"),
            *("--normalize", "none", *home),
        ).stdout
    )
    expected = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**5)]
    np.testing.assert_allclose(answer["weights"], expected, rtol=1e-12)
