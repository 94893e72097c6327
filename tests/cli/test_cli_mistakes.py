"""Mistakes on the command line, and what a user is told of them; Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import xarray

from statsvc.local.demo import make_demo
from support.commands import grey, scanned, settle, statsvc, waited_for, without_end
from support.servers import free_port


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
        assert f"{file.relative_to(labels)}: is not a valid PNG" in told.stderr
    newest = statsvc("jobs", *home).stdout
    assert str(bad[0].relative_to(labels)) in newest  # and over HTTP, where there is nothing but the job


def test_workers_that_cannot_be_started_are_told_in_one_line_and_stand_in_no_way(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=40, size=(64, 32))
    home = ("--home", tmp_path / "home")

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

    told = statsvc("scan", labels, "--name", "street", *home, code=1, preexec_fn=few_files).stderr
    assert "worker processes could not be started" in told
    assert "ulimit -n" in told
    # A slow machine is told of the stage on lines of its own.
    lines = [line for line in told.splitlines() if not line.startswith("starting workers")]
    assert len(lines) == 1
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

    names = tmp_path / "names.json"
    for wrong, why in (('["sky", "road"', "starts like JSON"), ('{"0": "sky"}', "a JSON array of strings")):
        names.write_text(wrong)
        told = statsvc("scan", labels, "--class-names", names, *home, code=2)
        assert f"--class-names: {names}" in told.stderr
        assert why in told.stderr

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


def test_a_dataset_follows_its_renamed_folder_and_keeps_its_counts_and_its_guard(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=24, size=(64, 32))
    home = ("--home", tmp_path / "home")
    scanned(labels, "--name", "mv", *home)
    there = labels.rename(tmp_path / "elsewhere")
    refused = statsvc("scan", there, "--name", "mv", *home, code=1).stderr
    assert f"mv is {labels}, not {there}" in refused
    assert "add --name mv --move" in refused
    moved = scanned(there, "--name", "mv", "--move", *home)
    assert (moved["scan"]["counted"], moved["scan"]["reused"]) == (0, 24)
    assert moved["weights"]["version"] == 1
    assert json.loads(statsvc("datasets", "mv", "--json", *home).stdout)["source"] == str(there)

    lost = statsvc("scan", "--name", "mv", "--pattern", "val/*.png", "--move", *home, code=1).stderr
    assert "nothing was published" in lost
    assert (
        "no file in"
        in statsvc("scan", labels.parent, "--name", "mv", "--pattern", "x", "--move", *home, code=1).stderr
    )
    back = scanned("--name", "mv", "--pattern", "**/*.png", "--move", *home)
    assert (back["scan"]["reused"], back["weights"]["version"]) == (24, 1)
    assert "--move" in statsvc("scan", "--name", "mv", "--move", *home, code=2).stderr
    assert "no dataset 'new'" in statsvc("scan", there, "--name", "new", "--move", *home, code=2).stderr


def test_an_option_given_empty_is_refused_by_name_and_not_left_out(place: tuple[Path, Path]) -> None:
    home = ("--home", place[1])
    for option in ("--split", "--multiply", "--method"):
        told = statsvc("weights", "street", f"{option}=", "--format", "csv", *home, code=2)
        assert told.stdout == ""
        assert f"{option}: the value is empty" in told.stderr
    assert "no class map ''" in statsvc("weights", "street", "--class-map=", *home, code=2).stderr


def test_names_that_utf8_cannot_encode_are_refused_by_option_before_anything_is_counted(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home")
    (tmp_path / "map.json").write_text('{"map": {"0": 0}, "names": ["\\ud800"]}')
    told = statsvc("scan", place[0], "--class-map", tmp_path / "map.json", *home, code=2).stderr
    assert "--class-map: contains a lone surrogate" in told
    told = statsvc("scan", place[0], "--class-names", "a,\udcff", *home, code=2).stderr
    assert "--class-names: " in told
    other = shutil.copytree(place[0], tmp_path / "street\udcff")
    told = statsvc("scan", other, *home, code=2).stderr
    assert "SOURCE: " in told
    assert "not UTF-8" in told
    assert statsvc("jobs", "--json", *home).stdout.strip() == "[]"


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
    labels = make_demo(tmp_path / "street", images=40, size=(64, 32))
    process, terminal = on_a_terminal("scan", labels, "--home", tmp_path / "home")
    try:
        told = read_until(terminal, None).decode(errors="replace")  # Ctrl-C cuts what waits, in a letter too
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
    assert "nothere' is no folder" in told


CTRL_C = b"\x03"


def on_a_terminal(*arguments: str | Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command with a terminal of its own, which it is controlled by, of 80 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    command = [sys.executable, "-m", "statsvc", *map(str, arguments)]
    # A terminal's processes hear Ctrl-C; those of a shell's background job ignore it, and hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread runs
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
        os.write(terminal, CTRL_C)
        told = read_until(terminal, None).decode(errors="replace")  # Ctrl-C cuts what waits, in a letter too
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "The rows counted so far are kept" in told
    assert "^C" not in told  # which would leave the bar standing: it is erased from where the cursor is
    assert "\x1b[2K" in told[told.rindex("files") : told.index("statsvc: stopped")]
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
        os.write(terminal, CTRL_C)
        told = read_until(terminal, None).decode(errors="replace")  # Ctrl-C cuts what waits, in a letter too
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "Aborted" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("library", ["_multiarray_umath", "_pydantic_core"])
def test_ctrl_c_while_the_server_is_being_loaded_ends_it_quietly_too(tmp_path: Path, library: str) -> None:
    process, terminal = on_a_terminal("serve", "--home", tmp_path / "home", "--port", str(free_port()))
    try:
        maps = Path(f"/proc/{process.pid}/maps")
        waited_for(lambda: library in maps.read_text())
        os.write(terminal, CTRL_C)
        told = read_until(terminal, None).decode(errors="replace")  # Ctrl-C cuts what waits, in a letter too
        assert process.wait(30) in (0, -signal.SIGINT)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert told.strip() in ("", "^C")


def test_lists_are_lines_for_programs_and_tables_with_numbers_that_can_be_read_for_people(
    place: tuple[Path, Path],
) -> None:
    home = ("--home", place[1])
    piped = statsvc("datasets", *home).stdout
    assert piped.splitlines()[0].split("\t") == ["dataset", "version", "images", "failed", "pixels", "source"]
    row = next(line for line in piped.splitlines() if line.startswith("street\t")).split("\t")
    assert row[1:] == ["1", "12", "0", str(12 * 64 * 32), str(place[0])]
    assert all(line.strip() for line in piped.splitlines())
    process, terminal = on_a_terminal("versions", "street", *home)
    try:
        shown = [line for line in read_until(terminal, None).decode().splitlines() if "24,576" in line]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert len(shown) == 1
    assert re.search(r"scan +12 +0 +24,576 +kept\s*$", shown[0])


def test_a_version_tells_the_folder_that_xarray_opens_also_where_only_its_reading_is_its_own(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home")
    statsvc("scan", place[0], "--name", "street", *home)
    statsvc("scan", "--name", "street", "--ignore", "3", *home)
    done = statsvc("versions", "street", "--json", *home)
    found = json.loads(done.stdout)
    assert [version["by"] for version in found] == ["configuration", "scan"]
    for version in found:
        opened = xarray.open_zarr(version["arrays"], consolidated=False)
        assert int(opened["class_pixels"].sum()) == version["pixels"] == 12 * 64 * 32
    assert found[0]["arrays"] in statsvc("versions", "street", *home).stderr
