"""A server under load: keep-alive connections, event streams, and a reader of large tables, at the same time.

    python benchmarks/load.py [--samples 1000000] [--seconds 10] [--rate 1000] [--database URL] [--json FILE]

The connections together send GET /weights at a fixed rate: four datasets, three methods, every second
request with If-None-Match. Latency is measured from the time at which a request is due, so a server that
stops for a moment delays all requests of that time. The event streams follow a job whose progress
changes every second. The reader sends one request after the other whose answer needs every row of a
dataset with this number of samples and 150 classes: histograms of splits and class maps, and the doctor.
Every body is compared with the first one from the same URL.

The clients are in one process, and send X-Forwarded-For as a proxy does that the server trusts: 50 of them
claim the same address. `--database` is the URL of an empty PostgreSQL database; the default is SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import Row, report, within
from scale import publish_version
from serving import cpu_seconds, free_port, labels, running, statsvc

from statsvc.dataset.splits import Split
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.reconfigure import add_splits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home

CLASSES = 150
SMALL = ("street", "street-2", "street-3", "street-4")
METHODS = ("sqrt_inv_freq", "effective_num", "median_freq")
PER_ADDRESS = 50
"""Connections that claim the same client address."""

SPLITS = {"a": "*0_labelIds.png", "b": "*[1-4]_labelIds.png", "c": "*[5-9]_labelIds.png"}
CLASS_MAPS = ("none", "cityscapes", "coco_stuff", "ade20k")
COLD = "/datasets/big/histogram?split=c&class_map=cityscapes"
DOCTOR = "/datasets/big/doctor"
MS = 1000


@dataclass
class Measured:
    """What the clients of one phase have seen.

    latencies  of GET /weights, in ms
    errors     what went wrong
    answers    seconds of each answer of the reader
    streams    event streams that were accepted
    events     events that they received
    """

    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    streams: int = 0
    events: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    memory: tuple[float, float] = (0.0, 0.0)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(path: str, number: int, etag: str = "") -> bytes:
    """Return the request of a client, as a proxy forwards it."""
    address = f"10.0.{number // PER_ADDRESS // 250}.{number // PER_ADDRESS % 250 + 1}"
    condition = f"If-None-Match: {etag}\r\n" if etag else ""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\n{condition}\r\n"
    return head.encode()


class Connection:
    """A keep-alive connection."""

    def __init__(self, port: int, number: int) -> None:
        self._port, self._number = port, number

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        self._writer.close()

    async def get(self, path: str, etag: str = "") -> tuple[int, dict[str, str], bytes]:
        """Send a request; return the status, the header fields and the body of the response."""
        self._writer.write(request(path, self._number, etag))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split(" ")[1]), headers, body


class Stream(asyncio.Protocol):
    """An event stream, whose events are only counted: the clients must not delay one another."""

    def __init__(self, request: bytes, measured: Measured) -> None:
        self._request, self._measured = request, measured
        self._status = b""
        self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._status = data.split(b" ", 2)[1]
            if self._status == b"200":
                self._measured.streams += 1
            else:
                self._measured.errors.append(f"event stream: {self._status.decode()}")
        self._measured.events += data.count(b"event: job")

    def connection_lost(self, _error: Exception | None) -> None:
        if self._status == b"200" and not self.is_closing:
            self._measured.errors.append("the server ended an event stream")

    def close(self) -> None:
        self.is_closing = True
        self._transport.close()


class Load:
    """The clients of one phase."""

    def __init__(self, port: int, bodies: dict[str, tuple[str, bytes]], job: str) -> None:
        self._port, self._bodies, self._job = port, bodies, job
        self._paths = sorted(bodies)
        self.measured = Measured()
        self._ends = 0.0

    async def run(self, connections: int, streams: int, *, reader: bool, rate: float, seconds: float) -> None:
        opened: list[Connection | Stream] = []
        loop = asyncio.get_running_loop()
        for number in range(connections):
            opened.append(connection := Connection(self._port, number))
            await connection.open()
        for number in range(streams):
            sent = request(f"/jobs/{self._job}/events", number)
            _, stream = await loop.create_connection(
                partial(Stream, sent, self.measured), "127.0.0.1", self._port
            )
            opened.append(stream)
        while self.measured.streams + len(self.measured.errors) < streams:
            await asyncio.sleep(0.05)
        start = time.perf_counter()
        self._ends = start + seconds
        requests = [
            asyncio.create_task(self._guarded(self._ask(connection, k, start, connections, rate)))
            for k, connection in enumerate(opened)
            if isinstance(connection, Connection)
        ]
        if reader:
            requests.append(asyncio.create_task(self._guarded(self._read())))
        await asyncio.gather(*requests)
        self.measured.seconds = seconds
        for each in opened:
            each.close()

    async def _guarded(self, client: Any) -> None:
        try:
            await client
        except (OSError, EOFError, ValueError) as error:
            self.measured.errors.append(f"{type(error).__name__}: {error}")

    async def _ask(self, connection: Connection, first: int, start: float, step: int, rate: float) -> None:
        for number in itertools.count(first, step):
            due = start + number / rate
            if due >= self._ends:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            path = self._paths[number // 2 % len(self._paths)]
            etag, body = self._bodies[path]
            expected = (304, b"") if number % 2 else (200, body)
            status, headers, received = await connection.get(path, etag if number % 2 else "")
            self.measured.latencies.append(MS * (time.perf_counter() - due))
            if (status, received) != expected or headers["etag"] != etag:
                self.measured.errors.append(f"{path}: {status}, {len(received)} bytes")

    async def _read(self) -> None:
        connection = Connection(self._port, 0)
        await connection.open()
        for path in large_answers():
            if time.perf_counter() >= self._ends:
                break
            start = time.perf_counter()
            status, _, body = await connection.get(path)
            self.measured.answers.append(time.perf_counter() - start)
            if status != 200:
                self.measured.errors.append(f"{path}: {status} {body[:200]!r}")
        connection.close()


def large_answers() -> Iterator[str]:
    """Yield paths whose answers read every row of the large dataset, unless they were asked before."""
    for class_map, split in itertools.product(CLASS_MAPS, SPLITS):
        yield f"/datasets/big/histogram?split={split}&class_map={class_map}"
    yield DOCTOR
    for ignored in itertools.count():
        yield f"/weights?dataset=big&sampler=rare_class&ignore_index={ignored}"


def create(home: Home, samples: int) -> str:
    """Create the datasets; return the id of a job that no runner will run."""
    source = labels(60, "512x256")
    (home.folder / "labels").mkdir(parents=True, exist_ok=True)
    common = ["--home", str(home.folder), "--database", home.database]
    subprocess.run(statsvc("upgrade", *common), check=True, capture_output=True)
    for name in SMALL:
        subprocess.run(statsvc("scan", source, "--name", name, *common), check=True, capture_output=True)
    publish_version(home, home.folder / "labels", samples, CLASSES, seed=0)
    catalog = Catalog.open(home.database)
    splits = {name: Split(glob=glob) for name, glob in SPLITS.items()}
    add_splits(catalog, home.store, catalog.dataset("big"), splits, replace_existing=False)
    job, _ = jobs.submit(catalog, catalog.dataset(SMALL[0]))
    catalog.close()
    return job.id


async def change_progress(home: Home) -> None:
    """Lease the job and change its progress every second, as a runner does."""
    catalog = Catalog.open(home.database)
    job = jobs.lease(catalog, jobs.process_identity())
    assert job is not None
    try:
        for counted in itertools.count():
            await asyncio.to_thread(jobs.heartbeat, catalog, job, {"counted": counted})
            await asyncio.sleep(1)
    finally:
        catalog.close()


async def first_bodies(port: int) -> dict[str, tuple[str, bytes]]:
    """Return the ETag and the body of each path of GET /weights."""
    connection = Connection(port, 0)
    await connection.open()
    bodies = {}
    for name, method in itertools.product(SMALL, METHODS):
        path = f"/weights?dataset={name}&method={method}"
        status, headers, body = await connection.get(path)
        assert status == 200, body
        bodies[path] = headers["etag"], body
    connection.close()
    return bodies


def memory_mb(process: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS"))


async def cold_answers(home: Home) -> list[Row]:
    """Measure large answers of a new server, and how long requests for another dataset take during them."""
    rows = []
    for name, path in (("histogram of a split under a class map", COLD), ("doctor", DOCTOR)):
        port = free_port()
        with running(serve(home, port), port) as (_, server):
            load = Load(port, await first_bodies(port), "")
            connection = Connection(port, 0)
            await connection.open()
            others = asyncio.create_task(load.run(1, 0, reader=False, rate=100, seconds=math.inf))
            await asyncio.sleep(0.5)
            load.measured.latencies.clear()
            used, start = cpu_seconds(server), time.perf_counter()
            status, _, body = await connection.get(path)
            seconds, used = time.perf_counter() - start, cpu_seconds(server) - used
            assert status == 200, body
            others.cancel()
            connection.close()
        if path == COLD:
            rows.append(within(f"first {name}", seconds, 3))
        else:
            rows.append(Row(f"first {name}", seconds, seconds, "s", 1))
        rows.append(Row(f"first {name}: CPU", seconds, used, "s", used / seconds))
        rows.append(within(f"first {name}: longest other request", load.measured.percentile(1), 50, "ms"))
    return rows


def serve(home: Home, port: int) -> list[str]:
    return statsvc(
        *("serve", "--no-runner", "--home", home.folder, "--database", home.database),
        *("--port", port, "--trusted-proxy", "127.0.0.1"),
    )


async def measure(home: Home, job: str, options: argparse.Namespace) -> dict[tuple[int, int, bool], Measured]:
    """Run each phase against a new server; return what its clients measured."""
    measured = {}
    progress = asyncio.create_task(change_progress(home))
    for connections, streams, reader in ((64, 0, False), (64, 500, True), (1000, 500, True)):
        port = free_port()
        with running(serve(home, port), port) as (_, server):
            load = Load(port, await first_bodies(port), job)
            before, used = memory_mb(server), cpu_seconds(server)
            await load.run(connections, streams, reader=reader, rate=options.rate, seconds=options.seconds)
            load.measured.memory = before, memory_mb(server)
            load.measured.cpu = cpu_seconds(server) - used
        measured[connections, streams, reader] = load.measured
        if progress.done():
            await progress
    progress.cancel()
    return measured


def rows_of(measured: dict[tuple[int, int, bool], Measured]) -> list[Row]:
    """Compare each phase with the first one, in which nothing else runs."""
    alone = next(iter(measured.values()))
    rows = []
    for (connections, streams, reader), phase in measured.items():
        name = f"{connections} connections" + (f", {streams} streams, reader" if reader else " alone")
        name += f", {len(phase.latencies) / phase.seconds:.0f} requests/s"
        errors = len(phase.errors)
        rows.append(Row(f"{name}: errors", 0, errors, "", errors, "= 0", not errors))
        for label, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
            theirs, ours = alone.percentile(share), phase.percentile(share)
            rows.append(Row(f"{name}: {label}", theirs, ours, "ms", ours / theirs))
        if streams:
            rows.append(Row(f"{name}: streams", streams, phase.streams, "", phase.streams / streams))
            expected = phase.streams * phase.seconds
            rows.append(Row(f"{name}: events", expected, phase.events, "", phase.events / expected))
        if phase.answers:
            median = statistics.median(phase.answers)
            rows.append(Row(f"{name}: {len(phase.answers)} large answers, median", median, median, "s", 1))
        rows.append(Row(f"{name}: memory", *phase.memory, "MB", phase.memory[1] / phase.memory[0]))
        rows.append(Row(f"{name}: CPU", phase.seconds, phase.cpu, "s", phase.cpu / phase.seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="rows of the large dataset")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each of three phases")
    parser.add_argument("--rate", type=float, default=1000, help="GET /weights per second")
    parser.add_argument("--database", metavar="URL", help="empty PostgreSQL database; default: SQLite")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        home = homes.resolve(folder, options.database)
        job = create(home, options.samples)
        rows = asyncio.run(cold_answers(home))
        measured = asyncio.run(measure(home, job, options))
    rows += rows_of(measured)
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    database = "SQLite" if options.database is None else "PostgreSQL"
    report(f"a server under load, {database}, {load}", rows, options.json)
    for phase in measured.values():
        for error in phase.errors[:5]:
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
