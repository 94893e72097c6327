"""Processes killed at random moments while jobs count folders that change, and what must hold afterwards.

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
from support.cluster import Cluster, running
from support.commands import statsvc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.catalog.records import VersionRecord
    from statsvc.store.versions.version import Version

VICTIMS = ("api1", "api2", "runner1", "runner2", "scheduler", "worker1", "worker2", "postgresql")
FILES = 40
DATASETS = ("north", "south")
ENDED = ("succeeded", "failed", "cancelled")
CLOCKS = 0.1
"""Seconds by which PostgreSQL's clock and this process's may read differently: they are one machine's."""


@dataclass
class Written:
    """What a path held, and when: contents by their xxh3 digest, None for no file."""

    content: int | None
    since: float
    until: float = float("inf")


class Folder:
    """A folder of label maps that changes, and remembers every content that every path ever had."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.counts: dict[int, dict[int, int]] = {}
        self.history: dict[str, list[Written]] = {}
        self._random = random.Random(seed)
        path.mkdir(parents=True)
        for number in range(FILES):
            self._write(f"{number:03}.png")

    def change(self) -> None:
        """Replace some files, add one or remove one."""
        there = self.there()
        for name in self._random.sample(there, 3):
            self._write(name)
        if self._random.random() < 0.5:
            self._write(f"{len(self.history):03}.png")
        elif len(there) > FILES // 2:
            name = self._random.choice(there)
            since = time.time()
            (self.path / name).unlink()
            self._remember(name, None, since)

    def there(self) -> list[str]:
        """Return the paths that are files now."""
        return sorted(name for name, told in self.history.items() if told[-1].content is not None)

    def had(self, name: str, content: int | None, begin: float, end: float) -> bool:
        """Whether a path held a content at some moment from `begin` to `end`."""
        told = [Written(None, 0.0, float("inf"))] if name not in self.history else self.history[name]
        return any(w.content == content and w.since <= end and w.until >= begin for w in told)

    def _write(self, name: str) -> None:
        rng = np.random.default_rng(self._random.getrandbits(32))
        labels = rng.integers(0, 7, (64, 96), np.uint8)
        data = io.BytesIO()
        Image.fromarray(labels).save(data, "PNG")
        digest = xxhash.xxh3_64_intdigest(data.getvalue())
        self.counts[digest] = {i: int(n) for i, n in enumerate(np.bincount(labels.ravel())) if n}
        other = self.path.parent / f"{self.path.name}.new"
        other.write_bytes(data.getvalue())
        since = time.time()
        other.replace(self.path / name)
        self._remember(name, digest, since)

    def _remember(self, name: str, content: int | None, since: float) -> None:
        told = self.history.setdefault(name, [Written(None, 0.0)])
        told[-1].until = time.time()
        told.append(Written(content, since))


@dataclass
class Tally:
    """What happened, and what was found afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    told: dict[tuple[str, int], tuple[str, bytes]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    rows: int = 0
    orphans: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items()))
        ends = ", ".join(f"{n} {state}" for state, n in sorted(self.ended.items()))
        tries = ", ".join(f"{n} after {k}" for k, n in sorted(self.attempts.items()))
        return (
            f"{self.kills.total()} kills in {self.seconds:.0f} s: {killed}\n"
            f"{len(self.accepted)} jobs accepted ({self.refused} requests refused or unanswered): {ends}; "
            f"attempts: {tries}\n"
            f"{self.versions} versions of {self.rows} rows equal np.bincount over the files as they were; "
            f"{len(self.told)} that clients were told of, all there, same bytes\n"
            f"{self.orphans} orphans removed by gc, none left"
            + "".join(f"\n{n} failed: {cause} …" for cause, n in self.causes.most_common())
        )


