"""Several runners on one catalog: no job twice, no number missing, one publisher whatever is stolen."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.versions import durable
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress
from support.label_maps import write_folder
from support.scans import Workspace, assert_matches_folder
from support.waiting import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.catalog.records import Job
    from statsvc_workers.jobs.lease import Outcome

JOBS, DATASETS = 100, 5


@pytest.fixture
def catalog(database: str) -> Iterator[Catalog]:
    opened = Catalog.open(database)
    yield opened
    opened.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # two hosts share no other catalog
def test_two_runners_run_a_hundred_jobs_once_each_and_leave_no_gap_in_the_numbers(
    catalog: Catalog, database: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels", files=2)
    added = [
        catalog.create_dataset(f"d{k}", str(folder), "**/*.png", Configuration()) for k in range(DATASETS)
    ]
    command = [sys.executable, "-m", "statsvc", "runner", "--device", "cpu", "--workers", "1"]
    command += ["--home", str(tmp_path / "home"), "--database", database]
    runners = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for _ in range(2)
    ]
    accepted: Counter[str] = Counter()
    owners: set[str | None] = set()
    deadline = time.monotonic() + 5 * TIMEOUT
    try:
        while len(accepted) < JOBS or any(not jobs.get(catalog, job_id).ended for job_id in accepted):
            assert time.monotonic() < deadline, [runner.poll() for runner in runners]
            for dataset in added:
                # A full one publishes whether or not a file changed.
                if len(accepted) < JOBS:
                    accepted[jobs.submit(catalog, dataset, full=True)[0].id] += 1
            owners |= {job.owner for job, _ in jobs.recent(catalog, state="running")}
            time.sleep(0.1)
    finally:
        for runner in runners:
            runner.terminate()
        errors = [runner.communicate(timeout=TIMEOUT)[1] for runner in runners]
    ended = [jobs.get(catalog, job_id) for job_id in accepted]
    assert {(job.state, job.attempt, job.error) for job in ended} == {("succeeded", 1, None)}, errors
    made = {dataset.name: catalog.versions(catalog.dataset(dataset.name), limit=JOBS) for dataset in added}
    for versions in made.values():
        assert [version.number for version in versions] == list(range(len(versions), 0, -1))
    assert sorted(v.job_id or "" for versions in made.values() for v in versions) == sorted(accepted)
    assert len(accepted) == JOBS
    assert len({owner for owner in owners if owner}) == 2  # both of them worked


def test_of_two_attempts_paused_during_publication_exactly_one_publishes(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "labels")
    cluster = LocalCluster(1)
    cluster.client()
    workspace = Workspace(tmp_path, catalog, cluster)
    dataset = workspace.add(folder)
    arrived, go = threading.Semaphore(0), threading.Event()
    real = durable.sync_tree

    def sync_tree(group: Path, upto: Path) -> None:
        real(group, upto)
        arrived.release()
        assert go.wait(60)

    monkeypatch.setattr(durable, "sync_tree", sync_tree)
    outcomes: dict[int, Outcome] = {}

    def run(job: Job) -> None:
        settings = Settings(device="cpu")
        outcomes[job.attempt] = execute(catalog, workspace.store, job, cluster, settings, Progress())

    submitted, _ = jobs.submit(catalog, dataset)
    running = []
    for attempt in (1, 2):
        job = jobs.lease(catalog, "another-host/boot/pid:[1]/17/12345")
        assert job is not None
        assert job.attempt == attempt
        running.append(threading.Thread(target=run, args=(job,)))
        running[-1].start()
        assert arrived.acquire(timeout=TIMEOUT)  # its group is complete and flushed
        if attempt == 1:
            with catalog.write() as connection:
                connection.execute("UPDATE jobs SET lease_until = 1")
    go.set()
    for thread in running:
        thread.join(60)
    assert outcomes[1].version is None
    assert outcomes[1].error is not None
    assert outcomes[2].version is not None
    now = catalog.dataset("streets")
    assert [version.job_id for version in catalog.versions(now)] == [submitted.id]
    assert (now.current_number, now.next_number) == (1, 2)
    assert workspace.groups() == {f"{dataset.uid}/{submitted.id}-2"}
    assert_matches_folder(workspace.version(), folder)
    assert np.all(workspace.version().array("status") == 0)
    cluster.close()
