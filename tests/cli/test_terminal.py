"""Commands on a terminal: progress, tables and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from statsvc.cli import _progress
from statsvc.local.demo import make_demo
from support.command_line import invoke
from support.commands import scan_json, statsvc
from support.expected import checkpoints
from support.label_maps import write_huge_arrays
from support.servers import free_port
from support.terminal import CTRL_C, on_terminal, read_to_end, read_until
from support.waiting import TIMEOUT, wait_for


def test_the_progress_of_a_scan_shows_the_start_of_workers_and_the_speed(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "street", images=2, size=(64, 32))
    np.save(labels / "train" / "array.npy", np.zeros((32, 64), np.uint8))  # which a worker counts
    with on_terminal("scan", labels, "--home", tmp_path / "home") as (process, terminal):
        output = read_to_end(terminal)
        assert process.wait(TIMEOUT) == 0
    assert "starting workers" in output
    assert re.search(r"\([0-9.]+ Mpx/s\); version 1", output)
    assert "Gpx/s" not in output


def test_lists_are_tab_separated_lines_in_a_pipe_and_tables_on_a_terminal(
    street_home: tuple[Path, Path],
) -> None:
    home = ("--home", street_home[1])
    piped = invoke("datasets", *home).stdout
    assert piped.splitlines()[0].split("\t") == ["dataset", "version", "images", "failed", "pixels", "source"]
    row = next(line for line in piped.splitlines() if line.startswith("street\t")).split("\t")
    assert row[1:] == ["1", "24", "0", str(24 * 128 * 64), str(street_home[0])]
    assert all(line.strip() for line in piped.splitlines())
    with on_terminal("versions", "street", *home) as (process, terminal):
        lines = [line for line in read_to_end(terminal).splitlines() if "196,608" in line]
        assert process.wait(TIMEOUT) == 0
    assert len(lines) == 1
    assert re.search(r"scan +24 +0 +196,608 +kept\s*$", lines[0])


def test_the_table_of_classes_is_as_wide_as_the_terminal(street_home: tuple[Path, Path]) -> None:
    with on_terminal("weights", "street", "--home", street_home[1], columns=93) as (process, terminal):
        output = read_to_end(terminal)
        assert process.wait(TIMEOUT) == 0
    assert "\x1b[36m█" in output
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    assert max(len(line) for line in lines if "█" in line) == 93


def test_ctrl_c_stops_a_scan_with_one_line_and_saves_its_counts(tmp_path: Path) -> None:
    labels = make_demo(tmp_path / "labels", images=100, size=(64, 32))
    long = write_huge_arrays(labels / "train")
    with on_terminal("scan", labels, "--name", "many", "--home", tmp_path / "home") as (process, terminal):
        wait_for(lambda: checkpoints(tmp_path / "home"))
        os.write(terminal, CTRL_C)
        output = read_to_end(terminal)
        assert process.wait(TIMEOUT) == 1
    assert "The counts so far are saved" in output
    assert "^C" not in output  # it would shift the cursor, so that the bar is not erased
    assert "\x1b[2K" in output[output.rindex("files") : output.index("statsvc: stopped")]
    assert "Traceback" not in output
    shutil.rmtree(long)
    finished = scan_json("--name", "many", "--home", tmp_path / "home")["scan"]
    assert finished["recovered"] > 0
    assert finished["counted"] == 100


def test_ctrl_c_stops_the_server_without_an_error(tmp_path: Path) -> None:
    with on_terminal("serve", "--no-runner", "--home", tmp_path / "home", "--port", str(free_port())) as (
        process,
        terminal,
    ):
        read_until(terminal, b"Press Ctrl-C to stop")
        os.write(terminal, CTRL_C)
        output = read_to_end(terminal)
        assert process.wait(TIMEOUT) == 0
    assert "Aborted" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("library", ["_multiarray_umath", "_pydantic_core"])
def test_ctrl_c_during_startup_stops_the_server_without_an_error(tmp_path: Path, library: str) -> None:
    with on_terminal("serve", "--home", tmp_path / "home", "--port", str(free_port())) as (process, terminal):
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: library in maps.read_text())
        os.write(terminal, CTRL_C)
        output = read_to_end(terminal)
        assert process.wait(TIMEOUT) in (0, -signal.SIGINT)
    assert output.strip() in ("", "^C")


def test_progress_off_a_terminal_is_printed_only_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_progress, "LINE_SECONDS", 0.001)
    steps = [("starting workers", 0)] * 5 + [("counting", 0)] * 3 + [("counting", 120)] * 3
    remaining = iter(steps)
    finished = threading.Event()

    def read() -> dict[str, object]:
        stage, done = next(remaining, (None, 0))
        if stage is None:
            finished.set()
            stage, done = steps[-1]
        return {"stage": stage, "done": done, "total": 240}

    with _progress.show_progress(read):
        assert finished.wait(TIMEOUT)
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "starting workers: 0/240 files",
        "counting: 0/240 files",
        "counting: 120/240 files",
    ]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["scan --name street", "weights street", "datasets", "doctor street"])
def test_commands_work_without_a_stream_that_their_caller_has_closed(
    street_home: tuple[Path, Path], command: str, closed: str
) -> None:
    expected = statsvc(*command.split(), "--home", street_home[1])
    line = f"{sys.executable} -m statsvc {command} --home '{street_home[1]}' {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    is_open = [">&-" not in closed.split(), "2>&-" not in closed]
    printed = [
        text if shown else "" for text, shown in zip((expected.stdout, expected.stderr), is_open, strict=True)
    ]
    assert (done.returncode, done.stdout, done.stderr) == (0, *printed)
