"""64 trainers that start together with one cache folder: shared, read-only, or on a full disk."""

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
from support.torchrun import subprocess_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = 64
SCRIPT = str(Path(__file__).parents[1] / "support" / "concurrent_trainers.py")
WEIGHTS_PATH = "/weights?dataset=street&method=inverse_freq"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("concurrent") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def expected(url: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    cache = tmp_path_factory.mktemp("separate")
    return Client(url, cache=cache).weights("street", method="inverse_freq").to_list()


def run_trainers(
    url: str, cache: Path, *file_size: str, timeout: float = 200, before: tuple[str, ...] = ()
) -> list[tuple[Any, list[str]]]:
    """Return the weights and the warnings of each process.

    before  command that runs the trainers
    """
    command = [*before, sys.executable, SCRIPT, url, str(cache), str(PROCESSES), str(timeout), *file_size]
    process = subprocess.run(
        command, env=subprocess_environment(), capture_output=True, text=True, timeout=600
    )
    assert (process.returncode, process.stderr) == (0, "")
    return [(weights, warnings) for weights, warnings in json.loads(process.stdout)]


def test_every_process_gets_the_weights_and_one_entry_is_cached(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert run_trainers(url, cache) == [(expected, [])] * PROCESSES
    (entry,) = cache.iterdir()
    assert entry.suffix == ".answer"
    assert client_cache.load(cache, url + WEIGHTS_PATH) is not None


def test_every_process_gets_the_cached_weights_while_the_server_is_unavailable(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    unavailable = "http://127.0.0.1:1"
    Client(url, cache=cache).weights("street", method="inverse_freq")
    entry = client_cache.load(cache, url + WEIGHTS_PATH)
    assert entry is not None
    client_cache.store(cache, unavailable + WEIGHTS_PATH, entry)
    for weights, warnings in run_trainers(unavailable, cache, timeout=0.5):
        assert weights == expected
        assert len(warnings) == 1
        assert "street version 1" in warnings[0]


def test_every_process_warns_once_of_a_read_only_cache_folder(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    results = run_trainers(url, cache)
    assert [weights for weights, _ in results] == [expected] * PROCESSES
    assert all(len(warnings) == 1 and "cannot be written" in warnings[0] for _, warnings in results)
    assert list(cache.iterdir()) == []


def test_a_file_size_limit_causes_one_warning_each_and_leaves_no_file(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    results = run_trainers(url, tmp_path, "100")
    assert [weights for weights, _ in results] == [expected] * PROCESSES
    assert all(len(warnings) == 1 and "File too large" in warnings[0] for _, warnings in results)
    assert list(tmp_path.iterdir()) == []


FULL = """
set -e
mount -t tmpfs -o size=64k,mode=0700 tmpfs "$0"
head -c 1M /dev/zero > "$0/full" 2>/dev/null || true
"$@"
ls -A "$0" > "$0.left"
"""


def can_mount() -> bool:
    process = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return process.returncode == 0


@pytest.mark.skipif(
    not can_mount(), reason="mounting a small disk is not permitted; a file size limit is tested above"
)
def test_a_full_disk_causes_one_warning_each_and_leaves_no_file(
    url: str, expected: list[float], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    results = run_trainers(url, disk, before=("unshare", "-rm", "sh", "-c", FULL, str(disk)))
    assert [weights for weights, _ in results] == [expected] * PROCESSES
    assert all(len(warnings) == 1 and "No space left on device" in warnings[0] for _, warnings in results)
    assert (tmp_path / "disk.left").read_text() == "full\n"
