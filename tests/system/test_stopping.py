"""Cancelling a job and stopping a server, whatever the runner is doing; no process outlives them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc_workers.jobs import runner as runners
from statsvc_workers.jobs.attempt import Settings
from support.commands import serve
from support.label_maps import write_folder, write_huge_arrays
from support.processes import children, descendants, is_alive, open_files
from support.stopping import write_endless_sample
from support.waiting import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home

CANCEL_SECONDS, STOP_SECONDS = 2.0, 10.0
"""Documented times in which a cancelled job frees its runner, and in which a server ends."""

LOAD = 15
"""Factor for a machine that also runs other tests."""


def register(url: str, name: str, source: Path) -> str:
    """Register a source; return the id of the job that counts it."""
    response = httpx2.post(url + "/datasets", json={"name": name, "source": str(source)})
    assert response.status_code == 201, response.text
    job: str = response.json()["job"]["id"]
    return job


def get_job(url: str, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = httpx2.get(f"{url}/jobs/{job_id}").json()
    return job


def readers(pid: int, folder: Path) -> list[int]:
    """Return the descendants of a process that have a file in this folder open."""
    return [
        child for child in descendants(pid) if any(path.is_relative_to(folder) for path in open_files(child))
    ]


@contextlib.contextmanager
def counting_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], str]]:
    """Run a server whose workers are counting; yield its URL, its process, and the id of the job."""
    labels = write_huge_arrays(tmp_path / "labels")
    with serve(tmp_path / "home", "--root", tmp_path, "--workers", "2") as (url, process):
        job = register(url, "huge", labels)
        wait_for(lambda: len(readers(process.pid, labels)) == 2)
        yield url, process, job


@pytest.mark.parametrize("situation", ["between samples", "in one sample", "without any reaction"])
def test_a_cancelled_job_frees_its_runner(tmp_path: Path, situation: str) -> None:
    write = write_endless_sample if situation == "in one sample" else write_huge_arrays
    labels = write(tmp_path / "labels")
    other = write_folder(tmp_path / "other", files=2)
    with serve(tmp_path / "home", "--root", tmp_path, "--workers", "1") as (url, process):
        cancelled = register(url, "cancelled", labels)
        [runner] = wait_for(lambda: children(process.pid))
        # The runner starts a process for its jobs, which first forks a template, and then starts the workers.
        [executor] = wait_for(lambda: [pid for pid in children(runner) if len(children(pid)) > 1])
        _template, *workers = children(executor)
        if situation == "without any reaction":
            os.kill(executor, signal.SIGSTOP)
        waiting = register(url, "waiting", other)
        start = time.monotonic()
        httpx2.post(f"{url}/jobs/{cancelled}/cancel").raise_for_status()
        wait_for(lambda: get_job(url, waiting)["started_at"])
        wait_for(lambda: not any(map(is_alive, workers)))
        assert time.monotonic() - start < CANCEL_SECONDS * LOAD
        assert wait_for_end(url, waiting)["state"] == "succeeded"


def wait_for_end(url: str, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job = get_job(url, job_id)
        return job if job["finished_at"] else None

    job: dict[str, Any] = wait_for(ended)
    return job


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_server(tmp_path: Path, catalog: Catalog, number: signal.Signals) -> None:
    with counting_server(tmp_path) as (_, process, job):
        processes = descendants(process.pid)
        start = time.monotonic()
        process.send_signal(number)
        process.wait(60)
        wait_for(lambda: not any(map(is_alive, processes)))
        assert time.monotonic() - start < STOP_SECONDS * LOAD
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    ended = jobs.get(catalog, job)
    assert (ended.state, ended.error, ended.released) == ("queued", "its runner was stopped", 1)


def test_a_second_signal_ends_a_server_and_all_its_processes_at_once(tmp_path: Path) -> None:
    with counting_server(tmp_path) as (_, process, _job):
        processes = descendants(process.pid)
        # The runner does not react, and the first signal would wait for it.
        os.kill(children(process.pid)[0], signal.SIGSTOP)
        process.terminate()
        with pytest.raises(TimeoutError):
            process_ended(process, 1.0)
        start = time.monotonic()
        process.terminate()
        process.wait(60)
        wait_for(lambda: not any(map(is_alive, processes)))
        assert time.monotonic() - start < 1.0 * LOAD
    assert process.returncode == 128 + signal.SIGTERM


def process_ended(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a process. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def test_a_killed_runner_leaves_no_process(tmp_path: Path) -> None:
    with counting_server(tmp_path) as (_, process, _job):
        [runner] = children(process.pid)
        processes = descendants(runner)
        os.kill(runner, signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, processes)))


@pytest.fixture
def running(home: Home) -> Iterator[None]:
    """Run jobs of `home` in a thread of this process."""
    stop = threading.Event()
    options: dict[str, Any] = {"workers": 1, "stop": stop.is_set}
    thread = threading.Thread(target=runners.run, args=(home, Settings("cpu")), kwargs=options)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_source_without_progress_does_not_block_other_datasets(
    tmp_path: Path,
    catalog: Catalog,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(runners, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(runners, "STUCK_SECONDS", 0.0)
    monkeypatch.setattr(runners, "MAX_JOBS", 2)

    def submit(name: str, write: Callable[[Path], Path]) -> str:
        dataset = catalog.create_dataset(name, str(write(tmp_path / name)), "**", Configuration())
        return jobs.submit(catalog, dataset)[0].id

    endless = [submit(name, write_endless_sample) for name in ("a", "b")]
    request.getfixturevalue("running")
    wait_for(lambda: all(jobs.get(catalog, job).state == "running" for job in endless))
    last = submit("c", lambda folder: write_folder(folder, files=2))
    wait_for(lambda: jobs.get(catalog, last).state == "succeeded")
    assert "while other jobs waited" in caplog.text  # one of them was requeued
    for job in endless:
        jobs.cancel(catalog, job)


@pytest.mark.usefixtures("running")
def test_a_job_whose_process_dies_is_requeued_with_the_reason(tmp_path: Path, catalog: Catalog) -> None:
    labels = write_huge_arrays(tmp_path / "labels")
    job, _ = jobs.submit(catalog, catalog.create_dataset("huge", str(labels), "**", Configuration()))

    def parents_of_workers() -> list[int]:
        # The executor itself reads a few files before its workers do.
        reading = set(readers(os.getpid(), labels))
        return [pid for pid in descendants(os.getpid()) if reading & set(children(pid))]

    [executor] = wait_for(parents_of_workers)
    os.kill(executor, signal.SIGKILL)
    wait_for(lambda: jobs.get(catalog, job.id).error)
    assert jobs.get(catalog, job.id).error == "the process that ran it was killed by signal 9"
    wait_for(lambda: jobs.get(catalog, job.id).attempt == 2)
    jobs.cancel(catalog, job.id)
