"""The job queue: submitting, leases, takeovers, attempts and pauses."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.errors import LeaseLost, NotFound
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.database_errors import IntegrityError
from statsvc.store.catalog.owners import LEASE_SECONDS
from statsvc.store.catalog.records import NewVersion
from support.catalogs import LEASING_PROGRAM, REMOTE_OWNER, add_dataset, execute_sql, expire_lease
from support.waiting import wait_for

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Dataset, Job


def new_version(group: str = "g") -> NewVersion:
    return NewVersion("scan", group, group, Configuration(num_classes=2), "reader", {"a": "0"}, 3, 0, 12)


def test_a_second_request_is_merged_into_the_queued_job(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    first, made = jobs.submit(catalog, dataset)
    assert (made, first.full, first.max_removed) == (True, False, 0.1)
    second, made = jobs.submit(catalog, dataset, full=True, max_removed=0.5)
    assert (second.id, made, second.full, second.max_removed) == (first.id, False, True, 0.5)
    third, _ = jobs.submit(catalog, dataset)
    assert (third.full, third.max_removed) == (True, 0.5)


def test_a_dataset_has_at_most_one_running_and_one_queued_job(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    running = jobs.lease(catalog, REMOTE_OWNER)
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
    submitted = [jobs.submit(catalog, add_dataset(catalog, name))[0] for name in "bac"]
    for k, job in enumerate(submitted):
        execute_sql(catalog, "UPDATE jobs SET created_at = :at WHERE id = :id", at=1000 + k, id=job.id)
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
    jobs.submit(catalog, add_dataset(catalog))
    job = jobs.lease(catalog, REMOTE_OWNER)
    assert job is not None
    expire_lease(catalog, job)
    assert jobs.lease_expired(catalog, job.id)
    first = jobs.heartbeat(catalog, job, {"done": 3})
    assert not jobs.lease_expired(catalog, job.id)
    assert jobs.get(catalog, job.id).progress == {"done": 3, "progressed_at": first}
    assert job.started_at is not None
    assert first >= job.started_at
    assert jobs.heartbeat(catalog, job, {"done": 3, "progressed_at": first}) == first  # no progress since
    assert jobs.get(catalog, job.id).progress == {"done": 3, "progressed_at": first}
    assert jobs.lease(catalog, "b//") is None


def test_an_expired_lease_is_taken_over_and_the_old_attempt_changes_nothing(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    old = jobs.lease(catalog, REMOTE_OWNER)
    assert old is not None
    expire_lease(catalog, old)
    new = jobs.lease(catalog, REMOTE_OWNER)
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
    submitted, _ = jobs.submit(catalog, add_dataset(catalog))
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        job = jobs.lease(catalog, REMOTE_OWNER)
        assert job is not None
        assert job.attempt == attempt
        expire_lease(catalog, job)
    assert jobs.lease(catalog, REMOTE_OWNER) is None
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == (
        "failed",
        "gave up after 5 attempts; the last error was: the process that ran it died",
    )


def test_a_job_that_keeps_ending_unexpectedly_fails_with_the_last_error(catalog: Catalog) -> None:
    submitted, _ = jobs.submit(catalog, add_dataset(catalog))
    for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
        job = jobs.lease(catalog, REMOTE_OWNER)
        assert job is not None
        assert job.attempt == attempt
        jobs.requeue(catalog, job, f"OSError: {attempt}")
        expire_lease(catalog, job)
    ended = jobs.get(catalog, submitted.id)
    assert (ended.state, ended.error) == (
        "failed",
        "gave up after 5 attempts; the last error was: OSError: 5",
    )


def test_a_job_that_ended_unexpectedly_waits_longer_each_time_without_blocking_others(
    catalog: Catalog,
) -> None:
    jobs.submit(catalog, add_dataset(catalog))
    pauses = []
    for _ in range(jobs.MAX_ATTEMPTS - 1):
        job = jobs.lease(catalog, REMOTE_OWNER)
        assert job is not None
        jobs.requeue(catalog, job, "OSError: 5")
        assert jobs.lease(catalog, REMOTE_OWNER) is None
        with catalog.write() as connection:
            until: float | None = connection.scalar("SELECT lease_until - clock() FROM jobs")
        assert until is not None
        pauses.append(round(until))
        expire_lease(catalog, job)
    assert pauses == [1, 5, 25, 125]
    job = jobs.lease(catalog, REMOTE_OWNER)
    assert job is not None
    other, _ = jobs.submit(catalog, add_dataset(catalog, "other"))
    jobs.requeue(catalog, job, "stopped", orderly=True)  # no pause: the next runner continues immediately
    again = jobs.lease(catalog, REMOTE_OWNER)
    assert again is not None
    assert again.id == job.id
    execute_sql(catalog, "UPDATE jobs SET state = 'queued', lease_until = 1e12 WHERE id = :id", id=job.id)
    leased = jobs.lease(catalog, REMOTE_OWNER)
    assert leased is not None
    assert leased.id == other.id


def test_a_foreground_scan_does_not_wait_for_the_pause(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    job = jobs.lease(catalog, REMOTE_OWNER)
    assert job is not None
    jobs.requeue(catalog, job, "OSError: 5")
    taken = jobs.submit_leased(catalog, dataset, REMOTE_OWNER)
    assert taken is not None
    assert (taken.id, taken.attempt) == (job.id, 2)


def test_an_orderly_stop_does_not_use_up_an_attempt(catalog: Catalog) -> None:
    submitted, _ = jobs.submit(catalog, add_dataset(catalog))
    for _ in range(3 * jobs.MAX_ATTEMPTS):
        job = jobs.lease(catalog, REMOTE_OWNER)
        assert job is not None
        jobs.requeue(catalog, job, "stopped", orderly=True)
    assert jobs.get(catalog, submitted.id).state == "queued"


def test_a_requeued_job_is_superseded_by_a_newer_queued_job(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    old = jobs.lease(catalog, REMOTE_OWNER)
    assert old is not None
    newer, _ = jobs.submit(catalog, dataset)
    jobs.requeue(catalog, old, "stopped", orderly=True)
    assert jobs.get(catalog, old.id).error == f"superseded by job {newer.id} after: stopped"
    leased = jobs.lease(catalog, REMOTE_OWNER)
    assert leased is not None
    assert leased.id == newer.id


@pytest.mark.parametrize("taker", ["runner", "scan"])
def test_a_job_of_a_dead_process_is_taken_over_immediately(
    catalog: Catalog, database: str, taker: str
) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    process = subprocess.Popen(
        [sys.executable, "-c", LEASING_PROGRAM, database],
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
    stat = Path(f"/proc/{pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_process_with_a_reused_id_does_not_keep_the_lease(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
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
    submitted = {jobs.submit(catalog, add_dataset(catalog, f"d{k}"))[0].id for k in range(12)}
    taken: list[str] = []

    def run() -> None:
        own = Catalog.open(database)
        while (job := jobs.lease(own, REMOTE_OWNER)) is not None:
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
    job, _ = jobs.submit(catalog, add_dataset(catalog))
    with pytest.raises(IntegrityError):
        execute_sql(catalog, "UPDATE jobs SET state = 'paused' WHERE id = :id", id=job.id)


def test_recent_jobs_are_listed_newest_first_with_dataset_names(catalog: Catalog) -> None:
    for k, name in enumerate("abc"):
        job, _ = jobs.submit(catalog, add_dataset(catalog, name))
        execute_sql(catalog, "UPDATE jobs SET created_at = :at WHERE id = :id", at=k, id=job.id)
    assert [name for _, name in jobs.recent(catalog, limit=2)] == ["c", "b"]
    assert [name for _, name in jobs.recent(catalog, catalog.dataset("a"))] == ["a"]
