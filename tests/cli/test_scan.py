"""`statsvc scan` as a user runs it: real processes and files, counts checked against Pillow and NumPy."""

from __future__ import annotations

import json
import re
import resource
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

from statsvc.local.demo import CLASS_NAMES, make_demo
from support.command_line import invoke
from support.commands import scan_json, serve, statsvc
from support.damage import damaged_files
from support.expected import CAMVID, PUBLISHED, checkpoints, counted_by_pillow, pixels_of
from support.label_maps import gray_png
from support.waiting import TIMEOUT, wait_for


def test_a_scan_counts_exactly_and_a_second_scan_counts_nothing(street: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    first = scan_json(street, *home, "--class-names", ",".join(CLASS_NAMES))
    expected = counted_by_pillow(street)
    expected.pop(255)
    assert pixels_of(first["weights"]) == expected
    assert first["weights"]["classes"][0]["name"] == "sky"
    assert first["scan"]["counted"] == 24

    again = scan_json(street, *home)
    assert (again["scan"]["counted"], again["scan"]["reused"]) == (0, 24)
    assert again["weights"]["version"] == 1

    table = statsvc("scan", street, *home).stdout
    for text in ("sky", "bicyclist", "weight", "share", "█"):
        assert text in table


def test_a_verbose_scan_says_what_it_lists_where_it_counts_and_what_it_writes(
    street: Path, tmp_path: Path
) -> None:
    arguments = ("-v", "scan", street, "--name", "street", "--home", tmp_path / "home")
    log = statsvc(*arguments).stderr
    listed = f"street: listed 24 samples in {street} with pattern *.png"
    assert f"{listed} and rule value: 0 unchanged, 0 removed" in log
    assert "counting 24 samples in up to " in log
    (written,) = re.findall("street: version 1 was written to (.*)", log)
    assert (Path(written) / "zarr.json").exists()
    assert f"{listed}: nothing has changed since version 1" in statsvc(*arguments).stderr


@pytest.mark.skipif(not CAMVID.exists(), reason="needs the CamVid label maps in ../shared/data")
def test_camvid_has_the_published_counts_and_weights(tmp_path: Path) -> None:
    home = ("--home", tmp_path)
    first = scan_json(CAMVID / "train", "--name", "camvid", *home)
    assert [row["pixels"] for row in first["weights"]["classes"]] == PUBLISHED["camvid_train"]["counts"]
    assert [row["images"] for row in first["weights"]["classes"]] == (
        PUBLISHED["camvid_train"]["images_with_class"]
    )
    answer = json.loads(
        invoke(
            *("weights", "camvid", "--method", "median_freq"),
            *("--normalize", "none", "--num-classes", "12", *home),
        ).stdout
    )
    assert [round(weight, 9) for weight in answer["weights"]] == PUBLISHED["camvid_train"]["median_freq"]
    assert scan_json(CAMVID / "train", *home)["scan"]["counted"] == 0


def test_unreadable_label_maps_are_reported_everywhere_and_the_rest_is_counted(
    street: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    good = sorted(street.rglob("*.png"))
    for number, file in enumerate(good):
        (labels / f"good_{number:02d}.png").write_bytes(file.read_bytes())
    bad = damaged_files()
    bad["huge.png"] = (gray_png(1, (400, 400)), "max_pixels")
    for name, (data, _word) in bad.items():
        (labels / name).write_bytes(data)
    home = tmp_path / "home"
    done = statsvc(
        *("scan", labels, "--home", home, "--name", "mixed", "--pattern", "*", "--max-pixels", "100000"),
        *("--rule", "value"),  # or an image among the label maps is reported before anything is counted
        "--json",
        code=1,
    )
    result = json.loads(done.stdout)
    assert result["scan"]["failed"] == result["weights"]["failed"] == len(bad)
    assert result["weights"]["images"] == len(good)
    expected = counted_by_pillow(street)
    assert pixels_of(result["weights"]) == {key: value for key, value in expected.items() if key != 255}
    shown = invoke("datasets", "mixed", "--home", home).stdout
    with serve(home, "--no-runner") as (url, _):
        dataset = httpx2.get(url + "/datasets/mixed").json()
        weights = httpx2.get(url + "/weights").json()
        job_id = json.loads(invoke("jobs", "--json", "--home", home).stdout)[0]["id"]
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


def test_a_scan_without_readable_label_maps_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    (tmp_path / "labels" / "b.png").write_bytes(b"not an image at all")
    done = statsvc("scan", tmp_path / "labels", "--home", tmp_path / "home", code=1)
    assert "none of the 2 label maps" in done.stderr.lower()
    assert "a.png" in done.stderr
    jobs = json.loads(invoke("jobs", "--json", "--home", tmp_path / "home").stdout)
    assert jobs[0]["state"] == "failed"


def test_a_scan_that_fails_because_of_damaged_files_names_them(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=12, size=(64, 32))
    home = ("--home", tmp_path / "home")
    scan_json(labels, *home)
    bad = sorted(labels.rglob("*.png"))[:5]
    for file in bad:
        file.write_bytes(b"")
    stderr = statsvc("scan", labels, *home, code=1).stderr
    assert "nothing was published" in stderr.lower()
    for file in bad:
        assert str(file.relative_to(labels)) in stderr
    newest = invoke("jobs", *home).stdout
    assert str(bad[0].relative_to(labels)) in newest  # HTTP clients see only the error of the job


@pytest.mark.parametrize(
    ("make", "code", "fragments"),
    [
        (lambda folder: None, 1, ["does not exist"]),
        (lambda folder: folder.mkdir(), 1, ["empty"]),
        (lambda folder: (folder.mkdir(), (folder / "a.jpg").write_bytes(b"x")), 1, [".jpg", "JPEG"]),
    ],
    ids=["missing", "empty", "only JPEG"],
)
def test_a_source_without_label_maps_is_a_clear_error(
    make: Any, code: int, fragments: list[str], tmp_path: Path
) -> None:
    make(tmp_path / "labels")
    done = invoke("scan", tmp_path / "labels", "--home", tmp_path / "home", code=code)
    assert str(tmp_path / "labels") in done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def test_errors_about_patterns_list_the_available_patterns(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for frame in range(4):
        for kind in ("labelIds", "instanceIds"):
            image = gray_png(frame, (4, 4))
            (labels / f"aachen_{frame:06d}_gtFine_{kind}.png").write_bytes(image)
    home = ("--home", tmp_path / "home")
    none = invoke("scan", labels, "--pattern", "*.tif", *home, code=1)
    assert "*.tif" in none.stderr
    assert "labelIds.png" in none.stderr
    several = invoke("scan", labels, *home, code=2)
    assert "--pattern '*_labelIds.png'" in several.stderr
    assert "--pattern '*_instanceIds.png'" in several.stderr
    chosen = scan_json(labels, "--pattern", "*_labelIds.png", *home)
    assert chosen["scan"]["total"] == 4


def test_an_unmounted_folder_does_not_change_the_dataset(street: Path, tmp_path: Path) -> None:
    labels, away = tmp_path / "labels", tmp_path / "away"
    labels.mkdir()
    for number, file in enumerate(sorted(street.rglob("*.png"))):
        (labels / f"{number}.png").write_bytes(file.read_bytes())
    home = ("--home", tmp_path / "home")
    before = scan_json(labels, "--name", "disk", *home)["weights"]
    labels.rename(away)
    gone = invoke("scan", "--name", "disk", *home, code=1)
    assert "mounted" in gone.stderr
    labels.mkdir()
    (labels / "0.png").write_bytes((away / "0.png").read_bytes())
    emptied = statsvc("scan", "--name", "disk", *home, code=1)
    assert "23 are missing" in emptied.stderr
    assert "--max-removed" in emptied.stderr
    after = json.loads(invoke("weights", "disk", *home).stdout)
    assert after["weights"] == before["weights"]
    assert after["version"] == before["version"]
    accepted = scan_json("--name", "disk", "--max-removed", "1", *home)
    assert accepted["scan"]["removed"] == 23
    assert accepted["weights"]["images"] == 1


def test_a_new_folder_that_is_scanned_twice_is_counted_once(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=24, size=(64, 32))
    home = ("--home", tmp_path / "home")
    assert scan_json(labels, *home)["scan"]["counted"] == 24
    stderr = statsvc("scan", labels, *home).stderr
    assert "0 counted, 24 unchanged; no new version" in stderr


def test_an_estimate_is_completed_by_the_next_scan_without_counting_twice(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=40, size=(64, 32))
    home = ("--home", tmp_path / "home")
    done = statsvc("scan", labels, "--samples", 10, "--json", *home)
    assert "10 counted" in done.stderr
    assert "an estimate from 10 of 40 label maps" in done.stderr
    first = json.loads(done.stdout)["weights"]
    assert (first["exact"], first["images"]) == (False, 10)
    assert first["estimate"] == {"images": 10, "of": 40, "confidence": 0.95}

    larger = scan_json("--name", "street", "--samples", 25, *home)
    assert (larger["scan"]["counted"], larger["scan"]["reused"]) == (15, 10)
    smaller = scan_json("--name", "street", "--samples", 5, *home)
    assert (smaller["scan"]["counted"], smaller["weights"]["images"]) == (0, 25)

    complete = scan_json("--name", "street", *home)
    assert (complete["scan"]["counted"], complete["scan"]["reused"]) == (15, 25)
    assert complete["weights"]["exact"]
    expected = counted_by_pillow(labels)
    expected.pop(255)
    assert pixels_of(complete["weights"]) == expected
    refused = statsvc("scan", "--name", "street", "--samples", 10, *home, code=1)
    assert "version 3 of street has the counts of all samples" in refused.stderr
    assert scan_json("--name", "street", *home)["weights"]["version"] == 3


def test_two_concurrent_scans_publish_one_version_and_the_second_reports_none(
    street: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "statsvc", "scan", str(street), "--name", "street"]
    command += ["--home", str(tmp_path / "home")]
    invoke("datasets", "--home", tmp_path / "home")  # creates the catalog
    scans = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in "12"
    ]
    messages = [process.communicate(timeout=TIMEOUT)[1] for process in scans]
    assert [process.returncode for process in scans] == [0, 0], messages
    messages.sort(key=lambda text: "0 counted" in text)
    assert "24 counted, 0 unchanged" in messages[0]
    assert "; version 1" in messages[0]
    assert "0 counted, 24 unchanged; no new version" in messages[1]


def test_a_killed_scan_resumes_from_its_checkpoints(
    endless: tuple[Path, Path, dict[int, int]], tmp_path: Path
) -> None:
    folder, long, expected = endless
    home = tmp_path / "home"
    command = [sys.executable, "-m", "statsvc", "scan", str(folder), "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            wait_for(lambda: checkpoints(home))
        finally:
            first.send_signal(signal.SIGKILL)
    shutil.rmtree(long)
    started = time.monotonic()
    result = scan_json(folder, "--home", home)
    assert result["scan"]["recovered"] > 0
    assert result["scan"]["counted"] == 100
    assert pixels_of(result["weights"]) == expected
    assert result["weights"]["images"] == 100
    assert time.monotonic() - started < 60
    assert not checkpoints(home)
    [job] = json.loads(invoke("jobs", "--json", "--home", home).stdout)
    assert (job["state"], job["attempt"], job["version"]) == ("succeeded", 2, 1)


def test_a_failure_to_start_workers_is_one_line_and_does_not_block_the_dataset(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=2, size=(64, 32))
    np.save(labels / "train" / "array.npy", np.zeros((32, 64), np.uint8))  # which a worker counts
    home = ("--home", tmp_path / "home")

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

    command = [sys.executable, "-m", "statsvc", "scan", str(labels), "--name", "street", *map(str, home)]
    scan = subprocess.run(command, stderr=subprocess.PIPE, text=True, preexec_fn=few_files, timeout=TIMEOUT)
    assert scan.returncode == 1
    # With so few files, Python's garbage collection and the cache of compiled code may complain as well.
    [line] = [line for line in scan.stderr.splitlines() if line.startswith("statsvc: street: ")]
    assert "worker processes could not be started" in line
    assert "ulimit -n" in line
    assert json.loads(invoke("jobs", "--json", *home).stdout)[0]["state"] == "failed"
    invoke("datasets", "street", "--delete", *home)
