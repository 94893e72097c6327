"""Worker processes that die in the middle of a scan, by accident or by what they read."""

from __future__ import annotations

import os
import signal
import zlib
from typing import TYPE_CHECKING

import pytest

import statsvc_workers.cluster.local_cluster
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.progress import Progress
from support.damage import ADAM7, SIGNATURE, chunk
from support.label_maps import FILE_COUNT, write_folder
from support.permissions import limited_file_size, without_root_privileges
from support.scans import Workspace, assert_matches_folder, scan_numbers
from support.waiting import wait_until_stable
from support.worker_pids import worker_pids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY = 200
MEMORY = 320 << 20


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    made = LocalCluster(workers=request.param, memory_limit=MEMORY)
    yield made
    made.close()


def huge_png(side: int) -> bytes:
    """Return a small file of a big interlaced label map, which is decoded as a whole: all zeros."""
    header = side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 1))
    packer = zlib.compressobj(1)
    data = b""
    for y, x, dy, dx in ADAM7:
        height, width = -(-(side - y) // dy), -(-(side - x) // dx)
        row = bytes(width + 1)
        data += b"".join(packer.compress(row) for _ in range(height))
    data += packer.flush()
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_a_worker_killed_in_mid_scan_costs_nothing_but_time(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "labels", files=MANY)
    workspace.add(folder)
    progress = Progress()
    asked: list[int] = []
    assert isinstance(workspace.cluster, LocalCluster)
    victims = worker_pids(workspace.cluster)

    def stop() -> bool:
        # The second time a batch has come back, and others are at the workers.
        if progress.stage == "counting":
            asked.append(0)
            if len(asked) in (2, 5):
                os.kill(victims.pop(), signal.SIGKILL)
        return False

    outcome, job = workspace.scan(stop=stop, progress=progress)
    assert victims == []
    assert (outcome.error, job.state) == (None, "succeeded")
    assert scan_numbers(outcome) == {"counted": MANY, "reused": 0, "removed": 0, "failed": 0, "recovered": 0}
    assert_matches_folder(workspace.version(), folder)


# One worker, so that whatever waits, waits at the one that dies.
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_sample_that_kills_its_worker_is_reported_without_its_neighbors(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels", files=20)
    (folder / "train/05-huge.png").write_bytes(huge_png(16000))
    wait_until_stable(folder)
    workspace.add(folder)
    outcome, job = workspace.scan()
    assert (outcome.error, job.state) == (None, "succeeded")
    failed = dict(outcome.progress.failures)
    assert sorted(failed) == ["train/05-huge.png"]
    for reason in failed.values():
        assert "worker process that read it was killed, probably because it ran out of memory" in reason
    assert scan_numbers(outcome)["counted"] == 20
    count, named = workspace.version().failures()
    assert (count, [path for path, _ in named]) == (1, sorted(failed))
    for path in failed:
        (folder / path).unlink()
    version = workspace.version()
    good = version.array("status") == 0
    assert version.array("path")[good].tolist() == sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*.png")
    )
    assert int(version.totals().pixels.sum()) == 20 * 16 * 24


def test_little_memory_means_fewer_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsvc_workers.cluster.local_cluster, "cores", lambda: 8)
    monkeypatch.setattr(
        statsvc_workers.cluster.local_cluster, "memory", lambda: 100 << 20
    )  # less than a worker has when idle
    folder = write_folder(tmp_path / "labels", files=40)
    cluster = LocalCluster()
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    try:
        place = Workspace(tmp_path / "home", catalog, cluster)
        place.add(folder)
        outcome, job = place.scan()
        assert (outcome.error, job.state) == (None, "succeeded")
        assert_matches_folder(place.version(), folder)
        assert cluster.workers == len(worker_pids(cluster)) == 1
        pauses = cluster.client().run(lambda dask_worker: dask_worker.memory_manager.memory_pause_fraction)
        assert set(pauses.values()) == {False}
    finally:
        cluster.close()
        catalog.close()


def test_workers_have_their_share_of_the_memory_and_never_less_than_they_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statsvc_workers.cluster.local_cluster, "cores", lambda: 8)
    for memory, count in ((24 << 30, 8), (2 << 30, 4), (1 << 30, 2), (600 << 20, 1), (1, 1)):
        monkeypatch.setattr(statsvc_workers.cluster.local_cluster, "memory", lambda memory=memory: memory)
        assert LocalCluster().workers == count
    assert LocalCluster(workers=3).workers == 3


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_an_unwritable_store_fails_the_job_immediately_with_advice(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "labels")
    workspace.add(folder)
    workspace.files.mkdir()
    workspace.files.chmod(0o555)
    with without_root_privileges():
        outcome, job = workspace.scan()
    assert (job.state, job.attempt) == ("failed", 1)
    assert f"{workspace.files}" in str(job.error)
    assert "Permission denied; grant this user read and write permission" in str(job.error)
    assert outcome.error == job.error
    assert [record.message for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []
    workspace.files.chmod(0o755)
    outcome, job = workspace.scan()
    assert (job.state, outcome.progress.counted) == ("succeeded", FILE_COUNT)
    assert_matches_folder(workspace.version(), folder)


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_full_disk_is_reported_in_one_line_and_the_next_scan_continues(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "labels")
    workspace.add(folder)
    workspace.cluster.client()  # its processes are not to inherit the limit
    job = workspace.lease()
    with limited_file_size(64):
        outcome = workspace.run(job)
    assert "File too large; raise the limit on file sizes" in str(outcome.error)
    assert "\n" not in str(outcome.error)
    assert "Traceback" not in caplog.text
    assert "Its lease will expire" in caplog.text
    assert list(workspace.files.rglob(".*")) == []
    with workspace.catalog.write() as connection:
        connection.execute("UPDATE jobs SET lease_until = 1")  # as in 15 s, or when its process ends
    outcome, job = workspace.scan()
    assert (job.state, outcome.progress.counted) == ("succeeded", FILE_COUNT)
    assert_matches_folder(workspace.version(), folder)
