"""Versions in a bucket from end to end, and how jobs and the API behave while a store is unavailable."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.common import object_urls
from statsvc.dataset.histogram import Histogram
from statsvc.errors import InvalidParameter, StoreError, StoreUnavailable
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.engine import upgrade_url
from statsvc.store.importing import import_counts
from statsvc.store.publication import open_version
from statsvc.store.versions import bucket as buckets
from statsvc.store.versions.open_location import open_location
from statsvc_workers.jobs.progress import Progress
from support.commands import statsvc
from support.label_maps import FILE_COUNT, expected_counts, write_folder
from support.object_faults import FaultyProxy, faulty_proxy
from support.object_store import BUCKET, S3Server
from support.permissions import limited_file_size
from support.postgres import CRASH_SAFE_SETTINGS, PostgresServer, postgres_server
from support.publishing import label_maps, publish, refresh_catalog_state
from support.scans import Workspace, assert_matches_folder
from support.servers import serving
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from support.stores import StoredFiles


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps that no test changes, so that none waits for their time stamps."""
    folder = write_folder(tmp_path_factory.mktemp("labels"), files=FILE_COUNT)
    wait_until_stable(folder)
    return folder


@dataclass
class BucketWorkspace(Workspace):
    """A `Workspace` whose versions are in a bucket."""

    bucket: Location | None = None

    @property
    def store(self) -> Location:
        assert self.bucket is not None
        return self.bucket


