"""Overhead of Dask: one and two workers compared with as many plain processes, and the memory of a worker.

    python benchmarks/dask_workers.py [--images 1000] [--files 50000] [--json FILE]

Both count the same label maps, after a warm-up. Memory is the highest resident size of any worker, sampled
five times a second: over many files (mostly hard links to a few), and over the chunks of a Zarr array of
40 Gpx (mostly not stored). It is compared with the memory over the first samples.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from measuring import Row, at_most, report, within

from statsvc.dataset.counting_rule import Counting
from statsvc.local.demo import make_demo
from statsvc_workers.cluster.batches import stream
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_MB = 500
SIDE, CHUNK = 200_000, 4_000
"""Pixels along each axis of the array, and of a chunk of it."""
FIRST = 10_000
"""Files after which the memory is compared with that over all files."""
DISTINCT = 200
"""Label maps that the hard links point to."""
TIMES = 8
"""How often each label map is counted, so that most batches have the full size."""


class Memory:
    """Context manager that records the highest resident size of any of these processes, in MB."""

    def __init__(self, pids: list[int]) -> None:
        self._pids, self._stop, self.highest = pids, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for pid in self._pids:
                pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
                self.highest = max(self.highest, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def on_cluster(cluster: LocalCluster, options: CountOptions, samples: Sequence[str | Member]) -> float:
    """Count on the cluster; return the seconds."""
    sizes = [
        sample.length if isinstance(sample, Member) else Path(options.root, sample).stat().st_size
        for sample in samples
    ]
    start, rows = time.perf_counter(), 0
    for batch in stream(cluster, options, samples, sizes, uuid.uuid4().hex, lambda: None, print):
        assert not isinstance(batch, tuple)
        assert not batch.status.any()
        rows += len(batch.path)
    assert rows == len(samples)
    return time.perf_counter() - start


def in_processes(options: CountOptions, paths: list[str], processes: int) -> float:
    """Count in plain processes without Dask; return the seconds."""
    batches = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(partial(count_samples, options), batches[:processes], chunksize=1)
        start = time.perf_counter()
        for rows in pool.imap_unordered(partial(count_samples, options), batches):
            assert not rows.status.any()
        return time.perf_counter() - start


def scaling(images: int, repeats: int = 3) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder), images=images, size=(2048, 1024), seed=0)
        paths = sorted(file.relative_to(folder).as_posix() for file in Path(folder).rglob("*.png"))
        paths *= TIMES
        options = CountOptions(folder, 1 << 28, "cpu")
        seconds: dict[tuple[str, int], list[float]] = {}
        for _ in range(repeats):
            for count in (1, 2):
                cluster = LocalCluster(count)
                try:
                    on_cluster(cluster, options, paths[: 32 * count])
                    seconds.setdefault(("dask", count), []).append(on_cluster(cluster, options, paths))
                finally:
                    cluster.close()
                seconds.setdefault(("bare", count), []).append(in_processes(options, paths, count))
    median = {side: statistics.median(times) for side, times in seconds.items()}
    rows = [
        Row(
            f"{count} Dask worker{'s' * (count - 1)}: as many plain processes",
            median["bare", count],
            median["dask", count],
            "s",
            median["bare", count] / median["dask", count],
        )
        for count in (1, 2)
    ]
    theirs, ours = (median[side, 1] / median[side, 2] for side in ("bare", "dask"))
    rows.append(
        Row(
            "speedup by a second worker: by a second plain process",
            theirs,
            ours,
            "x",
            ours / theirs,
            "≥ 0.95",
            ours >= 0.95 * theirs,
        )
    )
    return rows


def memory(files: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        distinct, folder = Path(temporary) / "distinct", Path(temporary) / "all"
        make_demo(distinct, images=DISTINCT, size=(480, 360), seed=0)
        label_maps = sorted(distinct.rglob("*.png"))
        paths = []
        for number in range(files):
            path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(label_maps[number % len(label_maps)], path)
            paths.append(path.relative_to(folder).as_posix())
        return memory_rows(f"{files} files", CountOptions(str(folder), 1 << 28, "cpu"), paths, FIRST)


def array_memory() -> list[Row]:
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        huge = Path(folder) / "huge.zarr"
        array = zarr.create_array(
            huge, shape=(SIDE, SIDE), chunks=(CHUNK, CHUNK), dtype="uint8", fill_value=3
        )
        array[:CHUNK, :CHUNK] = np.random.default_rng(0).integers(0, 19, (CHUNK, CHUNK), dtype=np.uint8)
        counting = Counting(rows="chunk")
        listing = list_samples(open_source(folder, None), counting)
        chunks = [listing.sample(path) for path in listing.path]
        options = CountOptions(folder, 1 << 28, "cpu", counting)
        return memory_rows("a Zarr array of 40 Gpx", options, chunks, len(chunks) // 10)


def memory_rows(
    subject: str, options: CountOptions, samples: Sequence[str | Member], first: int
) -> list[Row]:
    """Compare the memory of a worker over all samples with that over the first ones, and with the limit."""
    cluster = LocalCluster()
    try:
        on_cluster(cluster, options, samples[:32])
        pids = sorted(cluster.client().run(os.getpid).values())
        with Memory(pids) as beginning:
            on_cluster(cluster, options, samples[:first])
            time.sleep(0.4)
        with Memory(pids) as whole:
            on_cluster(cluster, options, samples)
    finally:
        cluster.close()
    name = f"memory of a worker over {subject}"
    return [
        at_most(f"{name}: over the first {first}", beginning.highest, whole.highest, 1.1, "MB"),
        within(f"{name}: {LIMIT_MB} MB", whole.highest, LIMIT_MB, "MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = scaling(options.images) + memory(options.files) + array_memory()
    report("Dask workers", rows, options.json)


if __name__ == "__main__":
    main()
