"""Mistakes on the command line, and what a user is told of them; Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from commands import grey, scanned, settle, statsvc, waited_for, without_end
from servers import free_port

from statsvc.demo import make_demo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Label maps with folders train and val, and a home in which they are scanned as `street`."""
    root = tmp_path_factory.mktemp("mistakes")
    labels = make_demo(root / "street", images=12, size=(64, 32))
    settle(labels)
    scanned(labels, "--name", "street", "--home", root / "home")
    return labels, root / "home"


def test_a_dataset_whose_first_scan_failed_does_not_stand_in_the_way(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    home = place[1]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(grey(1, (4, 4))[:40])
    statsvc("scan", tmp_path / "broken", "--name", "broken", "--home", home, code=1)
    assert json.loads(statsvc("weights", "--home", home).stdout)["dataset"] == "street"
    for arguments in (("weights", "broken"), ("weights", "broken", "--version", "9")):
        told = statsvc(*arguments, "--home", home, code=2).stderr
        assert "failed" in told
        assert "a.png" in told
        assert "None" not in told
    listing = statsvc("jobs", "--home", home).stdout.splitlines()
    assert any("a.png" in line and not line.startswith(" ") for line in listing)
    assert len([line for line in listing if "broken" in line and "failed" in line]) == 1


def test_a_scan_that_fails_for_files_that_went_bad_names_them(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=12, size=(64, 32))
    home = ("--home", tmp_path / "home")
    scanned(labels, *home)
    bad = sorted(labels.rglob("*.png"))[:5]
    for file in bad:
        file.write_bytes(b"")
    told = statsvc("scan", labels, *home, code=1)
    assert "nothing was published" in told.stderr
    for file in bad:
        assert f"  {file.relative_to(labels)}: " in told.stderr
    newest = statsvc("jobs", *home).stdout
    assert str(bad[0].relative_to(labels)) in newest  # and over HTTP, where there is nothing but the job


def test_workers_that_cannot_be_started_are_told_in_one_line_and_stand_in_no_way(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=4, size=(64, 32))
    home = ("--home", tmp_path / "home")

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

    told = statsvc("scan", labels, "--name", "street", *home, code=1, preexec_fn=few_files).stderr
    assert "worker processes could not be started" in told
    assert "ulimit -n" in told
    assert len(told.splitlines()) == 1
    assert json.loads(statsvc("jobs", "--json", *home).stdout)[0]["state"] == "failed"
    statsvc("datasets", "street", "--delete", *home)


def test_a_class_map_of_ones_own_is_used_for_one_answer_and_not_kept(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    _, home = place
    (tmp_path / "two.csv").write_text("id,train_id,name\n0,0,sky\n1,1,rest\n2,1,rest\n3,1,rest\n")
    raw = json.loads(statsvc("weights", "street", "--home", home).stdout)
    merged = json.loads(
        statsvc("weights", "street", "--class-map", tmp_path / "two.csv", "--home", home).stdout
    )
    pixels = [row["pixels"] for row in raw["classes"]]
    assert [row["pixels"] for row in merged["classes"]] == [pixels[0], sum(pixels[1:4])]
    assert [row["name"] for row in merged["classes"]] == ["sky", "rest"]
    assert json.loads(statsvc("weights", "street", "--home", home).stdout) == raw
    asked = ("--class-map", tmp_path / "two.csv", "--url", "http://127.0.0.1:9")
    assert "leave --url out" in statsvc("weights", "street", *asked, code=2).stderr


def test_options_that_fit_badly_are_told(place: tuple[Path, Path], tmp_path: Path) -> None:
    labels, _ = place
    home = ("--home", tmp_path / "home")
    missing = statsvc("scan", labels, "--class-names", "nothere.txt", *home, code=2)
    assert "there is no file nothere.txt" in missing.stderr
    missing = statsvc("scan", labels, "--split", "fold0=nothere.txt", *home, code=2)
    assert "there is no file nothere.txt" in missing.stderr
    assert "''" in statsvc("scan", labels, "--name", "", *home, code=2).stderr

    (tmp_path / "fold.txt").write_text("train/nothere.png\n")
    told = statsvc(
        "scan", labels, "--class-names", "sky,road", "--split", f"fold0={tmp_path / 'fold.txt'}", *home
    )
    assert "2 class names for" in told.stderr
    assert "1 of 1 paths are not in the dataset, for instance train/nothere.png" in told.stderr


def test_a_dataset_is_its_folder_and_its_pattern(place: tuple[Path, Path], tmp_path: Path) -> None:
    labels, _ = place
    home = ("--home", tmp_path / "home")
    scanned(labels, "--name", "all", *home)
    scanned(labels, "--name", "train", "--pattern", "train/**", *home)
    scanned(labels, "--name", "copy", *home)
    listed = json.loads(statsvc("datasets", "--json", *home).stdout)
    images = {row["dataset"]: row["images"] for row in listed}
    assert images["all"] == images["copy"] == 12
    assert 0 < images["train"] < 12

    several = statsvc("scan", labels, *home, code=2).stderr
    assert "give --name, one of all, copy" in several
    assert scanned(labels, "--pattern", "train/**", *home)["weights"]["dataset"] == "train"
    for other in ((tmp_path,), (labels, "--pattern", "val/**")):
        refused = statsvc("scan", *other, "--name", "train", *home, code=1).stderr
        assert "choose another name with --name" in refused


def test_a_folder_scanned_twice_right_after_it_was_written_is_counted_once(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=24, size=(64, 32))
    home = ("--home", tmp_path / "home")
    assert scanned(labels, *home)["scan"]["counted"] == 24
    told = statsvc("scan", labels, *home).stderr
    assert "0 counted, 24 unchanged; no new version" in told


def test_two_scans_at_once_make_one_version_and_the_second_claims_no_part_in_it(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=24, size=(64, 32))
    command = [sys.executable, "-m", "statsvc", "scan", str(labels), "--name", "street"]
    command += ["--home", str(tmp_path / "home")]
    statsvc("datasets", "--home", tmp_path / "home")  # makes the catalog
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in "12"
    ]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    told.sort(key=lambda text: "0 counted" in text)
    assert "24 counted, 0 unchanged" in told[0]
    assert "; version 1" in told[0]
    assert "0 counted, 24 unchanged; no new version" in told[1]


def test_a_first_scan_says_that_it_starts_workers_and_how_fast_it_counts(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=4, size=(64, 32))
    process, terminal = on_a_terminal("scan", labels, "--home", tmp_path / "home")
    try:
        told = read_until(terminal, None).decode()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "starting workers" in told
    assert re.search(r"\([0-9.]+ Mpx/s\); version 1", told)
    assert "Gpx/s" not in told


def test_a_scan_that_only_changes_the_reading_tells_its_version(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _ = place
    home = ("--home", tmp_path / "home")
    statsvc("scan", labels, "--name", "street", *home)
    told = statsvc("scan", labels, "--name", "street", "--ignore", "3", *home).stderr
    assert "0 counted" in told
    assert "version 2, the same counts read in another way" in told
    assert "no new version" in statsvc("scan", labels, "--name", "street", *home).stderr


def test_a_server_that_could_register_nothing_does_not_start(tmp_path: Path) -> None:
    told = statsvc("serve", "--home", tmp_path / "home", "--root", tmp_path / "nothere", code=2).stderr
    assert "nothere" in told
    assert "does not exist" in told


def on_a_terminal(*arguments: str | Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command with a terminal of its own, in a group that Ctrl-C reaches whole."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "statsvc", *map(str, arguments)]
    # A terminal's processes hear Ctrl-C; those of a shell's background job ignore it, and hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    return process, ours


def read_until(terminal: int, wanted: bytes | None) -> bytes:
    """Read what the command prints until it has printed `wanted`, or to its end."""
    seen = b""
    while wanted is None or wanted not in seen:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # what Linux answers once no process has the terminal open
            break
        if not piece:
            break
        seen += piece
    return seen


def test_ctrl_c_in_a_scan_ends_it_in_one_line_and_keeps_what_was_counted(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "labels", images=100, size=(64, 32))
    long = without_end(labels / "train")
    process, terminal = on_a_terminal("scan", labels, "--name", "many", "--home", tmp_path / "home")
    try:
        parts = tmp_path / "home" / "versions"
        waited_for(lambda: list(parts.rglob("parts/*/*")), 60)
        os.killpg(process.pid, signal.SIGINT)
        told = read_until(terminal, None).decode()
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "what was counted so far is kept" in told
    assert "Traceback" not in told
    shutil.rmtree(long)
    finished = scanned("--name", "many", "--home", tmp_path / "home")["scan"]
    assert finished["recovered"] > 0
    assert finished["counted"] == 100


def test_ctrl_c_ends_the_server_quietly(tmp_path: Path) -> None:
    process, terminal = on_a_terminal(
        "serve", "--no-runner", "--home", tmp_path / "home", "--port", str(free_port())
    )
    try:
        read_until(terminal, b"Ctrl-C stops it")
        os.killpg(process.pid, signal.SIGINT)
        told = read_until(terminal, None).decode()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "Aborted" not in told
    assert "Traceback" not in told
