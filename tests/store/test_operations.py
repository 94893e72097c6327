"""Long operation: many jobs, schedules that fail, clocks that move, missing runners, restored catalogs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from statsvc.api.app import build_app
from statsvc.errors import CatalogError
from statsvc.store import home as homes
from statsvc.store import retention
from statsvc.store.catalog import idempotency, job_rows, jobs, old_jobs, operations, overview, triggers
from statsvc.store.catalog.catalog import Catalog
from support.catalogs import REMOTE_OWNER, add_dataset, execute_sql, trace_sql
from support.commands import statsvc
from support.contract import ApiClient
from support.publishing import label_maps, publish, refresh_catalog_state
from support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home


@pytest.fixture
def local(tmp_path: Path) -> Home:
    """An empty home with SQLite."""
    return homes.resolve(str(tmp_path / "home"))


def add_jobs(catalog: Catalog, dataset: Dataset, count: int, **values: Any) -> list[str]:
    """Insert ended jobs, one a minute up to the present; return their ids, oldest first."""
    ids = [uuid.uuid4().hex[:12] for _ in range(count)]
    row = {"state": "succeeded", "error": None} | values
    with catalog.write() as connection:
        clock = connection.clock()
        connection.execute_many(
            """
            INSERT INTO jobs
                (id, dataset_uid, state, error, "full", max_removed, attempt, released, progress, created_at,
                 started_at, finished_at)
            VALUES
                (:id, :uid, :state, :error, FALSE, 0.1, 1, 0, '{}', :at, :at, :at + 1)
            """,
            [
                row | {"id": job_id, "uid": dataset.uid, "at": clock - 60.0 * (count - number)}
                for number, job_id in enumerate(ids)
            ],
        )
    return ids


def set_due(catalog: Catalog, seconds: float) -> None:
    """Make the schedules due in some seconds."""
    execute_sql(catalog, "UPDATE triggers SET due_at = clock() + :seconds", seconds=seconds)


def test_looking_for_jobs_reads_an_index_however_many_have_ended(
    local: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(local.database)
    dataset = add_dataset(catalog)
    add_jobs(catalog, dataset, 2000)
    queries: list[str] = []
    trace_sql(catalog, monkeypatch, lambda _, sql: queries.append(sql))
    assert jobs.lease(catalog, REMOTE_OWNER) is None
    assert len(overview.newest_jobs(catalog, [dataset])) == 1
    jobs.recent(catalog, dataset, 10)
    jobs.recent(catalog, None, 10, state="failed")
    operations.read(catalog)
    monkeypatch.undo()
    selects = [sql for sql in queries if sql.split()[0] == "SELECT"]
    assert len(selects) >= 9
    with catalog.read() as connection:
        plans = [row.detail for sql in selects for row in connection.rows(f"EXPLAIN QUERY PLAN {sql}")]
    assert not [plan for plan in plans if plan.startswith("SCAN jobs")]
    assert [plan for plan in plans if "ix_jobs_state_created_at" in plan]
    catalog.close()


def test_gc_deletes_old_jobs_except_those_that_something_refers_to(home: Home, catalog: Catalog) -> None:
    first, second = add_dataset(catalog, "first"), add_dataset(catalog, "second")
    with_key, _ = idempotency.submit_once(catalog, "", "key", first, full=False, max_removed=0.1)
    jobs.cancel(catalog, with_key.id)
    old, new = add_jobs(catalog, first, 1200), add_jobs(catalog, second, 3)
    with catalog.write() as connection:
        connection.execute("UPDATE jobs SET created_at = 1 WHERE id = :id", id=with_key.id)
    assert retention.collect(catalog, home.store, keep_jobs=50).jobs == 1150
    assert [job.id for job, _ in jobs.recent(catalog, first, 100)] == [*reversed(old[-50:]), with_key.id]
    assert len(jobs.recent(catalog, second, 100)) == len(new)
    assert retention.collect(catalog, home.store, keep_jobs=50).jobs == 0


def test_gc_goes_past_portions_of_jobs_that_are_kept(
    home: Home, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_jobs, "JOBS_PER_TRANSACTION", 7)
    dataset = add_dataset(catalog)
    ids = add_jobs(catalog, dataset, 60)
    kept = [*ids[:15], ids[20]]  # more than two whole portions
    with catalog.write() as connection:
        connection.execute_many(
            """
            INSERT INTO idempotency_keys ("key", request, job_id, created_at)
            VALUES (:id, '', :id, clock())
            """,
            [{"id": job_id} for job_id in kept],
        )
    assert retention.collect(catalog, home.store, keep_jobs=10).jobs == 60 - 10 - len(kept)
    left = [job.id for job, _ in jobs.recent(catalog, dataset, 100)]
    assert left == [*reversed(ids[-10:]), *reversed(kept)]


def test_a_superseded_job_is_cancelled_with_the_name_of_its_successor(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    running = jobs.lease(catalog, REMOTE_OWNER)
    assert running is not None
    newer, _ = jobs.submit(catalog, dataset)
    jobs.requeue(catalog, running, "its worker died")
    ended = jobs.get(catalog, running.id)
    assert (ended.state, newer.id in str(ended.error)) == ("cancelled", True)


def test_a_clock_that_was_set_back_delays_no_scan(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    triggers.change(catalog, dataset, {"every": 5.0})
    assert triggers.queue_due(catalog) == []
    set_due(catalog, 3600.0)  # what a clock stored that is now an hour ahead
    ((_, job),) = triggers.queue_due(catalog)
    execute_sql(
        catalog,
        """
        UPDATE jobs
        SET state = 'succeeded', created_at = clock() + 3500, finished_at = clock() + 3590
        WHERE id = :id
        """,
        id=job.id,
    )
    assert triggers.queue_unless_since(catalog, dataset, 3.0) is not None


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_clock_that_was_set_back_delays_no_attempt(catalog: Catalog, state: str) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    first = jobs.lease(catalog, REMOTE_OWNER)
    assert first is not None
    if state == "queued":
        jobs.requeue(catalog, first, "its worker died")
    with catalog.read() as connection:
        left = connection.scalar("SELECT lease_until - clock() FROM jobs WHERE id = :id", id=first.id)
    assert 0 < left <= 15
    assert jobs.lease(catalog, REMOTE_OWNER) is None  # the lease, or the pause, is not over
    # What the clock stored before it was set back by an hour.
    execute_sql(catalog, "UPDATE jobs SET lease_until = lease_until + 3600 WHERE id = :id", id=first.id)
    second = jobs.lease(catalog, REMOTE_OWNER)
    assert second is not None
    assert (second.id, second.attempt) == (first.id, 2)
    assert jobs.lease(catalog, REMOTE_OWNER) is None


def test_a_schedule_whose_scans_fail_is_due_less_often(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    triggers.change(catalog, dataset, {"every": 60.0})
    queued = []
    for minute in range(1, 64):
        set_due(catalog, -0.1)
        if due := triggers.queue_due(catalog):
            queued.append(minute)
            job = jobs.lease(catalog, REMOTE_OWNER)
            assert job is not None
            assert job.id == due[0][1].id
            jobs.fail(catalog, job, "the folder does not exist; is the disk mounted?")
        # A minute passes.
        execute_sql(catalog, "UPDATE jobs SET created_at = created_at - 60, finished_at = finished_at - 60")
    assert queued == [1, 2, 4, 8, 16, 32]
    ((_, failing),) = operations.read(catalog).failing.items()
    assert (failing.count, failing.succeeded_at) == (6, None)
    assert "is the disk mounted" in failing.error
    add_jobs(catalog, dataset, 1)
    assert operations.read(catalog).failing == {}


def test_a_missing_runner_and_failing_scans_show_in_answers(home: Home, catalog: Catalog) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    dataset = catalog.dataset("street")
    with ApiClient(build_app(home)) as client:
        assert "warning" not in client.get("/weights").headers
        assert client.get("/datasets/street").json()["warnings"] == []
        add_jobs(catalog, dataset, 13, state="failed", error="disk gone")
        triggers.change(catalog, dataset, {"every": 3600.0})
        assert "no runner" not in str(client.get("/datasets/street").json()["warnings"])  # nothing is due
        set_due(catalog, -120.0)
        warnings = client.get("/datasets/street").json()["warnings"]  # reads the state anew
        assert any("because the last 13 scans failed" in warning for warning in warnings)
        assert any("no runner has reported" in warning for warning in warnings)
        assert "the last 13 scans failed" in client.get("/weights").headers["warning"]
        assert "warning" not in client.get("/weights?version=1").headers
        ready = client.get("/readyz").json()
        assert "no runner" in ready["runners"]
        assert "1 dataset" in ready["scans"]
        assert "street" not in str(ready)
        operations.report_runner(catalog, "me")
        add_jobs(catalog, dataset, 1)
        assert client.get("/datasets/street").json()["warnings"] == []
        ready = client.get("/readyz").json()
        assert (ready["runners"], ready["scans"]) == ("ok", "ok")
        operations.remove_runner(catalog, "me")
        assert operations.read(catalog).runners == 0


def test_a_scan_that_succeeds_while_its_failures_are_read_is_no_failure(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = add_dataset(catalog)
    add_jobs(catalog, dataset, 1, state="failed", error="disk gone")
    add_jobs(catalog, dataset, 1)
    monkeypatch.setattr(operations, "_failing", lambda _connection: [dataset.uid])
    assert operations.read(catalog).failing == {}


def test_an_unforeseen_error_does_not_end_the_refresh(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as client:
        monkeypatch.setattr(operations, "read", lambda _catalog: 1 / 0)
        assert client.get("/datasets/street").status_code == 200


def test_a_job_that_no_runner_takes_is_reported(catalog: Catalog) -> None:
    jobs.submit(catalog, add_dataset(catalog))
    assert operations.read(catalog).missing_runner() is None
    execute_sql(catalog, "UPDATE jobs SET created_at = clock() - 7200")
    assert operations.read(catalog).missing_runner() == ("no runner has reported; 1 job has waited for 2 h")
    assert jobs.lease(catalog, REMOTE_OWNER) is not None  # a scan in the foreground needs no runner
    assert operations.read(catalog).missing_runner() is None


def test_a_restored_catalog_never_assigns_a_number_again(local: Home) -> None:
    catalog = Catalog.open(local.database)
    for seed in (1, 2):
        publish(local, "street", label_maps(seed), num_classes=4)
    statsvc("gc", "--pause", "--home", local.folder)
    backup = local.folder / "backup.sqlite"
    database = sqlite3.connect(local.folder / "catalog.sqlite")
    database.execute(f"VACUUM INTO '{backup}'")
    database.close()
    for seed in (3, 4):
        publish(local, "street", label_maps(seed), num_classes=4)
    publish(local, "field", label_maps(5), num_classes=4)
    with ApiClient(build_app(local)) as client:
        assert client.get("/weights?dataset=street&version=4").status_code == 200
        catalog.close()
        for file in local.folder.glob("catalog.sqlite*"):
            file.unlink()
        backup.rename(local.folder / "catalog.sqlite")
        statsvc("gc", "--resume", "--restored", "--home", local.folder)
        assert publish(local, "street", label_maps(6), num_classes=4).number > 1000
        assert publish(local, "field", label_maps(6), num_classes=4).number > 1000
        refresh_catalog_state(client)
        assert client.get("/weights?dataset=street&version=4").status_code == 404
        assert client.get("/weights?dataset=street").json()["version"] > 1000


def test_a_lost_catalog_is_not_replaced_by_an_empty_one(local: Home) -> None:
    publish(local, "street", label_maps(), num_classes=4)
    for file in local.folder.glob("catalog.sqlite*"):
        file.unlink()
    for _ in range(2):
        with pytest.raises(CatalogError, match="statsvc rebuild"):
            build_app(local)
        assert not list(local.folder.glob("catalog.sqlite*"))
    assert "statsvc rebuild" in statsvc("datasets", "--home", local.folder, code=1).stderr
    Catalog.open(local.database).close()  # for example by an older release
    with pytest.raises(CatalogError, match="statsvc rebuild"):
        build_app(local)
    statsvc("rebuild", "--home", local.folder)
    with ApiClient(build_app(local)) as client:
        assert client.get("/weights").json()["version"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("inodes", [False, True], ids=["bytes", "inodes"])
def test_a_full_disk_can_be_read_and_relieved(tmp_path: Path, inodes: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=24m" + (",nr_inodes=200" if inodes else "")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]).returncode:
        pytest.skip("this system cannot mount a tmpfs")
    try:
        home = homes.resolve(str(disk / "home"))
        publish(home, "street", label_maps(), num_classes=4)
        orphan = home.store.folders()[0] / "dead-1"
        (orphan / "counts").write(bytes(1000))
        os.utime(str(orphan), (1, 1))
        os.utime(str(orphan / "counts"), (1, 1))
        with contextlib.suppress(OSError):
            if inodes:
                for number in range(1000):
                    (disk / f"filler-{number}").touch()
            with (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
        assert "1 orphan deleted" in statsvc("gc", "--home", home.folder).stdout
        assert "class" in statsvc("weights", "street", "--home", home.folder).stdout
        with serving(home) as url:
            assert httpx2.get(f"{url}/weights").json()["version"] == 1
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_job_rows_may_run_only_once_their_dataset_is_free(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    assert jobs.lease(catalog, REMOTE_OWNER) is not None
    jobs.submit(catalog, dataset)
    with catalog.write() as connection:
        assert [row.state for row in job_rows.runnable(connection)] == ["running"]