def chaos(folder: Path, kills: int, seed: int) -> Tally:
    """Run jobs over changing folders while processes are killed; fail where something was lost."""
    tally, rng, began = Tally(), random.Random(seed), time.monotonic()
    folders = {name: Folder(folder / name, seed + n) for n, name in enumerate(DATASETS)}
    stop = threading.Event()
    with running(folder / "cluster", [folder], runners=2) as cluster:
        for name, changing in folders.items():
            made = _ask(
                f"{cluster.url}/datasets", {"name": name, "source": str(changing.path), "pattern": "*.png"}
            )
            tally.accepted[made["job"]["id"]] = name
        threads = [
            threading.Thread(target=_submit, args=(cluster, folders, tally, stop, seed)),
            threading.Thread(target=_read, args=(cluster, tally, stop)),
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
                _start_what_died(cluster)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        _settle(cluster, folders, tally)
        _check(cluster, folders, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _kill(cluster: Cluster, victim: str) -> None:
    if victim == "postgresql":
        cluster.postgres.kill()
    else:
        cluster.roles[victim].kill()


def _start_what_died(cluster: Cluster) -> None:
    """Start again what is not running, as an init system does: also what ended because another did."""
    server = cluster.postgres.process
    if server is not None and server.poll() is not None:
        end = time.monotonic() + 30
        while True:
            try:
                cluster.postgres.start()
                break
            except psycopg.OperationalError:
                # Processes of the killed server are still about to end.
                assert time.monotonic() < end, "PostgreSQL does not start"
    for role in cluster.roles.values():
        if role.process is not None and role.process.poll() is not None:
            role.start()


def _submit(
    cluster: Cluster, folders: dict[str, Folder], tally: Tally, stop: threading.Event, seed: int
) -> None:
    """Change the folders and ask for jobs, as clients that do not know what is down."""
    rng, serial = random.Random(seed), 0
    while not stop.wait(rng.uniform(0.1, 0.6)):
        name = rng.choice(DATASETS)
        folders[name].change()
        serial += 1
        asked = {"dataset": name, "full": rng.random() < 0.2, "max_removed": 1}
        try:
            job = _ask(f"{cluster.url}/jobs", asked, {"Idempotency-Key": f"{seed}-{serial}"})
        except (OSError, ValueError):
            tally.refused += 1
        else:
            tally.accepted[job["id"]] = name


def _read(cluster: Cluster, tally: Tally, stop: threading.Event) -> None:
    """Ask both servers what is current, and remember every version that they tell of."""
    turn = 0
    while not stop.wait(0.05):
        turn += 1
        name, api = DATASETS[turn % 2], cluster.apis[turn // 2 % 2]
        with contextlib.suppress(OSError, ValueError):
            number = _ask(f"{api}/datasets/{name}")["version"]
            if number is not None and (name, number) not in tally.told:
                tally.told[name, number] = _weights(api, name, number)


def _settle(cluster: Cluster, folders: dict[str, Folder], tally: Tally) -> None:
    """Wait until every accepted job has ended, then count once more what the folders hold now."""
    for name in folders:
        _wait_for_jobs(cluster, tally)
        tally.accepted[_asked_until_answered(cluster, name)] = name
    _wait_for_jobs(cluster, tally)


def _asked_until_answered(cluster: Cluster, name: str) -> str:
    end = time.monotonic() + 60
    while True:
        _start_what_died(cluster)
        try:
            job: str = _ask(f"{cluster.url}/jobs", {"dataset": name, "max_removed": 1})["id"]
        except OSError:
            assert time.monotonic() < end, "no server answers"
            time.sleep(0.2)
        else:
            return job


def _wait_for_jobs(cluster: Cluster, tally: Tally) -> None:
    end = time.monotonic() + 300  # the longest pause before a fifth attempt is 125 s
    waiting = set(tally.accepted)
    while waiting:
        _start_what_died(cluster)
        for job_id in sorted(waiting):
            try:
                if _ask(f"{cluster.url}/jobs/{job_id}")["state"] in ENDED:
                    waiting.discard(job_id)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    raise AssertionError(f"job {job_id} was accepted and is not there") from error
            except OSError:
                pass  # no server answers now
        assert time.monotonic() < end, f"jobs that do not end: {waiting}"
        time.sleep(0.2)


def _check(cluster: Cluster, folders: dict[str, Folder], tally: Tally) -> None:
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
            assert len(set(published)) == len(published), "a job published twice"
            for record in records:
                groups |= {record.group_uri, record.arrays_uri}
                job = job_rows.get(catalog, record.job_id or "")
                began, ended = (job.started_at or 0.0) - CLOCKS, record.created_at + CLOCKS
                tally.rows += _equals_the_files(_opened(cluster, name, record), folder, began, ended)
                tally.versions += 1
            current = _opened(cluster, name, records[0])
            assert current.array("path").tolist() == folder.there()
            assert (current.array("status") == 0).all()
        for (name, number), before in tally.told.items():
            assert [_weights(api, name, number) for api in cluster.apis] == [before, before]
        done = json.loads(statsvc("gc", "--grace", "0s", "--json", env=cluster.environment).stdout)
        tally.orphans = len(done["orphans"])
        there = {"/".join(path.split("/")[:2]) for path in cluster.stored()}
        assert there == groups, "an orphan, or a part, survived"
    finally:
        catalog.close()


def _opened(cluster: Cluster, name: str, record: VersionRecord) -> Version:
    return open_version(cluster.home.store, name, record)


def _equals_the_files(version: Version, folder: Folder, began: float, ended: float) -> int:
    """Compare a version with the files as they were while its job ran; return its rows."""
    version.verify()  # digests, and the sums of the rows against the aggregates
    paths = version.array("path").tolist()
    assert paths == sorted(set(paths)), "a sample is there twice"
    ids = version.array("class_id").tolist()
    counts = np.concatenate([block.counts for block in version.blocks()])
    columns = zip(
        paths, version.array("content").tolist(), version.array("status").tolist(), counts, strict=True
    )
    for path, content, status, row in columns:
        if status:
            assert folder.had(path, None, began, ended), f"{path} could not be read, and was there"
            continue
        assert folder.had(path, content, began, ended), f"{path} did not hold that"
        assert {i: int(n) for i, n in zip(ids, row, strict=True) if n} == folder.counts[content]
    for path in set(folder.history) - set(paths):
        assert folder.had(path, None, began, ended), f"{path} is missing"
    return len(paths)


def _ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    return json.loads(_answer(request)[1])


def _weights(api: str, name: str, number: int) -> tuple[str, bytes]:
    return _answer(f"{api}/weights?method=sqrt_inv_freq&dataset={name}&version={number}")


def _answer(request: urllib.request.Request | str) -> tuple[str, bytes]:
    """Return the ETag and the body. Raises `OSError` also where a server dies in the middle of it."""
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.headers["ETag"], answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError("the answer ended early") from error


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="statsvc-chaos-") as name:
        yield Path(name)


if __name__ == "__main__":
    os.environ["STATSVC_CACHE"] = os.devnull
    with _folder() as place:
        print(chaos(place, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
