"""A runner whose worker hangs: what a server and the command line show of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.commands import serve, statsvc
from support.label_maps import HUGE_PIXELS, write_huge_arrays
from support.processes import children, open_files
from support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

FILES = 60

SECONDS = 400.0
"""How long to wait for a worker or the end of a job on a busy machine."""

pytestmark = pytest.mark.timeout(3 * SECONDS)


def get(url: str) -> Any:
    return httpx2.get(url, timeout=60).raise_for_status().json()


def register(url: str, source: Path) -> str:
    """Register a folder of arrays; return the URL of the job that counts it."""
    body = {"name": "huge", "source": str(source), "pattern": "*.npy"}
    response = httpx2.post(f"{url}/datasets", json=body, timeout=60).raise_for_status()
    return f"{url}/jobs/{response.json()['job']['id']}"


def workers_reading(runner: int, folder: Path) -> list[int]:
    """Return the worker processes of a runner that have a file in this folder open."""
    return [
        process
        for executor in children(runner)
        for process in children(executor)
        if any(path.is_relative_to(folder) for path in open_files(process))
    ]


def wait_for_end(job: str) -> Any:
    return wait_for(lambda: (state := get(job))["finished_at"] and state, SECONDS)


def assert_all_counted(url: str) -> None:
    [row] = get(f"{url}/datasets/huge/histogram")["classes"]
    assert (row["id"], row["pixels"], row["images"]) == (0, FILES * HUGE_PIXELS, FILES)
    assert [version["number"] for version in get(f"{url}/datasets/huge/versions")["versions"]] == [1]


def test_a_worker_that_hangs_is_named_in_the_job_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATSVC_RUNNER_STALL_TIMEOUT", "4s")
    labels = write_huge_arrays(tmp_path / "labels", FILES)
    home = tmp_path / "home"
    options = ("--home", home, "--root", tmp_path)
    # The runner of a server has the lowest priority, so it would wait for long on a busy machine.
    command = (sys.executable, "-m", "statsvc", "runner", *options, "--workers", 2)
    with (
        serve(home, "--root", tmp_path, "--no-runner") as (url, _),
        subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL) as runner,
    ):
        try:
            job = register(url, labels)
            worker = wait_for(lambda: workers_reading(runner.pid, labels), SECONDS)[0]
            os.kill(worker, signal.SIGSTOP)
            ended = wait_for_end(job)
        finally:
            runner.terminate()
        assert (ended["state"], ended["attempt"], ended["error"]) == ("succeeded", 1, None)
        assert_all_counted(url)
        [warning] = ended["warnings"]
        assert f"the worker process {worker} gave no sign of life for " in warning
        assert ended["started_at"] < ended["progressed_at"] <= ended["finished_at"]
        assert "statsvc_jobs_without_progress_seconds" in httpx2.get(f"{url}/metrics").text
    shown = statsvc("jobs", ended["id"], "--home", home).stdout
    assert f"warning: {warning}" in shown
