"""64 trainers that start at once on one cache folder: shared, read-only, on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statsvc.client import cache as client_cache
from statsvc.client.client import Client
from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = 64
HERD = str(Path(__file__).parents[1] / "support" / "herd.py")
QUESTION = "/weights?dataset=street&method=inverse_freq"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("herd") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def expected(url: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    cache = tmp_path_factory.mktemp("apart")
    return Client(url, cache=cache).weights("street", method="inverse_freq").to_list()


def herd(
    url: str, cache: Path, *file_size: str, timeout: float = 60, before: tuple[str, ...] = ()
) -> list[tuple[Any, list[str]]]:
    """Return what each process got, and what it was warned of."""
    command = [*before, sys.executable, HERD, url, str(cache), str(PROCESSES), str(timeout), *file_size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return [(got, warned) for got, warned in json.loads(done.stdout)]


def test_all_get_the_answer_and_leave_one_whole_entry(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert herd(url, cache) == [(expected, [])] * PROCESSES
    (entry,) = cache.iterdir()
    assert entry.suffix == ".answer"
    assert client_cache.load(cache, url + QUESTION) is not None


def test_while_the_server_is_away_all_get_the_last_answer(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    away = "http://127.0.0.1:1"
    Client(url, cache=cache).weights("street", method="inverse_freq")
    entry = client_cache.load(cache, url + QUESTION)
    assert entry is not None
    client_cache.store(cache, away + QUESTION, entry)
    for got, warned in herd(away, cache, timeout=0.5):
        assert got == expected
        assert len(warned) == 1
        assert "street version 1" in warned[0]


def test_a_folder_that_is_read_only_costs_each_a_warning(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    got = herd(url, cache)
    assert [weights for weights, _ in got] == [expected] * PROCESSES
    assert all(len(warned) == 1 and "cannot be written" in warned[0] for _, warned in got)
    assert list(cache.iterdir()) == []


def test_files_that_cannot_grow_cost_each_a_warning_and_leave_nothing(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    got = herd(url, tmp_path, "100")
    assert [weights for weights, _ in got] == [expected] * PROCESSES
    assert all(len(warned) == 1 and "File too large" in warned[0] for _, warned in got)
    assert list(tmp_path.iterdir()) == []


FULL = """
set -e
mount -t tmpfs -o size=64k,mode=0700 tmpfs "$0"
head -c 1M /dev/zero > "$0/full" 2>/dev/null || true
"$@"
ls -A "$0" > "$0.left"
"""


def can_mount() -> bool:
    tried = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no right to mount a small disk; limited files are tested above")
def test_a_full_disk_costs_each_a_warning_and_leaves_nothing(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    got = herd(url, disk, before=("unshare", "-rm", "sh", "-c", FULL, str(disk)))
    assert [weights for weights, _ in got] == [expected] * PROCESSES
    assert all(len(warned) == 1 and "No space left on device" in warned[0] for _, warned in got)
    assert (tmp_path / "disk.left").read_text() == "full\n"
