"""Workers and schedulers of a Dask cluster that hang: they are named, and the job goes on without them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster import remote_cluster
from statsvc_workers.cluster.away import ClusterAway
from statsvc_workers.cluster.remote_cluster import RemoteCluster
from statsvc_workers.jobs.progress import Progress
from support.cluster import Roles
from support.label_maps import HUGE_PIXELS, write_huge_arrays
from support.processes import descendants, is_alive, listening_ports
from support.scans import Workspace, counts_by_path
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc.store.catalog.records import Job
    from statsvc_workers.jobs.lease import Outcome

FILES = 60
STALL_TIMEOUT = 3.0


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[Roles]:
    """A scheduler and a worker, whose processes the test may stop with SIGSTOP."""
    running = Roles(folder=tmp_path, environment={**os.environ})
    try:
        running.dask = running.add_scheduler(protocol="tcp")
        running.add_worker("worker1")
        yield running
    finally:
        for role in running.roles.values():
            if is_alive(role.pid):
                os.kill(role.pid, signal.SIGCONT)
        running.stop()


@pytest.fixture
def workspace(roles: Roles, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a dataset that one worker counts for seconds."""
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    remote = RemoteCluster(roles.dask, stall_timeout=STALL_TIMEOUT)
    workspace = Workspace(tmp_path / "home", catalog, remote, stall_timeout=STALL_TIMEOUT)
    labels = write_huge_arrays(tmp_path / "labels", FILES)
    catalog.create_dataset("huge", str(labels), "*.npy", Configuration())
    wait_for_workers(workspace, 1)
    yield workspace
    remote.close()
    catalog.close()


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time in which an attempt waits for the scheduler and a worker."""
    monkeypatch.setattr(remote_cluster, "WAIT_SECONDS", 3.0)


def wait_for_workers(workspace: Workspace, workers: int) -> None:
    """Wait until the scheduler has this number of workers."""

    def poll() -> bool:
        try:
            return len(workspace.cluster.client().nthreads()) == workers
        except (ClusterAway, OSError):
            return False

    wait_for(poll)


def stop_process(pid: int) -> Callable[[], None]:
    return lambda: os.kill(pid, signal.SIGSTOP)


def scan_while(
    workspace: Workspace, *actions: tuple[Callable[[Progress], Any], Callable[[], Any]]
) -> tuple[Outcome, Job]:
    """Scan; call the second function of each pair, one after the other, when the first returns true."""
    progress, remaining = Progress(), list(actions)

    def stop() -> bool:
        if remaining and remaining[0][0](progress):
            remaining.pop(0)[1]()
        return False

    outcome, job = workspace.scan("huge", stop, progress)
    assert not remaining
    return outcome, job


def has_counted(progress: Progress) -> bool:
    return progress.counted > 0


def has_warned(progress: Progress) -> bool:
    return bool(progress.warnings)


def assert_all_counted(workspace: Workspace) -> None:
    expected = int(np.bincount(np.zeros(HUGE_PIXELS, np.uint8))[0])
    assert list(counts_by_path(workspace.version("huge")).values()) == [{0: expected}] * FILES


@pytest.mark.parametrize("nanny", [False, True])
def test_a_worker_that_hangs_is_replaced_and_named(roles: Roles, workspace: Workspace, nanny: bool) -> None:
    role = roles.add_worker("worker2", nanny=nanny)
    wait_for_workers(workspace, 2)
    [pid] = [pid for pid in descendants(role.pid) if listening_ports([pid])] if nanny else [role.pid]
    actions = [(has_counted, stop_process(pid))]
    if not nanny:
        # It delivers what it has counted while another worker counts the same label maps.
        actions.append((has_warned, lambda: os.kill(pid, signal.SIGCONT)))
    outcome, job = scan_while(workspace, *actions)
    assert (outcome.error, job.state, job.attempt) == (None, "succeeded", 1)
    assert_all_counted(workspace)
    [warning] = job.progress["warnings"]
    assert "the Dask worker tcp://127.0.0.1:" in warning
    assert "gave no sign of life for " in warning
    assert ("is restarted" if nanny else "it has no nanny that restarts it") in warning
    wait_for(lambda: not is_alive(pid))
    wait_for_workers(workspace, 2 if nanny else 1)


def test_a_worker_that_hung_before_the_job_does_not_block_it(roles: Roles, workspace: Workspace) -> None:
    role = roles.add_worker("worker2")
    wait_for_workers(workspace, 2)
    os.kill(role.pid, signal.SIGSTOP)
    outcome, job = workspace.scan("huge")
    assert (outcome.error, job.state, job.attempt) == (None, "succeeded", 1)
    assert_all_counted(workspace)
    assert len(job.progress["warnings"]) == 1


@pytest.mark.usefixtures("short_wait")
def test_a_job_whose_only_worker_hangs_is_requeued_with_the_reason(
    roles: Roles, workspace: Workspace
) -> None:
    _, job = scan_while(workspace, (has_counted, stop_process(roles.roles["worker1"].pid)))
    assert job.state == "queued"
    assert "has no worker that accepts work" in str(job.error)
    assert "gave no sign of life" in job.progress["warnings"][0]


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("during", ["a job", "no job"])
def test_a_job_is_requeued_if_the_scheduler_hangs(roles: Roles, workspace: Workspace, during: str) -> None:
    pid = roles.roles["scheduler"].pid
    if during == "a job":
        _, job = scan_while(workspace, (has_counted, stop_process(pid)))
        assert f"the scheduler at {roles.dask} gave no sign of life" in job.progress["warnings"][0]
    else:
        os.kill(pid, signal.SIGSTOP)
        _, job = workspace.scan("huge")
    assert job.state == "queued"
    assert f"no Dask scheduler answers at {roles.dask}" in str(job.error)
    os.kill(pid, signal.SIGCONT)
    outcome, job = workspace.scan("huge")
    assert (outcome.error, job.state, job.attempt) == (None, "succeeded", 2)
    assert_all_counted(workspace)
