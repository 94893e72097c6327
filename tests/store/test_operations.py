"""Long operation: many jobs, schedules that fail, clocks that move, missing runners, restored catalogs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import sqlalchemy as sa

from statsvc.api.app import build_app
from statsvc.errors import CatalogError
from statsvc.store import home as homes
from statsvc.store import retention
from statsvc.store.catalog import idempotency, job_rows, jobs, operations, overview, triggers
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.schema import idempotency_keys as keys_table
from statsvc.store.catalog.schema import jobs as jobs_table
from statsvc.store.catalog.schema import now
from statsvc.store.catalog.schema import triggers as triggers_table
from support.catalogs import REMOTE_OWNER, add_dataset
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
    row = {
        "dataset_uid": dataset.uid,
        "state": "succeeded",
        "full": False,
        "max_removed": 0.1,
        "attempt": 1,
        "released": 0,
        "progress": {},
    } | values
    with catalog.engine.begin() as connection:
        clock = connection.scalar(sa.select(now())) or 0.0
        times = [clock - 60.0 * (count - number) for number in range(count)]
        connection.execute(
            jobs_table.insert(),
            [
                row | {"id": job_id, "created_at": at, "started_at": at, "finished_at": at + 1}
                for job_id, at in zip(ids, times, strict=True)
            ],
        )
    return ids


def set_due(catalog: Catalog, seconds: float) -> None:
    """Make the schedules due in some seconds."""
    with catalog.engine.begin() as connection:
        connection.execute(triggers_table.update().values(due_at=now() + seconds))


def test_looking_for_jobs_reads_an_index_however_many_have_ended(local: Home) -> None:
    catalog = Catalog.open(local.database)
    dataset = add_dataset(catalog)
    add_jobs(catalog, dataset, 2000)
    queries = []

    @sa.event.listens_for(catalog.engine, "before_cursor_execute")
    def _record(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        queries.append((statement, parameters))

    assert jobs.lease(catalog, REMOTE_OWNER) is None
    assert len(overview.newest_jobs(catalog, [dataset])) == 1
    jobs.recent(catalog, dataset, 10)
    jobs.recent(catalog, None, 10, state="failed")
    operations.read(catalog)
    with catalog.engine.connect() as connection:
        plans = [
            row.detail
            for statement, parameters in queries
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert not [plan for plan in plans if plan.startswith("SCAN jobs")]
    assert [plan for plan in plans if "ix_jobs_state_created_at" in plan]
    catalog.close()


def test_gc_deletes_old_jobs_except_those_that_something_refers_to(home: Home, catalog: Catalog) -> None:
    first, second = add_dataset(catalog, "first"), add_dataset(catalog, "second")
    with_key, _ = idempotency.submit_once(catalog, "", "key", first, full=False, max_removed=0.1)
    jobs.cancel(catalog, with_key.id)
    old, new = add_jobs(catalog, first, 1200), add_jobs(catalog, second, 3)
    with catalog.engine.begin() as connection:
        connection.execute(jobs_table.update().where(jobs_table.c.id == with_key.id).values(created_at=1.0))
    assert retention.collect(catalog, home.store, keep_jobs=50).jobs == 1150
    assert [job.id for job, _ in jobs.recent(catalog, first, 100)] == [*reversed(old[-50:]), with_key.id]
    assert len(jobs.recent(catalog, second, 100)) == len(new)
    assert retention.collect(catalog, home.store, keep_jobs=50).jobs == 0


def test_gc_goes_past_portions_of_jobs_that_are_kept(
    home: Home, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "JOBS_PER_TRANSACTION", 7)
    dataset = add_dataset(catalog)
    ids = add_jobs(catalog, dataset, 60)
    kept = [*ids[:15], ids[20]]  # more than two whole portions
    with catalog.engine.begin() as connection:
        connection.execute(
            keys_table.insert(),
            [{"key": job_id, "request": "", "job_id": job_id, "created_at": time.time()} for job_id in kept],
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
    with catalog.engine.begin() as connection:
        connection.execute(
            jobs_table.update()
            .where(jobs_table.c.id == job.id)
            .values(state="succeeded", created_at=now() + 3500.0, finished_at=now() + 3590.0)
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
    of_job = jobs_table.c.id == first.id
    with catalog.engine.begin() as connection:
        clock, until = connection.execute(sa.select(now(), jobs_table.c.lease_until).where(of_job)).one()
        assert 0 < until - clock <= 15
    assert jobs.lease(catalog, REMOTE_OWNER) is None  # the lease, or the pause, is not over
    with catalog.engine.begin() as connection:
        # What the clock stored before it was set back by an hour.
        connection.execute(
            jobs_table.update().where(of_job).values(lease_until=jobs_table.c.lease_until + 3600.0)
        )
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
        with catalog.engine.begin() as connection:  # a minute passes
            connection.execute(
                jobs_table.update().values(
                    created_at=jobs_table.c.created_at - 60, finished_at=jobs_table.c.finished_at - 60
                )
            )
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
    with catalog.engine.begin() as connection:
        connection.execute(jobs_table.update().values(created_at=now() - 7200))
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
        assert "1 orphans deleted" in statsvc("gc", "--home", home.folder).stdout
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
    with catalog.engine.connect() as connection:
        assert [row.state for row in connection.execute(job_rows.runnable())] == ["running"]