@pytest.fixture
def faulty(s3: S3Server, bucket: StoredFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A faulty proxy in front of the bucket's server, which this process uses with short timeouts."""
    monkeypatch.setattr(object_urls, "RETRIES", 1)
    monkeypatch.setattr(object_urls, "TIMEOUT_SECONDS", 4.0)
    monkeypatch.setattr(buckets, "SHORT_RETRIES", 1)
    monkeypatch.setattr(buckets, "SHORT_TIMEOUT_SECONDS", 2.0)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def lasting() -> Iterator[PostgresServer]:
    """A PostgreSQL server whose commits survive an immediate shutdown."""
    with postgres_server(CRASH_SAFE_SETTINGS) as made:
        yield made


@pytest.fixture
def workspace(tmp_path: Path, cluster: LocalCluster, bucket: StoredFiles) -> Iterator[BucketWorkspace]:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    yield BucketWorkspace(tmp_path / "home", catalog, cluster, bucket=bucket.store)
    catalog.close()


# End to end


def test_a_dataset_is_scanned_served_changed_and_collected_in_a_bucket(
    bucket: StoredFiles, postgresql: str, tmp_path: Path
) -> None:
    labels = write_folder(tmp_path / "labels")
    home = ("--home", tmp_path / "home", "--database", postgresql, "--store", str(bucket.store))
    scan = ("scan", "--name", "streets", "--workers", "1", *home)
    assert "version 1" in statsvc(*scan, labels).stderr
    (labels / "train/00.png").unlink()
    assert "1 removed" in statsvc(*scan).stderr
    listed = json.loads(statsvc("versions", "streets", "--json", *home).stdout)
    assert [row["arrays"].startswith(f"{bucket.store}/") for row in listed] == [True, True]
    resolved = homes.resolve(str(tmp_path / "home"), postgresql, str(bucket.store))
    with serving(resolved, roots=[tmp_path]) as url:
        answer = httpx2.get(f"{url}/weights").json()
        counted = zip(
            expected_counts(labels).ids, expected_counts(labels).table().sum(axis=0).tolist(), strict=True
        )
        assert answer["pixels"] == sum(pixels for raw, pixels in counted if raw != 255)
        changed = httpx2.patch(f"{url}/datasets/streets", json={"num_classes": 9, "keep": 1}).json()
        assert changed["version"] == 3
        assert len(httpx2.get(f"{url}/weights").json()["weights"]) == 9
    assert "rows of 1 deleted" in statsvc("gc", "--grace", "0s", *home).stdout
    assert "3 versions checked, 0 damaged" in statsvc("verify", *home).stderr
    assert all(name.count("/") > 1 for name in bucket.names()), "an object lies above the groups"
    assert not (tmp_path / "home").exists() or list((tmp_path / "home").rglob("zarr.json")) == []


def test_a_killed_scan_continues_from_its_checkpoints_in_the_bucket(
    workspace: BucketWorkspace, bucket: StoredFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "labels", files=200)
    workspace.add(folder)
    program = (
        "import sys, os, signal\n"
        "import statsvc_workers.jobs.count, statsvc.store.versions.checkpoints as checkpoints\n"
        "statsvc_workers.jobs.count.CHECKPOINT_SECONDS = 0\n"
        "real = checkpoints.write_checkpoint\n"
        "def write_checkpoint(*arguments):\n"
        "    real(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints.write_checkpoint = write_checkpoint\n"
        "from statsvc.cli import main\n"
        "main()\n"
    )
    home = ("--home", str(workspace.home), "--store", str(bucket.store))
    scan = subprocess.run(
        [sys.executable, "-c", program, "scan", "--name", "streets", *home], capture_output=True, timeout=120
    )
    assert scan.returncode == -signal.SIGKILL, scan.stderr
    assert [name for name in bucket.names() if name.endswith(".part")] != []
    job = jobs.lease(workspace.catalog, jobs.process_identity())
    assert job is not None
    assert job.attempt == 2
    outcome = workspace.run(job)
    assert outcome.error is None
    assert outcome.progress.recovered > 0
    assert_matches_folder(workspace.version(), folder)
    assert [name for name in bucket.names() if "/parts/" in name] == []


def test_a_version_of_many_rows_is_read_in_few_requests(
    bucket: StoredFiles, faulty: FaultyProxy, tmp_path: Path
) -> None:
    home = homes.resolve(str(tmp_path / "home"), None, str(bucket.store))
    rng = np.random.default_rng(5)
    maps = {f"{number:05}.png": rng.integers(0, 3, (1, 2)).astype(np.uint8) for number in range(9000)}
    record = publish(home, "streets", maps)
    version = open_version(home.store, "streets", record)
    faulty.requests.clear()
    version.totals()
    assert len(faulty.requests) <= 12
    expected = np.stack([np.bincount(labels.ravel(), minlength=3) for labels in maps.values()])
    faulty.requests.clear()
    np.testing.assert_array_equal(np.concatenate([b.counts for b in version.blocks()]), expected)
    chunks = [path for _, path in faulty.requests if "/counts/c/" in path]
    assert len(chunks) == len(set(chunks)) == 5
    assert len(faulty.requests) <= 5 + 7


# A service that fails


@pytest.mark.parametrize("how", ["500", "hang"])
def test_a_job_waits_for_an_unavailable_bucket_and_reports_it(
    workspace: BucketWorkspace, faulty: FaultyProxy, labels: Path, how: str
) -> None:
    workspace.add(labels)
    faulty.behavior = lambda method, path: how if method == "PUT" and "counts" in path else "relay"
    outcome, job = workspace.scan()
    assert job.state == "queued"
    assert str(workspace.store) in str(outcome.error)
    assert "\n" not in str(outcome.error)
    assert "Traceback" not in str(outcome.error)
    faulty.always("relay")
    with workspace.catalog.write() as connection:
        connection.execute("UPDATE jobs SET lease_until = NULL")  # as if the pause were over
    again = jobs.lease(workspace.catalog, jobs.process_identity())
    assert again is not None
    outcome = workspace.run(again)
    assert (outcome.error, outcome.progress.recovered) == (None, FILE_COUNT)
    assert_matches_folder(workspace.version(), labels)


def test_a_job_fails_immediately_if_the_bucket_denies_access(
    workspace: BucketWorkspace, faulty: FaultyProxy, labels: Path
) -> None:
    workspace.add(labels)
    faulty.behavior = lambda method, _path: "403" if method == "PUT" else "relay"
    outcome, job = workspace.scan()
    assert (job.state, job.attempt) == ("failed", 1)
    assert "access was denied; check the credentials" in str(job.error)
    assert outcome.error == job.error


def test_a_temporarily_unreadable_base_is_not_treated_as_damaged(
    workspace: BucketWorkspace, faulty: FaultyProxy, labels: Path
) -> None:
    workspace.add(labels)
    workspace.scan()
    faulty.behavior = lambda method, _path: "503" if method == "GET" else "relay"
    outcome, job = workspace.scan()
    assert job.state == "queued"
    assert "streets version 1 cannot be read" in str(outcome.error)
    assert outcome.progress.counted == 0


@pytest.mark.parametrize("how", ["500", "drop", "hang"])
def test_cached_answers_continue_and_others_are_503_with_the_reason(
    bucket: StoredFiles, faulty: FaultyProxy, tmp_path: Path, how: str
) -> None:
    home = homes.resolve(str(tmp_path / "home"), None, str(bucket.store))
    publish(home, "street", label_maps(1), num_classes=4)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        cached = client.get("/weights")
        assert (cached.status_code, client.get("/readyz").json()["store"]) == (200, "ok")
        faulty.always(how)
        assert client.get("/weights").content == cached.content
        assert client.get("/weights?normalize=none").status_code == 200  # from the counts in memory
        unread = client.get("/datasets/street/samples")
        assert unread.status_code == 503
        assert unread.headers["Retry-After"] == "5"
        problem = unread.json()
        assert problem["type"] == "/problems/store-unavailable"
        assert str(bucket.store) in problem["detail"]
        assert str(bucket.store) in client.get("/readyz").json()["store"]
        refused = client.patch("/datasets/street", json={"num_classes": 7})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-unavailable")
        faulty.always("relay")
        assert client.get("/datasets/street/samples").status_code == 200
        assert client.get("/readyz").json()["store"] == "ok"
        assert client.patch("/datasets/street", json={"num_classes": 7}).json()["version"] == 2


# A disk that fails, and a database


def test_a_full_or_inaccessible_disk_gives_503_except_for_cached_answers(
    tmp_path: Path,
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(1), num_classes=4)
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        cached = client.get("/weights").content
        with limited_file_size(64):
            full = client.patch("/datasets/street", json={"num_classes": 7})
        assert (full.status_code, full.json()["type"]) == (503, "/problems/store-unavailable")
        assert "File too large" in full.json()["detail"]
        assert client.get("/weights").content == cached
        assert client.patch("/datasets/street", json={"num_classes": 7}).json()["version"] == 2
        refresh_catalog_state(client)
    assert sorted(v.name for v in home.store.folders()[0].folders()) == sorted(
        v.name for v in home.store.folders()[0].folders() if (v / "zarr.json").exists()
    )


def test_a_temporarily_unreadable_array_is_not_treated_as_damaged(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    record = publish(home, "street", label_maps(1), num_classes=4)
    version = open_version(home.store, "street", record)
    version.array("status")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match=r"street version 1 cannot be read: .*Too many open files"):
            version.totals()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert version.totals().pixels.sum() == record.pixels


def test_an_import_that_cannot_be_written_leaves_no_empty_dataset(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    upgrade_url(home.database)
    catalog = Catalog.open(home.database)
    ids = np.arange(2)
    counts = Histogram(ids, ids >= 0, ids + 5, None, None, None)
    (tmp_path / "file").touch()
    with pytest.raises((OSError, StoreError)):
        import_counts(catalog, open_location(str(tmp_path / "file" / "versions")), "street", counts, {})
    assert catalog.datasets() == []
    record = import_counts(catalog, home.store, "street", counts, {})
    assert (record.number, record.pixels) == (1, 11)
    assert open_version(home.store, "street", record).totals().pixels.tolist() == [5, 6]
    catalog.close()


def test_a_job_survives_a_restart_of_the_database(
    lasting: PostgresServer, cluster: LocalCluster, bucket: StoredFiles, labels: Path
) -> None:
    url = lasting.url(lasting.database())
    upgrade_url(url)
    catalog = Catalog.open(url)
    workspace = BucketWorkspace(labels, catalog, cluster, bucket=bucket.store)
    workspace.add(labels)
    progress = Progress()
    restarted: list[float] = []

    def stop() -> bool:
        if progress.stage == "writing" and not restarted:
            restarted.append(time.monotonic())
            lasting.stop()
            lasting.start()
        return False

    outcome, job = workspace.scan(stop=stop, progress=progress)
    assert restarted
    assert (outcome.error, job.state) == (None, "succeeded")
    assert_matches_folder(workspace.version(), labels)
    catalog.close()


# Invalid and unusable stores


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://", "names no bucket"),
        ("s3://me:secret@bucket/x", "credentials belong in the environment"),
        ("http://elsewhere/bucket", "a version store cannot use http://; use a folder, or s3://"),
        ("ftp://elsewhere/x", "a version store cannot use ftp://"),
    ],
)
def test_an_invalid_store_address_is_rejected_without_printing_secrets(location: str, message: str) -> None:
    stderr = statsvc("datasets", "--store", location, code=2).stderr
    assert "--store" in stderr
    assert message in stderr
    assert "secret" not in stderr
    with pytest.raises(InvalidParameter):
        homes.resolve(None, None, location)


def test_an_unusable_store_is_reported_before_anything_starts(
    bucket: StoredFiles, faulty: FaultyProxy, tmp_path: Path
) -> None:
    for command in (["runner"], ["serve", "--no-runner", "--port", "0"]):
        stderr = statsvc(
            *command, "--home", tmp_path / "home", "--store", "s3://no-such-bucket/x", code=1
        ).stderr
        assert "s3://no-such-bucket/x: there is no such bucket" in stderr
        assert "Traceback" not in stderr
    faulty.behavior = lambda method, _path: "403" if method == "PUT" else "relay"
    stderr = statsvc("runner", "--home", tmp_path / "home", "--store", str(bucket.store), code=1).stderr
    assert "access was denied" in stderr


def test_the_error_for_a_missing_extra_names_it(bucket: StoredFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"pip install 'statsvc\[s3\]'"):
        open_location(f"s3://{BUCKET}/x").check(writing=False)
