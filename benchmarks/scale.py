"""A job that recounts a few of very many samples: memory, time, disk space, and latency of other requests.

    python benchmarks/scale.py [--samples 1000000] [--changed 1000] [--classes 150] [--grid RxC] [--folder F]

Publishes a version with this number of random rows through the writer of the version store; with `--grid`, as
a first scan does: counted rows are moved to the file of tiles, and merged. Files exist only for the samples
that will change. Then the benchmark starts a server and a runner, sends the changed paths
(POST /datasets/big/changed), and repeats GET /weights while the job runs. It prints the peak memory of the
runner or of a process that it starts (VmHWM in /proc), the seconds in each stage, the size of the versions,
and the latencies before, during and after the job. It compares the new version with NumPy's counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import psutil
from PIL import Image

from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.grid import Grid, parse
from statsvc.dataset.objects import unknown
from statsvc.store import home as homes
from statsvc.store import publication
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.arrays import ROWS_PER_CHUNK
from statsvc.store.versions.cell_file import CellFile
from statsvc.store.versions.checkpoints import CountedRows, concatenate
from statsvc.store.versions.folder import FolderLocation
from statsvc.store.versions.version import Version
from statsvc.store.versions.writer import VersionWriter, strings
from statsvc_workers.jobs.merge import merge_rows
from statsvc_workers.jobs.reader_digest import reader_digest
from statsvc_workers.sources.diff import Comparison
from statsvc_workers.sources.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.store.home import Home

PATTERNS = 32
"""Number of different chunks of rows, which repeat: each chunk is compressed separately."""

SIDE = 512
"""Height and width of the label maps."""

PER_FOLDER = 1000


def path_of(number: int) -> str:
    return f"train/{number // PER_FOLDER:06d}/{number:09d}_labelIds.png"


def rows(rng: np.random.Generator, classes: int) -> NDArray[np.int64]:
    """Return a chunk of counts: about twelve classes per sample, most of them small."""
    counts = np.zeros((ROWS_PER_CHUNK, classes), np.int64)
    popularity = 1 / np.arange(1, classes + 1)
    popularity /= popularity.sum()
    for row in counts:
        present = rng.choice(classes, int(rng.integers(4, 21)), replace=False, p=popularity)
        row[present] = rng.multinomial(SIDE * SIDE, rng.dirichlet(np.full(len(present), 0.5)))
    return counts


def columns(rng: np.random.Generator, start: int, counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return the other columns of the rows, as if the files were written one after the other."""
    numbers = np.arange(start, start + len(counts), dtype=np.int64)
    empty = strings([""] * len(counts))
    return {
        "path": strings([path_of(number) for number in numbers.tolist()]),
        "size": 4000 + numbers % 997,
        "mtime_ns": 1_700_000_000_000_000_000 + numbers * 1_000_003,
        "ctime_ns": 1_700_000_000_000_000_000 + numbers * 1_000_003,
        "etag": empty,
        "content": rng.integers(0, 1 << 63, len(counts)).astype(np.uint64),
        "height": np.full(len(counts), SIDE),
        "width": np.full(len(counts), SIDE),
        "pixels": counts.sum(axis=1),
        "mode": np.zeros(len(counts), np.uint8),
        "status": np.zeros(len(counts), np.uint8),
        "error": empty,
    }


def compressed_chunk(folder: Path, counts: NDArray[np.int64]) -> tuple[Any, Any]:
    """Return a chunk of rows as compressed in the version store, and its totals."""
    class_id = np.arange(counts.shape[1], dtype=np.int64)
    location = FolderLocation(folder)
    writer = VersionWriter(location, class_id, len(counts), {})
    writer.append(columns(np.random.default_rng(), 0, counts), counts)
    totals, digests = writer.finish()
    version = Version(
        location, dataset="", number=0, configuration=Configuration(), digests=digests, failed=0
    )
    chunk = version.chunk(0)
    shutil.rmtree(folder)
    return chunk, totals


def publish_version(home: Home, source: Path, samples: int, classes: int, seed: int) -> None:
    """Publish version 1 of the dataset `big`."""
    rng = np.random.default_rng(seed)
    patterns = [rows(rng, classes) for _ in range(PATTERNS)]
    catalog = Catalog.open(home.database)
    configuration = Configuration(num_classes=classes, ignore_index=())
    dataset = catalog.create_dataset("big", str(source), "*.png", configuration)
    # Each pattern is compressed once: the bytes of a chunk do not depend on its position.
    compressed = [
        compressed_chunk(home.folder / f"pattern-{k}", pattern) for k, pattern in enumerate(patterns)
    ]
    uri = f"{dataset.uid}/first"
    writer = VersionWriter(home.store / uri, np.arange(classes, dtype=np.int64), samples, {})
    for chunk, start in enumerate(range(0, samples, ROWS_PER_CHUNK)):
        n = min(ROWS_PER_CHUNK, samples - start)
        counts = patterns[chunk % PATTERNS][:n]
        if n == ROWS_PER_CHUNK:
            counts_chunk, totals_of_chunk = compressed[chunk % PATTERNS]
            writer.append_chunk(counts_chunk)
            writer.add(totals_of_chunk)
            writer.append_columns(columns(rng, start, counts), n)
        else:
            writer.append(columns(rng, start, counts), counts)
    totals, digests = writer.finish()
    new = NewVersion(
        kind="scan",
        group_uri=uri,
        arrays_uri=uri,
        configuration=configuration,
        reader=reader_digest(),
        digests=digests,
        samples=samples,
        failed=0,
        pixels=int(totals.pixels.sum()),
    )
    publication.publish(catalog, home.store, dataset, new)
    catalog.close()


