"""The supervision of the processes that execute jobs."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs import executor as executors
from statsvc_workers.jobs import runner as runners
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.executor import Executor, ExecutorOptions
from support.publishing import label_maps, publish
from support.waiting import wait_for

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job
    from statsvc.store.home import Home


def options(home: Home) -> ExecutorOptions:
    return ExecutorOptions(str(home.folder), home.database, str(home.store), Settings(), 1, None, False)


class SlowExecutor:
    """In place of a process, which needs a while after the end of its job."""

    def __init__(self, _options: ExecutorOptions) -> None:
        self.is_free = self.is_killed = False

    def ready(self) -> bool:
        return True

    def alive(self) -> bool:
        return not self.is_killed

    def start(self, _job: Job) -> None:
        pass

    def ended(self) -> bool:
        return self.is_free

    def kill(self) -> None:
        self.is_killed = True


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_only_the_process_of_a_cancelled_job_is_killed_soon(
    home: Home, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr(runners, "time", clock)
    monkeypatch.setattr(runners, "Executor", SlowExecutor)
    job, _ = jobs.submit(catalog, catalog.create_dataset("street", "/labels", "*", Configuration()))
    supervisor: Any = runners._Supervisor(catalog, options(home))
    supervisor.step()
    [running] = supervisor._running
    if is_cancelled:
        jobs.cancel(catalog, job.id)
    else:
        jobs.succeed_unchanged(catalog, running.job, {})
    supervisor.step()
    passed[0] = 2 * runners.KILL_SECONDS
    other, _ = jobs.submit(catalog, catalog.create_dataset("field", "/labels", "*", Configuration()))
    supervisor.step()
    assert running.executor.is_killed is is_cancelled
    assert jobs.get(catalog, other.id).state == "running"  # it does not wait for the process
    running.executor.is_free = True
    supervisor.step()
    assert (supervisor._idle is running.executor) is not is_cancelled


def test_a_job_whose_dataset_was_deleted_before_it_began_ends_quietly(home: Home, catalog: Catalog) -> None:
    jobs.submit(catalog, catalog.create_dataset("street", "/labels", "*", Configuration()))
    job = jobs.lease(catalog, jobs.process_identity())
    assert job is not None
    jobs.cancel(catalog, job.id)
    catalog.delete_dataset("street")
    executors._run_job(catalog, home, LocalCluster(1), Settings(), job.id, job.attempt, threading.Event())


def test_no_process_replaces_a_lost_catalog_by_an_empty_one(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    for file in home.folder.glob("catalog.sqlite*"):
        file.unlink()
    executor = Executor(options(home))

    def has_ended() -> bool:
        try:
            return executor.ready() and False
        except (EOFError, OSError):
            return True

    wait_for(has_ended)
    executor.kill()
    assert not list(home.folder.glob("catalog.sqlite*"))
