"""A file whose listing crashes, or needs too much, costs only itself: it is read in a child process."""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import random
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from statsvc.errors import UnreadableSample
from statsvc_workers.processes import isolated
from statsvc_workers.sources.content import Look
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.sources import open_source
from support.damage import png
from support.fuzz import containers, fuzz_counting, label_maps
from support.fuzz import fuzz as fuzz_all
from support.processes import children, is_alive
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def own_children() -> Iterator[None]:
    """Start new children, with the limits that a test sets, and leave none."""
    isolated.close()
    yield
    isolated.close()


def test_a_child_that_crashes_or_returns_something_unexpected_is_reported_and_replaced() -> None:
    with pytest.raises(UnreadableSample, match="crashed the library that lists it"):
        isolated.call(ctypes.string_at, 0)
    with pytest.raises(UnreadableSample, match="SIGABRT"):
        isolated.call(os.abort)
    with pytest.raises(UnreadableSample, match="unexpected pathlib"):
        isolated.call(Path, "/")
    with pytest.raises(UnreadableSample, match="MiB of memory"):
        isolated.call(bytearray, 1 << 50)
    with pytest.raises(FileNotFoundError):
        isolated.call(os.stat, "/none")
    assert isolated.call(max, 1, 2) == 2


def test_a_child_that_was_ended_between_two_calls_is_replaced_and_no_file_is_blamed() -> None:
    for _ in range(2):
        before = set(children(os.getpid()))
        assert isolated.call(max, 1, 2) == 2
        for child in set(children(os.getpid())) - before:
            os.kill(child, signal.SIGKILL)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert isolated.call(max, 1, 2) == 2


def test_a_forked_process_starts_its_own_children() -> None:
    program = (
        "import os, signal; from statsvc_workers.processes import isolated; isolated.call(max, 1, 2)\n"
        "if child := os.fork(): raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "signal.alarm(60); assert isolated.call(max, 1, 2) == 2; isolated.close(); os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7


def answer_with(opcodes: bytes) -> None:
    """Let a child answer with an arbitrary pickle, as a decoder could that was taken over by its file."""
    before = set(children(os.getpid()))
    assert isolated.call(max, 1, 2) == 2
    [child] = set(children(os.getpid())) - before
    files = Path(f"/proc/{child}/fd").iterdir()
    [connection] = [int(file.name) for file in files if str(file.readlink()).startswith("socket:")]
    isolated.call(os.write, connection, struct.pack("<Q", len(opcodes)) + opcodes)


@pytest.mark.parametrize("opcodes", [b"garbage", pickle.dumps(("exception", 5))])
def test_an_answer_that_is_none_is_reported(opcodes: bytes) -> None:
    with pytest.raises(UnreadableSample, match="unexpected"):
        answer_with(opcodes)
    assert isolated.call(max, 1, 2) == 2


@pytest.mark.parametrize(("module", "name"), sorted(isolated.CLASSES))
def test_an_answer_cannot_change_a_class(module: str, name: str) -> None:
    # GLOBAL, (None, {"changed": 5}), BUILD: https://docs.python.org/3/library/pickletools.html
    opcodes = b"c%b\n%b\nN}\x8c\x07changedK\x05s\x86b." % (module.encode(), name.encode())
    with pytest.raises(UnreadableSample, match="unexpected"):
        isolated.unpickled(opcodes)
    assert not hasattr(getattr(importlib.import_module(module), name), "changed")


def test_an_answer_cannot_change_a_member_of_an_enumeration() -> None:
    opcodes = b"cstatsvc_workers.sources.content\nLook\n\x8c\x0aphotograph\x85R}\x8c\x07changedK\x05sb."
    with pytest.raises(UnreadableSample, match="unexpected"):
        isolated.unpickled(opcodes)
    assert not hasattr(Look.PHOTO, "changed")


def test_a_call_has_a_limit_on_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "CPU_SECONDS", 1)
    with pytest.raises(UnreadableSample, match="processor time"):
        isolated.call(re.fullmatch, "(a+)+b", "a" * 60)  # holds the interpreter's lock, practically for ever


def test_a_container_that_needs_too_much_memory_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "memory_limit", lambda: 600 << 20)
    (tmp_path / "a.json").write_bytes(containers()[".json"])
    (tmp_path / "b.json").write_bytes(b"[" + b"[[]]," * 6_000_000 + b"0]")
    listing = list_samples(Source(str(tmp_path), "*.json"))
    assert list(listing.unreadable) == ["b.json"]
    assert "MiB of memory" in listing.unreadable["b.json"]
    assert len(listing.path) == 3


def test_a_container_that_takes_too_much_time_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "CPU_SECONDS", 1)
    (tmp_path / "a.json").write_bytes(containers()[".json"])
    (tmp_path / "b.json").write_bytes(b"[" + b'{"a": 1},' * 12_000_000 + b"0]")
    listing = list_samples(Source(str(tmp_path), "*.json"))
    assert "processor time" in listing.unreadable["b.json"]
    assert len(listing.path) == 3


def test_a_folder_of_png_files_needs_no_child(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "classes.txt").write_text("background\ncar\n")
    before = children(os.getpid())
    source = open_source(str(tmp_path), None)
    assert len(list_samples(source).path) == 3
    assert set(children(os.getpid())) <= set(before)


def test_a_child_ends_with_its_parent() -> None:
    program = (
        "from statsvc_workers.processes import isolated; isolated.call(max, 1, 2);"
        "print('ready', flush=True);"
        "import re; isolated.call(re.fullmatch, '(a+)+b', 'a' * 60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        [child] = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(child))


def test_damaged_files_of_every_format_are_named_or_listed_and_lose_no_other(tmp_path: Path) -> None:
    tallies = dict(fuzz_all(tmp_path, listed=8, counted=0, seed=1))
    assert len(tallies) > 32
    assert {name for name, tally in tallies.items() if tally.unnamed or tally.lost} == set()
    assert sum(tally.named for tally in tallies.values()) > 300


@pytest.mark.parametrize("extension", [".parquet", ".tif", ".h5", ".mha"])
def test_damaged_files_are_named_or_counted_by_a_scan(tmp_path: Path, extension: str) -> None:
    content = {**containers(), **label_maps()}[extension]
    tally = fuzz_counting(tmp_path, extension, content, random.Random(2), 10)
    assert (tally.files, tally.unnamed, tally.lost) == (10, 0, 0)
    assert tally.named
