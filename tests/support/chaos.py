"""Kill random processes of a cluster while jobs count changing folders, then check that nothing was lost.

`make chaos` runs it for a long time: `PYTHONPATH=tests python -m support.chaos KILLS [SEED]`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import xxhash
from PIL import Image

from statsvc.store.catalog import jobs as job_rows
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from support.cluster import Cluster, running_cluster
from support.commands import statsvc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.records import VersionRecord
    from statsvc.store.versions.version import Version

VICTIMS = ("api1", "api2", "runner1", "runner2", "scheduler", "worker1", "worker2", "postgresql")
FILE_COUNT = 40
DATASETS = ("north", "south")
FINAL_STATES = ("succeeded", "failed", "cancelled")
CLOCK_TOLERANCE = 0.1
"""Seconds by which timestamps of PostgreSQL and of this process may differ, although they share a clock."""
JOB_TIMEOUT = 600
"""Seconds in which every job must end. The longest pause between two attempts is 125 s."""


@dataclass
class ContentPeriod:
    """The period in which a path had some content.

    content  xxh3 digest of the file; None: there was no file
    """

    content: int | None
    since: float
    until: float = float("inf")


class ChangingFolder:
    """A folder of label maps that changes. Records the content of every path over time.

    counts   {digest: {class id: pixels}} of every content
    history  {path: periods}, in time order
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.counts: dict[int, dict[int, int]] = {}
        self.history: dict[str, list[ContentPeriod]] = {}
        self._random = random.Random(seed)
        path.mkdir(parents=True)
        for number in range(FILE_COUNT):
            self._write(f"{number:03}.png")

    def change(self) -> None:
        """Replace three files, then add or remove one."""
        names = self.names()
        for name in self._random.sample(names, 3):
            self._write(name)
        if self._random.random() < 0.5:
            self._write(f"{len(self.history):03}.png")
        elif len(names) > FILE_COUNT // 2:
            name = self._random.choice(names)
            since = time.time()
            (self.path / name).unlink()
            self._record(name, None, since)

    def names(self) -> list[str]:
        """Return the paths of the current files, in path order."""
        return sorted(name for name, periods in self.history.items() if periods[-1].content is not None)

    def had(self, name: str, content: int | None, begin: float, end: float) -> bool:
        """Whether a path had a content at some time between `begin` and `end`."""
        periods = self.history.get(name, [ContentPeriod(None, 0.0)])
        return any(p.content == content and p.since <= end and p.until >= begin for p in periods)

    def _write(self, name: str) -> None:
        rng = np.random.default_rng(self._random.getrandbits(32))
        labels = rng.integers(0, 7, (64, 96), np.uint8)
        data = io.BytesIO()
        Image.fromarray(labels).save(data, "PNG")
        digest = xxhash.xxh3_64_intdigest(data.getvalue())
        self.counts[digest] = {i: int(n) for i, n in enumerate(np.bincount(labels.ravel())) if n}
        new = self.path.parent / f"{self.path.name}.new"
        new.write_bytes(data.getvalue())
        since = time.time()
        new.replace(self.path / name)
        self._record(name, digest, since)

    def _record(self, name: str, content: int | None, since: float) -> None:
        periods = self.history.setdefault(name, [ContentPeriod(None, 0.0)])
        periods[-1].until = time.time()
        periods.append(ContentPeriod(content, since))


@dataclass
class Tally:
    """The events of a run, and the results of the checks after it.

    kills       number of kills of each role
    accepted    {job id: dataset} of the accepted jobs
    rejected    number of requests that were rejected or got no response
    published   {(dataset, version): (ETag, body)} of the weights that clients received
    ended       number of jobs in each final state
    attempts    number of jobs with each number of attempts
    causes      number of failed jobs with each error message
    """

    kills: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)
    rejected: int = 0
    published: dict[tuple[str, int], tuple[str, bytes]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    rows: int = 0
    orphans: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items()))
        states = ", ".join(f"{n} {state}" for state, n in sorted(self.ended.items()))
        attempts = ", ".join(f"{n} after {k}" for k, n in sorted(self.attempts.items()))
        return (
            f"{self.kills.total()} kills in {self.seconds:.0f} s: {killed}\n"
            f"{len(self.accepted)} jobs accepted, {self.rejected} requests rejected or without a response\n"
            f"jobs: {states}; attempts: {attempts}\n"
            f"{self.versions} versions with {self.rows} rows equal np.bincount of the files at that time; "
            f"the {len(self.published)} versions that clients received are unchanged\n"
            f"gc removed {self.orphans} orphans and left none"
            + "".join(f"\n{n} failed: {cause} …" for cause, n in self.causes.most_common())
        )