def tiled_rows(rng: np.random.Generator, classes: int, grid: Grid) -> CountedRows:
    """Return a chunk of counted rows: each class in random tiles, about 240 entries per row."""
    counts = rows(rng, classes)
    row, ids = np.nonzero(counts)
    entries = np.minimum(rng.integers(1, 41, len(row)), counts[row, ids])
    of_class = np.repeat(np.arange(len(row)), entries)
    # Distinct tiles of each class: the first ones of a random rotation.
    within = np.arange(len(of_class)) - np.repeat(np.cumsum(entries) - entries, entries)
    tile = (rng.integers(0, grid.tiles, len(row))[of_class] + within) % grid.tiles
    pixels = counts[row, ids][of_class] // entries[of_class]
    first = np.cumsum(entries) - entries
    pixels[first] += counts[row, ids] - np.add.reduceat(pixels, first)
    order = np.lexsort((tile, of_class))
    lengths = np.bincount(row[of_class], minlength=ROWS_PER_CHUNK)
    return CountedRows(
        {},
        np.concatenate([[0], np.cumsum(lengths)]),
        ids[of_class].astype(np.int16),
        pixels[order].astype(np.int32),
        tile[order].astype(np.int16),
        unknown(ROWS_PER_CHUNK),
    )


def publish_version_with_grid(
    home: Home, source: Path, samples: int, classes: int, seed: int, grid: Grid
) -> dict[str, Any]:
    """Publish version 1 of the dataset `big` as the first scan of these samples; return measurements."""
    rng = np.random.default_rng(seed)
    patterns = [tiled_rows(rng, classes, grid) for _ in range(PATTERNS)]
    sums = [pattern.dense(np.arange(ROWS_PER_CHUNK), np.arange(classes)) for pattern in patterns]
    catalog = Catalog.open(home.database)
    configuration = Configuration(num_classes=classes, ignore_index=(), counting=Counting(grid=grid))
    dataset = catalog.create_dataset("big", str(source), "*.png", configuration)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cell_file, parts = CellFile(home.store), []
    for chunk, start in enumerate(range(0, samples, ROWS_PER_CHUNK)):
        n = min(ROWS_PER_CHUNK, samples - start)
        pattern = patterns[chunk % PATTERNS].take(np.arange(n))
        pattern.columns = columns(rng, start, sums[chunk % PATTERNS][:n])
        for name in ("path", "etag", "error"):
            pattern.columns[name] = pattern.columns[name].astype(object)
        pattern.columns["place"] = np.tile(
            np.array([0, 0, 0, 1, SIDE, SIDE, 1, SIDE, SIDE], np.int16), (n, 1)
        )
        parts.append(cell_file.move(pattern))
    counted = concatenate(parts)
    size, mtime_ns, ctime_ns = (counted.columns[name] for name in ("size", "mtime_ns", "ctime_ns"))
    listing = Listing(counted.columns["path"].tolist(), size, mtime_ns, ctime_ns)
    comparison = Comparison(None, np.full(samples, -1), np.zeros(samples, bool), 0, 0, 0)
    uri = f"{dataset.uid}/first"
    started = time.monotonic()
    written = merge_rows(
        home.store / uri,
        listing,
        comparison,
        counted,
        np.arange(samples),
        lambda: None,
        configuration.counting,
        cell_file,
    )
    new = NewVersion(
        kind="scan",
        group_uri=uri,
        arrays_uri=uri,
        configuration=configuration,
        reader=reader_digest(configuration.counting),
        digests=written.digests,
        samples=samples,
        failed=0,
        pixels=int(written.totals.pixels.sum()),
    )
    publication.publish(catalog, home.store, dataset, new)
    catalog.close()
    entries = sum(len(pattern.tile) for pattern in patterns) / (PATTERNS * ROWS_PER_CHUNK)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {
        "entries_per_row": round(entries),
        "merge_s": round(time.monotonic() - started, 1),
        "memory_bytes_per_new_row": round(grown / samples),
    }


