"""Recompute jobs over HTTP and on the command line: keys, pages, cancelling, and following them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from statsvc.api.state.job_events import POLL_SECONDS
from statsvc.dataset.configuration import Configuration
from statsvc.errors import Conflict, LeaseLost
from statsvc.store import home as homes
from statsvc.store.catalog import idempotency, jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster import batches
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress
from support.catalogs import add_dataset
from support.commands import statsvc
from support.label_maps import write_folder, write_huge_arrays
from support.publishing import label_maps, publish
from support.scans import Workspace
from support.servers import serving
from support.waiting import TIMEOUT, wait_for
from support.worker_pids import worker_pids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.testclient import TestClient

    from statsvc.store.home import Home
    from statsvc_workers.jobs.lease import Outcome

BATCH = 500
"""Huge arrays in a batch: counting all of them takes far longer than cancelling the job."""


def keyed(client: TestClient, key: str, **body: Any) -> Any:
    return client.post("/jobs", json={"dataset": "streets"} | body, headers={"Idempotency-Key": key})


def test_a_repeated_request_with_an_idempotency_key_creates_one_job_even_after_it_ended(
    client: TestClient, catalog: Catalog
) -> None:
    add_dataset(catalog)
    first = keyed(client, "nightly-1")
    assert first.status_code == 202
    leased = jobs.lease(catalog, "me//")
    assert leased is not None
    jobs.succeed_unchanged(catalog, leased, {})
    again = keyed(client, "nightly-1")
    assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
    assert again.json()["state"] == "succeeded"
    assert keyed(client, "nightly-2").json()["id"] != first.json()["id"]
    assert client.post("/jobs", json={"dataset": "streets"}).json()["id"] != first.json()["id"]


def test_reusing_an_idempotency_key_for_another_request_is_a_conflict(
    client: TestClient, catalog: Catalog
) -> None:
    add_dataset(catalog)
    add_dataset(catalog, "other")
    made = keyed(client, "k").json()["id"]
    for body in ({"full": True}, {"max_removed": 0.5}, {"dataset": "other"}):
        refused = keyed(client, "k", **body)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
        assert "already used for a different request" in refused.json()["detail"]
    assert [job["id"] for job in client.get("/jobs").json()["jobs"]] == [made]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä".encode()])
def test_an_invalid_idempotency_key_is_rejected(
    client: TestClient, catalog: Catalog, key: str | bytes
) -> None:
    add_dataset(catalog)
    headers: list[tuple[str, str]] | list[tuple[bytes, bytes]]
    headers = [(b"Idempotency-Key", key)] if isinstance(key, bytes) else [("Idempotency-Key", key)]
    refused = client.post("/jobs", json={"dataset": "streets"}, headers=headers)
    assert refused.json()["errors"][0]["parameter"] == "Idempotency-Key"
    assert jobs.recent(catalog) == []


def test_concurrent_requests_with_one_idempotency_key_create_one_job(home: Home, catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    running = jobs.submit_leased(catalog, dataset, "elsewhere/1/1")
    assert running is not None

    def send(_: int) -> str:
        own = Catalog.open(home.database)
        job, _made = idempotency.submit_once(own, "", "k", dataset, full=False, max_removed=0.1)
        own.close()
        return job.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(send, range(8)))) == 1
    assert len(jobs.recent(catalog)) == 2


def test_idempotency_keys_are_forgotten_after_their_retention(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = add_dataset(catalog)
    first, _ = idempotency.submit_once(catalog, "", "k", dataset, full=False, max_removed=0.1)
    with pytest.raises(Conflict):
        idempotency.submit_once(catalog, "", "k", dataset, full=True, max_removed=0.1)
    monkeypatch.setattr(idempotency, "RETENTION_SECONDS", -1.0)
    second, _ = idempotency.submit_once(catalog, "", "k", dataset, full=True, max_removed=0.1)
    assert (second.id, second.full) == (first.id, True)


def test_jobs_are_listed_page_by_page_and_by_state_and_dataset(client: TestClient, catalog: Catalog) -> None:
    made = [jobs.submit(catalog, add_dataset(catalog, f"d{k}"))[0].id for k in range(7)]
    seen: list[str] = []
    url = "/jobs?limit=3"
    while True:
        page = client.get(url).json()
        assert len(page["jobs"]) <= 3
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        url = f"/jobs?limit=3&before={page['next']}"
    assert sorted(seen) == sorted(made)
    created = [client.get(f"/jobs/{job}").json()["created_at"] for job in seen]
    assert created == sorted(created, reverse=True)
    assert jobs.lease(catalog, "elsewhere/1/1") is not None
    running = client.get("/jobs?state=running").json()["jobs"]
    assert [(job["attempt"], job["max_attempts"], job["dataset"]) for job in running] == [(1, 5, "d0")]
    assert [job["id"] for job in client.get("/jobs?dataset=d4").json()["jobs"]] == [made[4]]
    assert client.get("/jobs?dataset=d4&state=failed").json() == {"jobs": [], "next": None}
    assert client.get("/jobs?dataset=none").status_code == 404
    assert client.get("/jobs?before=x").status_code == 404
    for wrong, parameter in (("state=done", "state"), ("limit=0", "limit")):
        assert client.get(f"/jobs?{wrong}").json()["errors"][0]["parameter"] == parameter


def test_a_cancelled_job_can_neither_continue_nor_publish(client: TestClient, catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    queued, _ = jobs.submit(catalog, dataset)
    assert client.post(f"/jobs/{queued.id}/cancel").json()["state"] == "cancelled"
    assert jobs.lease(catalog, "me//") is None
    jobs.submit(catalog, dataset)
    running = jobs.lease(catalog, "elsewhere/1/1")
    assert running is not None
    for _ in range(2):
        cancelled = client.post(f"/jobs/{running.id}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert cancelled.json()["finished_at"] is not None
    with pytest.raises(LeaseLost, match="was cancelled on request; attempt 1 stops"):
        jobs.heartbeat(catalog, running, {})
    with pytest.raises(LeaseLost, match="nothing was published"):
        jobs.succeed_unchanged(catalog, running, {})
    jobs.requeue(catalog, running, "no")
    assert jobs.get(catalog, running.id).state == "cancelled"
    jobs.submit(catalog, dataset)
    third = jobs.lease(catalog, "me//")
    assert third is not None
    jobs.fail(catalog, third, "no")
    refused = client.post(f"/jobs/{third.id}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
    assert "has already failed" in refused.json()["detail"]
    assert client.post("/jobs/none/cancel").status_code == 404


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """Parse a stream as the HTML standard says (9.2.6), heartbeat comments left out."""
    event: dict[str, Any] = {}
    for line in response.iter_lines():
        if not line and "data" in event:
            yield event | {"data": json.loads(event["data"])}
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def test_the_event_stream_follows_a_job_to_its_end(home: Home, catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, add_dataset(catalog))
    with (
        serving(home) as url,
        httpx2.stream("GET", f"{url}/jobs/{job.id}/events", timeout=TIMEOUT) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        batches = events(response)
        assert next(batches)["data"]["state"] == "queued"
        leased = jobs.lease(catalog, "elsewhere/1/1")
        assert leased is not None
        assert next(batches)["data"]["state"] == "running"
        jobs.heartbeat(catalog, leased, {"done": 3, "total": 9})
        assert next(batches)["data"]["progress"] == {"done": 3, "total": 9}
        jobs.fail(catalog, leased, "the disk is full", {"done": 3, "total": 9})
        last = next(batches)
        assert (last["id"], last["event"]) == ("end", "job")
        assert (last["data"]["state"], last["data"]["error"]) == ("failed", "the disk is full")
        assert list(batches) == []
        # A browser reconnects automatically until it receives status 204.
        again = httpx2.get(f"{url}/jobs/{job.id}/events", headers={"Last-Event-ID": "end"})
        assert (again.status_code, again.content) == (204, b"")
        late = httpx2.get(f"{url}/jobs/{job.id}/events")
        assert late.text.count("event: job") == 1
        assert httpx2.get(f"{url}/jobs/none/events").status_code == 404


def test_a_server_that_stops_ends_its_open_event_streams(home: Home, catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, add_dataset(catalog))
    first_event, ended = threading.Event(), threading.Event()

    def follow(url: str) -> None:
        with httpx2.stream("GET", f"{url}/jobs/{job.id}/events", timeout=TIMEOUT) as response:
            following = events(response)
            next(following)
            first_event.set()
            # The server ends the stream. uvicorn would cut the connection after 3 s, which raises an error.
            assert list(following) == []
        ended.set()

    with serving(home) as url:
        assert httpx2.head(f"{url}/jobs/{job.id}/events").status_code == 200
        follower = threading.Thread(target=follow, args=(url,))
        follower.start()
        assert first_event.wait(TIMEOUT)
    follower.join(TIMEOUT)
    assert ended.is_set()


def test_many_event_streams_share_one_poll_of_the_catalog(
    client: TestClient, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = [jobs.submit(catalog, add_dataset(catalog, f"d{k}"))[0] for k in range(3)]
    polls: list[int] = []
    real = jobs.by_ids

    def counted_by_ids(catalog: Catalog, job_ids: list[str]) -> Any:
        polls.append(len(job_ids))
        return real(catalog, job_ids)

    monkeypatch.setattr(jobs, "by_ids", counted_by_ids)
    with ThreadPoolExecutor(12) as pool:
        following = [pool.submit(client.get, f"/jobs/{job.id}/events") for job in submitted for _ in range(4)]
        start = time.monotonic()
        wait_for(lambda: polls[-3:] == [3, 3, 3])
        for job in submitted:
            jobs.cancel(catalog, job.id)
        bodies = [future.result(timeout=TIMEOUT).text for future in following]
    assert all('"state":"cancelled"' in body for body in bodies)
    assert max(polls) == 3
    assert len(polls) <= (time.monotonic() - start) / POLL_SECONDS + 2


def test_a_scan_whose_job_is_cancelled_ends_with_a_one_line_error(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    labels = tmp_path / "labels"
    labels.mkdir()
    write_huge_arrays(labels)
    command = [
        sys.executable,
        "-m",
        "statsvc",
        "scan",
        str(labels),
        "--name",
        "a",
        "--home",
        str(home.folder),
    ]
    scan = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        listed = wait_for(lambda: json.loads(statsvc("jobs", "--json", "--home", home.folder).stdout))
        assert "cancelled" in statsvc("jobs", listed[0]["id"], "--cancel", "--home", home.folder).stdout
        _, errors = scan.communicate(timeout=TIMEOUT)
        assert scan.returncode == 1
        assert "was cancelled on request" in errors
        assert "Traceback" not in errors
    finally:
        scan.kill()
        scan.communicate()


def test_cancelling_a_job_stops_workers_within_a_batch_and_keeps_the_current_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "FIRST_BATCH_FILES", BATCH)
    monkeypatch.setattr(batches, "BATCH_BYTES", 1 << 40)
    folder = write_folder(tmp_path / "labels")
    cluster = LocalCluster(2)
    cluster.client()  # start the workers: the first scan is too small to start any
    workspace = Workspace(tmp_path, Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}"), cluster)
    workspace.catalog.create_dataset("streets", str(folder), "**", Configuration())
    workspace.scan()
    huge = write_huge_arrays(folder)
    job = workspace.lease()
    outcome: list[Outcome] = []

    def run() -> None:
        settings = Settings(device="cpu")
        outcome.append(execute(workspace.catalog, workspace.store, job, cluster, settings, Progress()))

    def opened() -> set[Path]:
        """Return the huge files that a worker has open now."""
        found = set()
        for pid in worker_pids(cluster):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(link.readlink())
        return {path for path in found if path.is_relative_to(huge)}

    running = threading.Thread(target=run)
    running.start()
    wait_for(opened)
    jobs.cancel(workspace.catalog, job.id)
    running.join(TIMEOUT)
    assert outcome[0].error is not None
    assert "was cancelled on request" in outcome[0].error
    assert outcome[0].progress.counted < BATCH  # no worker finished its batch
    wait_for(lambda: not opened())  # a worker finishes the sample that it reads
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert opened() == set()
    assert workspace.record().number == 1
    assert workspace.groups() == {workspace.record().group_uri}
    # The next job continues from the checkpoints.
    for file in huge.iterdir():
        file.unlink()
    assert workspace.scan()[0].error is None
    cluster.close()
    workspace.catalog.close()


def test_the_command_line_follows_a_job_to_its_end(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "streets", label_maps())
    catalog = Catalog.open(home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("streets"))
    leased = jobs.lease(catalog, jobs.process_identity())
    assert leased is not None
    threading.Timer(2.0, jobs.succeed_unchanged, (catalog, leased, {"done": 6, "total": 6})).start()
    shown = json.loads(statsvc("jobs", job.id, "--follow", "--json", "--home", home.folder).stdout)
    assert (shown["state"], shown["progress"]["done"]) == ("succeeded", 6)
    assert shown["started"] is not None
    failed, _ = jobs.submit(catalog, catalog.dataset("streets"))
    jobs.cancel(catalog, failed.id)
    statsvc("jobs", failed.id, "--follow", "--home", home.folder, code=1)
    listed = json.loads(statsvc("jobs", "--state", "cancelled", "--json", "--home", home.folder).stdout)
    assert [one["id"] for one in listed] == [failed.id]
    statsvc("jobs", "--follow", "--home", home.folder, code=2)
    assert (
        "has already succeeded" in statsvc("jobs", job.id, "--cancel", "--home", home.folder, code=1).stderr
    )
    catalog.close()