def chaos(folder: Path, kills: int, seed: int) -> Tally:
    """Run jobs on changing folders and kill processes meanwhile. Fail if anything was lost."""
    tally, rng, start = Tally(), random.Random(seed), time.monotonic()
    folders = {name: ChangingFolder(folder / name, seed + n) for n, name in enumerate(DATASETS)}
    stop = threading.Event()
    with running_cluster(folder / "cluster", [folder], runners=2) as cluster:
        for name, changing in folders.items():
            body = {"name": name, "source": str(changing.path), "pattern": "*.png"}
            tally.accepted[_request(f"{cluster.url}/datasets", body)["job"]["id"]] = name
        threads = [
            threading.Thread(target=_submit_jobs, args=(cluster, folders, tally, stop, seed)),
            threading.Thread(target=_read_weights, args=(cluster, tally, stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(kills):
                time.sleep(rng.uniform(0.3, 1.5))
                victim = rng.choice(VICTIMS)
                _kill(cluster, victim)
                tally.kills[victim] += 1
                time.sleep(rng.uniform(0.0, 0.5))
                _restart_stopped(cluster)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        _finish_jobs(cluster, folders, tally)
        _check(cluster, folders, tally)
    tally.seconds = time.monotonic() - start
    return tally


def _kill(cluster: Cluster, victim: str) -> None:
    if victim == "postgresql":
        cluster.postgres.kill()
    else:
        cluster.roles[victim].kill()


def _restart_stopped(cluster: Cluster) -> None:
    """Restart every process that is not running, as an init system does."""
    server = cluster.postgres.process
    if server is not None and server.poll() is not None:
        deadline = time.monotonic() + 120
        while True:
            try:
                cluster.postgres.start()
                break
            except psycopg.OperationalError:
                # Child processes of the killed server are still running.
                assert time.monotonic() < deadline, "PostgreSQL does not start"
    for role in cluster.roles.values():
        if role.process is not None and role.process.poll() is not None:
            role.start()


def _submit_jobs(
    cluster: Cluster, folders: dict[str, ChangingFolder], tally: Tally, stop: threading.Event, seed: int
) -> None:
    """Change the folders and submit jobs, also while processes are down."""
    rng, serial = random.Random(seed), 0
    while not stop.wait(rng.uniform(0.1, 0.6)):
        name = rng.choice(DATASETS)
        folders[name].change()
        serial += 1
        body = {"dataset": name, "full": rng.random() < 0.2, "max_removed": 1}
        try:
            job = _request(f"{cluster.url}/jobs", body, {"Idempotency-Key": f"{seed}-{serial}"})
        except (OSError, ValueError):
            tally.rejected += 1
        else:
            tally.accepted[job["id"]] = name


def _read_weights(cluster: Cluster, tally: Tally, stop: threading.Event) -> None:
    """Read the current version from both API servers, and record the weights of every version."""
    turn = 0
    while not stop.wait(0.05):
        turn += 1
        name, api = DATASETS[turn % 2], cluster.apis[turn // 2 % 2]
        with contextlib.suppress(OSError, ValueError):
            number = _request(f"{api}/datasets/{name}")["version"]
            if number is not None and (name, number) not in tally.published:
                tally.published[name, number] = _weights(api, name, number)


def _finish_jobs(cluster: Cluster, folders: dict[str, ChangingFolder], tally: Tally) -> None:
    """Wait until every accepted job has ended, then scan the final state of each folder."""
    for name in folders:
        _wait_for_jobs(cluster, tally)
        tally.accepted[_submit_with_retries(cluster, name)] = name
    _wait_for_jobs(cluster, tally)


def _submit_with_retries(cluster: Cluster, name: str) -> str:
    """Submit a job, and retry until a server responds; return its id."""
    deadline = time.monotonic() + 180
    while True:
        _restart_stopped(cluster)
        try:
            job: str = _request(f"{cluster.url}/jobs", {"dataset": name, "max_removed": 1})["id"]
        except OSError:
            assert time.monotonic() < deadline, "no server responds"
            time.sleep(0.2)
        else:
            return job


def _wait_for_jobs(cluster: Cluster, tally: Tally) -> None:
    deadline = time.monotonic() + JOB_TIMEOUT
    running = set(tally.accepted)
    while running:
        _restart_stopped(cluster)
        for job_id in sorted(running):
            try:
                if _request(f"{cluster.url}/jobs/{job_id}")["state"] in FINAL_STATES:
                    running.discard(job_id)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    raise AssertionError(f"job {job_id} was accepted but does not exist") from error
            except OSError:
                pass  # no server responds now
        assert time.monotonic() < deadline, f"these jobs do not end: {running}"
        time.sleep(0.2)


def _check(cluster: Cluster, folders: dict[str, ChangingFolder], tally: Tally) -> None:
    catalog = Catalog.open(cluster.home.database)
    try:
        for job_id in tally.accepted:
            job = job_rows.get(catalog, job_id)
            tally.ended[job.state] += 1
            tally.attempts[job.attempt] += 1
            if job.state == "failed":
                tally.causes[re.sub(r"\d+", "N", job.error or "")[:80]] += 1
        groups = set()
        for name, folder in folders.items():
            dataset = catalog.dataset(name)
            records = catalog.versions(dataset, 100_000)
            assert [record.number for record in records] == list(range(len(records), 0, -1))
            published = [record.job_id for record in records]
            assert len(set(published)) == len(published), "a job published two versions"
            for record in records:
                groups |= {record.group_uri, record.arrays_uri}
                job = job_rows.get(catalog, record.job_id or "")
                period = ((job.started_at or 0.0) - CLOCK_TOLERANCE, record.created_at + CLOCK_TOLERANCE)
                tally.rows += _check_rows(_open(cluster, name, record), folder, *period)
                tally.versions += 1
            current = _open(cluster, name, records[0])
            assert current.array("path").tolist() == folder.names()
            assert (current.array("status") == 0).all()
        for (name, number), before in tally.published.items():
            assert [_weights(api, name, number) for api in cluster.apis] == [before, before]
        result = json.loads(statsvc("gc", "--grace", "0s", "--json", env=cluster.environment).stdout)
        tally.orphans = len(result["orphans"])
        stored = {"/".join(path.split("/")[:2]) for path in cluster.stored()}
        assert stored == groups, "gc left an orphan or a checkpoint"
    finally:
        catalog.close()


def _open(cluster: Cluster, name: str, record: VersionRecord) -> Version:
    return open_version(cluster.home.store, name, record)


def _check_rows(version: Version, folder: ChangingFolder, begin: float, end: float) -> int:
    """Compare a version with the contents of the files while its job ran; return its number of rows."""
    version.verify()  # compares the digests, and the aggregates with the sums of the rows
    paths = version.array("path").tolist()
    assert paths == sorted(set(paths)), "a sample occurs twice"
    ids = version.array("class_id").tolist()
    counts = np.concatenate([block.counts for block in version.blocks()])
    columns = zip(
        paths, version.array("content").tolist(), version.array("status").tolist(), counts, strict=True
    )
    for path, content, status, row in columns:
        if status:
            assert folder.had(path, None, begin, end), f"{path} could not be read, but existed all the time"
            continue
        assert folder.had(path, content, begin, end), f"{path} never had this content"
        assert {i: int(n) for i, n in zip(ids, row, strict=True) if n} == folder.counts[content]
    for path in set(folder.history) - set(paths):
        assert folder.had(path, None, begin, end), f"{path} is missing"
    return len(paths)


def _request(url: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    return json.loads(_response(request)[1])


def _weights(api: str, name: str, number: int) -> tuple[str, bytes]:
    return _response(f"{api}/weights?method=sqrt_inv_freq&dataset={name}&version={number}")


def _response(request: urllib.request.Request | str) -> tuple[str, bytes]:
    """Return the ETag and the body of a response.

    Raises `OSError` if no server responds, or if the server dies while it sends the response.
    """
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.headers["ETag"], response.read()
    except http.client.HTTPException as error:
        raise ConnectionError("the response is incomplete") from error


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="statsvc-chaos-") as name:
        yield Path(name)


if __name__ == "__main__":
    os.environ["STATSVC_CACHE"] = os.devnull
    with _temporary_folder() as folder:
        print(chaos(folder, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