def write_changed_files(
    source: Path, samples: int, changed: int, classes: int, seed: int
) -> dict[int, NDArray[np.int64]]:
    """Write the files that change; return {row: counts}."""
    rng = np.random.default_rng(seed + 1)
    counts = {}
    for number in np.sort(rng.choice(samples, changed, replace=False)).tolist():
        labels = rng.integers(0, classes, (32, 32)).astype(np.uint8)
        file = source / path_of(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(file)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        counts[number] = np.bincount(labels.ravel(), minlength=classes)
    return counts


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Latency(threading.Thread):
    """A thread that requests weights over one connection until it is stopped, and measures the latencies."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._stopping = url, threading.Event()
        self.milliseconds: list[float] = []

    def run(self) -> None:
        with httpx2.Client() as client:
            while not self._stopping.wait(0.005):
                start = time.perf_counter()
                client.get(f"{self._url}/weights?method=sqrt_inv_freq").raise_for_status()
                self.milliseconds.append(1e3 * (time.perf_counter() - start))

    def stop(self) -> dict[str, float]:
        self._stopping.set()
        self.join()
        sorted_ms = sorted(self.milliseconds)
        return {
            "requests": len(sorted_ms),
            "median_ms": round(statistics.median(sorted_ms), 2),
            "p99_ms": round(sorted_ms[int(0.99 * len(sorted_ms))], 2),
            "max_ms": round(sorted_ms[-1], 1),
        }


def latency(url: str, seconds: float) -> dict[str, float]:
    thread = Latency(url)
    thread.start()
    time.sleep(seconds)
    return thread.stop()


@contextlib.contextmanager
def process(*arguments: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "statsvc", *arguments, "--home", str(home)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(url)


def peak_bytes(pid: int) -> int:
    """Return the largest peak of a process and its descendants: a child of the runner executes the job."""
    peak = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            lines = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            peak = max(peak, 1024 * int(next(lines, "0")))
    return peak


def recompute(url: str, runner: int, paths: list[str]) -> dict[str, Any]:
    """Send the changed paths, wait for the job, and return its measurements."""
    thread = Latency(url)
    thread.start()
    start = time.monotonic()
    body = {"paths": paths, "max_removed": 1}
    job = httpx2.post(f"{url}/datasets/big/changed", json=body).raise_for_status().json()["id"]
    stages: dict[str, float] = {}
    last, peak = time.monotonic(), 0
    while True:
        peak = max(peak, peak_bytes(runner))
        current = httpx2.get(f"{url}/jobs/{job}").json()
        now = time.monotonic()
        stage = current["progress"].get("stage", "waiting")
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now
        if current["state"] in ("succeeded", "failed", "cancelled"):
            break
        time.sleep(0.05)
    return {
        "state": current["state"],
        "error": current["error"],
        "counted": current["progress"].get("counted"),
        "seconds": round(now - start, 1),
        "runner_peak_mb": round(peak / 1e6),
        "stages_s": {stage: round(seconds, 1) for stage, seconds in stages.items()},
        "weights_during": thread.stop(),
    }


def check(home: Home, counts: dict[int, NDArray[np.int64]]) -> None:
    """Compare the totals and changed rows of the new version with NumPy's counts of the new files."""
    catalog = Catalog.open(home.database)
    dataset = catalog.dataset("big")
    old, new = (
        publication.open_version(home.store, "big", catalog.version(dataset, number)) for number in (1, 2)
    )
    expected = old.totals().pixels.copy()
    for number, row in counts.items():
        expected += row - old.counts(number, number + 1)[0]
        np.testing.assert_array_equal(new.counts(number, number + 1)[0], row)
    np.testing.assert_array_equal(new.totals().pixels, expected)
    catalog.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--changed", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=parse, metavar="RxC", help="grid of tiles; default: none")
    parser.add_argument(
        "--folder",
        type=Path,
        help="parent of the working folder; default: the system's folder for temporary files",
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="statsvc-scale-", dir=options.folder))
    source = folder / "labels"
    source.mkdir()
    home = homes.resolve(str(folder / "home"))
    try:
        start = time.monotonic()
        result: dict[str, Any] = {"samples": options.samples, "classes": options.classes}
        size = home, source, options.samples, options.classes, options.seed
        if options.grid is None:
            publish_version(*size)
        else:
            result |= publish_version_with_grid(*size, options.grid)
        result["make_s"] = round(time.monotonic() - start, 1)
        result["make_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
        result["version_mb"] = round(size_of(home.folder / "versions") / 1e6, 1)
        counts = write_changed_files(source, options.samples, options.changed, options.classes, options.seed)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with (
            process("serve", "--no-runner", "--port", str(port), home=home.folder),
            process("runner", "--workers", "1", home=home.folder) as runner,
        ):
            wait_until_ready(url)
            result["weights_before"] = latency(url, 3)
            result |= recompute(url, runner.pid, [path_of(number) for number in counts])
            result["weights_after"] = latency(url, 3)
        result["both_versions_mb"] = round(size_of(home.folder / "versions") / 1e6, 1)
        if result["state"] == "succeeded":
            check(home, counts)
        print(json.dumps(result, indent=2))
    finally:
        shutil.rmtree(folder)
    return 0 if result["state"] == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
