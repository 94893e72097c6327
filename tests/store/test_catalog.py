"""Datasets and jobs in the catalog: names, numbers, leases and who may take them over."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from statsvc.dataset.configuration import Configuration
from statsvc.errors import CatalogError, Conflict, InvalidParameter, LeaseLost, NotFound
from statsvc.store.catalog import jobs, overview
from statsvc.store.catalog.catalog import Catalog, Stale
from statsvc.store.catalog.engine import file_system, open_engine
from statsvc.store.catalog.job_rows import LEASE_SECONDS
from statsvc.store.catalog.records import NewVersion
from statsvc.store.catalog.schema import jobs as jobs_table
from statsvc.store.catalog.schema import now

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Dataset, Job

ELSEWHERE = "another-host/boot/pid:[1]/17/12345"
"""An owner on another machine: only its lease shows whether it is alive."""

LEASER = """
import sys
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
catalog = Catalog.open(sys.argv[1])
job = jobs.lease(catalog, jobs.process_identity())
print(job.id, flush=True)
sys.stdin.read()
"""


def add(catalog: Catalog, name: str = "streets") -> Dataset:
    return catalog.create_dataset(name, f"/labels/{name}", "*.png", Configuration())


def new_version(group: str = "g") -> NewVersion:
    return NewVersion("scan", group, group, Configuration(num_classes=2), "reader", {"a": "0"}, 3, 0, 12)


def sql(catalog: Catalog, statement: str, **values: object) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def expire(catalog: Catalog, job: Job) -> None:
    sql(catalog, "UPDATE jobs SET lease_until = 1 WHERE id = :id", id=job.id)


# Datasets


@pytest.mark.parametrize("name", ["a", "camvid-train_2.0", "9", "A" * 100])
def test_a_valid_name_is_accepted(catalog: Catalog, name: str) -> None:
    assert add(catalog, name).name == name
    assert catalog.dataset(name).current_number is None


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "a b", "a:b", "a,b", "ä", "A" * 101, "a\n", "a%20"])
def test_an_invalid_name_is_rejected(catalog: Catalog, name: str) -> None:
    with pytest.raises(InvalidParameter, match="letters, digits"):
        add(catalog, name)
    assert catalog.datasets() == []


def test_a_second_dataset_of_the_same_name_is_rejected(catalog: Catalog) -> None:
    add(catalog)
    with pytest.raises(Conflict, match="the dataset 'streets' already exists"):
        add(catalog)


def test_the_unique_index_rejects_a_name_that_two_processes_insert_concurrently(catalog: Catalog) -> None:
    add(catalog)
    with pytest.raises(sa.exc.IntegrityError):
        sql(
            catalog,
            "INSERT INTO datasets (uid, name, configuration, revision, next_number, created_at) "
            "VALUES ('u', 'streets', '{}', 1, 1, 0)",
        )


def test_the_error_for_an_unknown_name_lists_the_nearest_and_all_names(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="none yet; add one with: statsvc scan"):
        catalog.dataset("streets")
    add(catalog)
    add(catalog, "city")
    with pytest.raises(NotFound, match=r"'street' \(did you mean 'streets'\?\); datasets: city, streets"):
        catalog.dataset("street")


def test_version_numbers_continue_after_a_deleted_dataset_of_the_same_name(catalog: Catalog) -> None:
    first = add(catalog)
    assert catalog.publish(first, new_version("a")).number == 1
    assert catalog.publish(catalog.dataset("streets"), new_version("b")).number == 2
    catalog.delete_dataset("streets")
    with pytest.raises(NotFound):
        catalog.dataset("streets")
    second = add(catalog)
    assert second.uid != first.uid
    with pytest.raises(NotFound, match="has no version yet"):
        catalog.version(second)
    assert catalog.publish(second, new_version("c")).number == 3
    catalog.delete_dataset("streets")
    assert add(catalog).next_number == 4
    assert add(catalog, "another").next_number == 1


def test_a_dataset_with_a_running_job_cannot_be_deleted(catalog: Catalog) -> None:
    jobs.submit(catalog, add(catalog))
    leased = jobs.lease(catalog, "me//")
    assert leased is not None
    with pytest.raises(Conflict, match="is running"):
        catalog.delete_dataset("streets")
    jobs.fail(catalog, leased, "no")
    catalog.delete_dataset("streets")
    assert catalog.dataset_by_uid(leased.dataset_uid).name == "streets"


def test_deleting_a_dataset_cancels_its_queued_job(catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, add(catalog))
    catalog.delete_dataset("streets")
    ended = jobs.get(catalog, job.id)
    assert (ended.state, ended.error) == ("cancelled", "its dataset was deleted")
    assert jobs.lease(catalog, ELSEWHERE) is None


def test_a_running_job_of_a_dead_process_does_not_prevent_deletion(catalog: Catalog, database: str) -> None:
    submitted, _ = jobs.submit(catalog, add(catalog))
    subprocess.run([sys.executable, "-c", LEASER, database], stdin=subprocess.DEVNULL, check=True)
    assert jobs.get(catalog, submitted.id).state == "running"
    catalog.delete_dataset("streets")
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == ("cancelled", "its dataset was deleted")


def test_a_change_based_on_an_old_revision_is_rejected(catalog: Catalog) -> None:
    old = add(catalog)
    new = catalog.set_source(old, "/labels/other", "*_id.png")
    with pytest.raises(Stale) as stale:
        catalog.configure_unversioned(old, Configuration(num_classes=9))
    assert stale.value.dataset == new
    with pytest.raises(Stale):
        catalog.publish(old, new_version())
    assert catalog.versions(new) == []
    assert catalog.configure_unversioned(new, Configuration(num_classes=9)).configuration.num_classes == 9


def test_versions_are_listed_newest_first(catalog: Catalog) -> None:
    add(catalog)
    for group in "abcd":
        catalog.publish(catalog.dataset("streets"), new_version(group))
    dataset = catalog.dataset("streets")
    assert [v.number for v in catalog.versions(dataset)] == [4, 3, 2, 1]
    assert [v.number for v in catalog.versions(dataset, limit=2, before=4)] == [3, 2]
    assert catalog.version(dataset, 2).group_uri == "b"
    with pytest.raises(NotFound, match="no version 5; its newest version is 4"):
        catalog.version(dataset, 5)
    add(catalog, "city")
    assert [(d.name, v and v.number) for d, v in overview.current(catalog)] == [
        ("city", None),
        ("streets", 4),
    ]


def test_every_change_increases_a_revision(catalog: Catalog) -> None:
    seen = [overview.revisions(catalog)]
    add(catalog)
    seen.append(overview.revisions(catalog))
    catalog.set_source(catalog.dataset("streets"), "/x", "*.png")
    seen.append(overview.revisions(catalog))
    catalog.configure_unversioned(catalog.dataset("streets"), Configuration(num_classes=3))
    seen.append(overview.revisions(catalog))
    catalog.publish(catalog.dataset("streets"), new_version())
    seen.append(overview.revisions(catalog))
    catalog.delete_dataset("streets")
    seen.append(overview.revisions(catalog))
    assert all(before != after for before, after in itertools.pairwise(seen))


# Jobs


def test_a_second_request_is_merged_into_the_queued_job(catalog: Catalog) -> None:
    dataset = add(catalog)
    first, made = jobs.submit(catalog, dataset)
    assert (made, first.full, first.max_removed) == (True, False, 0.1)
    second, made = jobs.submit(catalog, dataset, full=True, max_removed=0.5)
    assert (second.id, made, second.full, second.max_removed) == (first.id, False, True, 0.5)
    third, _ = jobs.submit(catalog, dataset)
    assert (third.full, third.max_removed) == (True, 0.5)


def test_a_dataset_has_at_most_one_running_and_one_queued_job(catalog: Catalog) -> None:
    dataset = add(catalog)
    jobs.submit(catalog, dataset)
    running = jobs.lease(catalog, ELSEWHERE)
    assert running is not None
    waiting, made = jobs.submit(catalog, dataset)
    assert made
    assert jobs.submit(catalog, dataset) == (waiting, False)
    assert jobs.lease(catalog, "b//") is None
    assert jobs.submit_leased(catalog, dataset, "b//") is None
    jobs.succeed_unchanged(catalog, running, {})
    leased = jobs.lease(catalog, "b//")
    assert leased is not None
    assert leased.id == waiting.id


def test_the_oldest_job_is_leased_first_and_reserves_its_group(catalog: Catalog) -> None:
    submitted = [jobs.submit(catalog, add(catalog, name))[0] for name in "bac"]
    for k, job in enumerate(submitted):
        sql(catalog, "UPDATE jobs SET created_at = :at WHERE id = :id", at=1000 + k, id=job.id)
    leased = [jobs.lease(catalog, "me//") for _ in range(4)]
    assert [job and job.id for job in leased] == [*(job.id for job in submitted), None]
    first = leased[0]
    assert first is not None
    assert (first.state, first.attempt) == ("running", 1)
    assert first.group_uri == f"{first.dataset_uid}/{first.id}-1"
    assert first.lease_until is not None
    assert first.started_at is not None
    assert first.lease_until - first.started_at == pytest.approx(LEASE_SECONDS, abs=0.1)


def test_a_heartbeat_extends_the_lease_and_records_progress(catalog: Catalog) -> None:
    jobs.submit(catalog, add(catalog))
    job = jobs.lease(catalog, ELSEWHERE)
    assert job is not None
    expire(catalog, job)
    assert jobs.lease_expired(catalog, job.id)
    jobs.heartbeat(catalog, job, {"done": 3})
    assert not jobs.lease_expired(catalog, job.id)
    assert jobs.get(catalog, job.id).progress == {"done": 3}
    assert jobs.lease(catalog, "b//") is None


def test_an_expired_lease_is_taken_over_and_the_old_attempt_changes_nothing(catalog: Catalog) -> None:
    dataset = add(catalog)
    jobs.submit(catalog, dataset)
    old = jobs.lease(catalog, ELSEWHERE)
    assert old is not None
    expire(catalog, old)
    new = jobs.lease(catalog, ELSEWHERE)
    assert new is not None
    assert (new.id, new.attempt) == (old.id, 2)
    assert new.group_uri != old.group_uri
    before = jobs.get(catalog, new.id)
    with pytest.raises(LeaseLost, match="attempt 1 stops"):
        jobs.heartbeat(catalog, old, {"done": 1})
    with pytest.raises(LeaseLost):
        jobs.succeed_unchanged(catalog, old, {})
    with pytest.raises(LeaseLost):
        catalog.publish(dataset, new_version(), old)
    jobs.fail(catalog, old, "no")
    jobs.requeue(catalog, old, "no")
    jobs.cancel_own(catalog, old)
    assert jobs.get(catalog, new.id) == before
    assert catalog.versions(dataset) == []


def test_a_job_whose_processes_keep_dying_fails(catalog: Catalog) -> None:
    submitted, _ = jobs.submit(catalog, add(catalog))
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        job = jobs.lease(catalog, ELSEWHERE)
        assert job is not None
        assert job.attempt == attempt
        expire(catalog, job)
    assert jobs.lease(catalog, ELSEWHERE) is None
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == (
        "failed",
        "gave up after 5 attempts; the last error was: the process that ran it died",
    )


def test_a_job_that_keeps_ending_unexpectedly_fails_with_the_last_error(catalog: Catalog) -> None:
    submitted, _ = jobs.submit(catalog, add(catalog))
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        job = jobs.lease(catalog, ELSEWHERE)
        assert job is not None
        assert job.attempt == attempt
        jobs.requeue(catalog, job, f"OSError: {attempt}")
        expire(catalog, job)
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == (
        "failed",
        "gave up after 5 attempts; the last error was: OSError: 5",
    )


def test_a_job_that_ended_unexpectedly_waits_longer_each_time_without_blocking_others(
    catalog: Catalog,
) -> None:
    jobs.submit(catalog, add(catalog))
    pauses = []
    for _ in range(jobs.MAX_ATTEMPTS - 1):
        job = jobs.lease(catalog, ELSEWHERE)
        assert job is not None
        jobs.requeue(catalog, job, "OSError: 5")
        assert jobs.lease(catalog, ELSEWHERE) is None
        with catalog.engine.begin() as connection:
            until: float | None = connection.scalar(sa.select(jobs_table.c.lease_until - now()))
        assert until is not None
        pauses.append(round(until))
        expire(catalog, job)
    assert pauses == [1, 5, 25, 125]
    job = jobs.lease(catalog, ELSEWHERE)
    assert job is not None
    other, _ = jobs.submit(catalog, add(catalog, "other"))
    jobs.requeue(catalog, job, "stopped", orderly=True)  # no pause: the next runner continues immediately
    again = jobs.lease(catalog, ELSEWHERE)
    assert again is not None
    assert again.id == job.id
    sql(catalog, "UPDATE jobs SET state = 'queued', lease_until = 1e12 WHERE id = :id", id=job.id)
    leased = jobs.lease(catalog, ELSEWHERE)
    assert leased is not None
    assert leased.id == other.id


def test_a_foreground_scan_does_not_wait_for_the_pause(catalog: Catalog) -> None:
    dataset = add(catalog)
    jobs.submit(catalog, dataset)
    job = jobs.lease(catalog, ELSEWHERE)
    assert job is not None
    jobs.requeue(catalog, job, "OSError: 5")
    taken = jobs.submit_leased(catalog, dataset, ELSEWHERE)
    assert taken is not None
    assert (taken.id, taken.attempt) == (job.id, 2)


def test_an_orderly_stop_does_not_use_up_an_attempt(catalog: Catalog) -> None:
    submitted, _ = jobs.submit(catalog, add(catalog))
    for _ in range(3 * jobs.MAX_ATTEMPTS):
        job = jobs.lease(catalog, ELSEWHERE)
        assert job is not None
        jobs.requeue(catalog, job, "stopped", orderly=True)
    assert jobs.get(catalog, submitted.id).state == "queued"


def test_a_requeued_job_is_superseded_by_a_newer_queued_job(catalog: Catalog) -> None:
    dataset = add(catalog)
    jobs.submit(catalog, dataset)
    old = jobs.lease(catalog, ELSEWHERE)
    assert old is not None
    newer, _ = jobs.submit(catalog, dataset)
    jobs.requeue(catalog, old, "stopped", orderly=True)
    assert jobs.get(catalog, old.id).error == f"superseded by job {newer.id} after: stopped"
    leased = jobs.lease(catalog, ELSEWHERE)
    assert leased is not None
    assert leased.id == newer.id


@pytest.mark.parametrize("taker", ["runner", "scan"])
def test_a_job_of_a_dead_process_is_taken_over_immediately(
    catalog: Catalog, database: str, taker: str
) -> None:
    dataset = add(catalog)
    jobs.submit(catalog, dataset)
    process = subprocess.Popen(
        [sys.executable, "-c", LEASER, database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    assert not jobs.lease_expired(catalog, job_id)
    assert jobs.lease(catalog, "b//") is None
    process.kill()
    # Dead but not yet waited for, a zombie, is dead as well.
    wait_for_zombie(process.pid)
    assert jobs.lease_expired(catalog, job_id)
    me = jobs.process_identity()
    job = jobs.lease(catalog, me) if taker == "runner" else jobs.submit_leased(catalog, dataset, me)
    process.communicate()
    assert job is not None
    assert (job.id, job.attempt) == (job_id, 2)
    assert not jobs.lease_expired(catalog, job_id)


def wait_for_zombie(pid: int) -> None:
    import time

    for _ in range(500):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the process does not die")


def test_a_process_with_a_reused_id_does_not_keep_the_lease(catalog: Catalog) -> None:
    dataset = add(catalog)
    machine, pid, started = jobs.process_identity().rsplit("/", 2)
    job = jobs.submit_leased(catalog, dataset, f"{machine}/{pid}/{int(started) - 1}")
    assert job is not None
    assert jobs.lease_expired(catalog, job.id)
    assert not jobs.lease_expired(catalog, _take_over(catalog, dataset, f"{machine}/{pid}/{started}").id)


def _take_over(catalog: Catalog, dataset: Dataset, owner: str) -> Job:
    job = jobs.submit_leased(catalog, dataset, owner)
    assert job is not None
    return job


def test_concurrent_runners_lease_each_job_once(database: str, catalog: Catalog) -> None:
    submitted = {jobs.submit(catalog, add(catalog, f"d{k}"))[0].id for k in range(12)}
    taken: list[str] = []

    def run() -> None:
        own = Catalog.open(database)
        while (job := jobs.lease(own, ELSEWHERE)) is not None:
            taken.append(job.id)
        own.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 12
    assert set(taken) == submitted


def test_an_unknown_job_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no job 'x'; list the jobs with: statsvc jobs"):
        jobs.get(catalog, "x")


def test_the_database_rejects_an_unknown_state(catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, add(catalog))
    with pytest.raises(sa.exc.IntegrityError):
        sql(catalog, "UPDATE jobs SET state = 'paused' WHERE id = :id", id=job.id)


def test_recent_jobs_are_listed_newest_first_with_dataset_names(catalog: Catalog) -> None:
    for k, name in enumerate("abc"):
        job, _ = jobs.submit(catalog, add(catalog, name))
        sql(catalog, "UPDATE jobs SET created_at = :at WHERE id = :id", at=k, id=job.id)
    assert [name for _, name in jobs.recent(catalog, limit=2)] == ["c", "b"]
    assert [name for _, name in jobs.recent(catalog, catalog.dataset("a"))] == ["a"]


# The engine


def test_sqlite_is_configured_for_durability(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
    with catalog.engine.connect() as connection:
        assert {k: connection.exec_driver_sql(f"PRAGMA {k}").scalar() for k in expected} == expected
    with pytest.raises(sa.exc.IntegrityError), catalog.engine.begin() as connection:
        connection.execute(
            jobs_table.insert().values(
                id="x",
                dataset_uid="none",
                state="queued",
                full=False,
                max_removed=0,
                attempt=0,
                released=0,
                progress={},
                created_at=0,
            )
        )
    catalog.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("catalog", "not a database URL"),
        ("mysql://host/db", "SQLite or PostgreSQL, not mysql"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
    ],
)
def test_other_databases_are_rejected(bad: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        open_engine(bad)


def test_a_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"hello" * 500)
    with pytest.raises(CatalogError, match="cannot be opened: file is not a database"):
        open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw shared:5 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ann/fast rw shared:6 master:2 - xfs /dev/sdb1 rw
32 22 0:27 / /mnt/my\\040share rw - cifs //server/share rw
33 22 0:28 / /data rw - lustre mds@tcp:/fs rw
34 22 0:29 / /mnt/over rw - ext4 /dev/sdc1 rw
35 34 0:30 / /mnt/over rw - nfs server:/x rw
36 22 0:31 / /ssh rw - fuse.sshfs me@host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/homer", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann", "nfs4"),
        ("/home/ann/fast/statsvc", "xfs"),
        ("/mnt/my share/x", "cifs"),
        ("/data/a/b", "lustre"),
        ("/mnt/over", "nfs"),
        ("/ssh/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_and_latest_mount(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_the_file_system_of_proc_is_proc() -> None:
    text = Path("/proc/self/mountinfo").read_text()
    assert file_system(Path("/proc"), text) == "proc"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "9p"])
def test_sqlite_on_a_network_file_system_is_rejected_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    real = Path.read_text

    def read_text(self: Path, *args: object, **options: object) -> str:
        if str(self) == "/proc/self/mountinfo":
            return f"22 1 8:1 / / rw - {kind} server:/ rw\n"
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(CatalogError, match=f"is on a {kind} file system.*--home on a local disk"):
        open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    assert list(tmp_path.iterdir()) == []
