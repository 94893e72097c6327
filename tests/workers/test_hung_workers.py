"""Worker processes and reads that hang: they are named, and the job goes on without them."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.progress import Progress
from support.hanging_folder import HANGING, can_mount, hanging_folder
from support.label_maps import HUGE_PIXELS, random_labels, write_huge_arrays, write_png
from support.processes import is_alive
from support.scans import counts_by_path
from support.waiting import wait_for, wait_until_stable
from support.worker_pids import worker_pids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.scans import Workspace

STALL_TIMEOUT = 3.0
FILES = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    made = LocalCluster(workers=2, stall_timeout=STALL_TIMEOUT)
    yield made
    made.close()


@pytest.fixture
def huge(workspace: Workspace, tmp_path: Path) -> Path:
    """A dataset of arrays that workers count for seconds."""
    labels = write_huge_arrays(tmp_path / "labels", FILES)
    workspace.catalog.create_dataset("huge", str(labels), "*.npy", Configuration())
    return labels


def scan_while(workspace: Workspace, name: str, act: Any) -> tuple[Any, Any, Progress]:
    """Scan, and call `act` once when the first samples are counted; return the outcome and the job."""
    progress = Progress()
    called = threading.Event()

    def stop() -> bool:
        if progress.counted and not called.is_set():
            called.set()
            act()
        return False

    outcome, job = workspace.scan(name, stop, progress)
    assert called.is_set()
    return outcome, job, progress


def assert_all_counted(workspace: Workspace) -> None:
    version = workspace.version("huge")
    assert version.array("class_id").tolist() == [0]
    # What np.bincount counts in arrays of zeros.
    expected = np.bincount(np.zeros(HUGE_PIXELS, np.uint8))
    counts = np.concatenate([block.counts for block in version.blocks()])
    np.testing.assert_array_equal(counts, np.tile(expected, (FILES, 1)))


def test_a_worker_process_that_is_stopped_is_replaced_and_named(
    workspace: Workspace, cluster: LocalCluster, huge: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped: list[int] = []

    def stop_worker() -> None:
        stopped.append(worker_pids(cluster)[0])
        os.kill(stopped[0], signal.SIGSTOP)

    outcome, job, _ = scan_while(workspace, "huge", stop_worker)
    assert (outcome.error, job.state, job.attempt) == (None, "succeeded", 1)
    assert_all_counted(workspace)
    assert not is_alive(stopped[0])
    wait_for(lambda: len(worker_pids(cluster)) == 2)
    [warning] = job.progress["warnings"]
    assert warning in caplog.text
    assert f"the worker process {stopped[0]} gave no sign of life for " in warning


def test_a_pause_that_is_shorter_than_the_stall_timeout_costs_nothing(
    workspace: Workspace, cluster: LocalCluster, huge: Path
) -> None:
    del huge

    def pause_worker() -> None:
        pid = worker_pids(cluster)[0]
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(STALL_TIMEOUT / 3, os.kill, (pid, signal.SIGCONT)).start()

    outcome, job, _ = scan_while(workspace, "huge", pause_worker)
    assert (outcome.error, job.state) == (None, "succeeded")
    assert job.progress["warnings"] == []
    assert_all_counted(workspace)


@pytest.mark.skipif(not can_mount(), reason="only root can mount a file system that hangs")
@pytest.mark.parametrize("extension", [".png", ".npy"])  # which this process, or only workers, count
def test_a_label_map_whose_read_does_not_return_is_named_and_the_others_are_counted(
    workspace: Workspace, tmp_path: Path, extension: str
) -> None:
    workspace.stall_timeout = 1.0
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(6):
        labels = random_labels(number)
        for name in (f"{number}", *([f"{number}-{HANGING}"] if number in (2, 4) else [])):
            if extension == ".png":
                write_png(folder / f"{name}.png", labels)
            else:
                np.save(folder / f"{name}.npy", labels)
    expected = {
        f"{number}{extension}": dict(enumerate(np.bincount(random_labels(number).ravel()).tolist()))
        for number in range(6)
    }
    wait_until_stable(folder)
    with hanging_folder(folder, tmp_path / "mounted") as mounted:
        workspace.catalog.create_dataset("hanging", str(mounted), f"*{extension}", Configuration())
        for _ in range(2):  # the second scan tries them again
            outcome, job = workspace.scan("hanging")
            assert (outcome.error, job.state) == (None, "succeeded")
            failures = {failure["path"]: failure["error"] for failure in job.progress["failures"]}
            assert sorted(failures) == [f"2-{HANGING}{extension}", f"4-{HANGING}{extension}"]
            for error in failures.values():
                assert "could not be read within 4 s; check the disk or network share" in error
            version = workspace.version("hanging")
            counted = {path: row for path, row in counts_by_path(version).items() if path in expected}
            assert counted == {
                path: {raw: pixels for raw, pixels in row.items() if pixels} for path, row in expected.items()
            }
