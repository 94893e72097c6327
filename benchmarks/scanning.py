"""A whole scan beside what people run instead: ratios from one run.

    python benchmarks/scanning.py [--images 3000] [--size 2048x1024] [--unchanged 100000] [--json FILE]

Draws its label maps once (kept in build/). The peers: two processes of Pillow and `np.bincount` over the same
files, a Torch `DataLoader` with two workers, and the loop `(label == c).sum()` for 19 classes in one process,
which is run on a part of the files and its time multiplied. Then what a scan costs where nothing or one file
changed, beside walking the tree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Row, at_most, faster, installed, not_installed, report, within
from PIL import Image

from statsvc.local.demo import street_scene
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 19
LOOPED = 100
"""Files that the loop over classes is timed on."""


def counted_by_pillow(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.bincount(np.asarray(image).ravel(), minlength=256)


def two_processes(paths: list[str]) -> tuple[float, float, np.ndarray]:
    """Return seconds with start-up, seconds of counting alone, and the counts."""
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(counted_by_pillow, paths[:2], chunksize=1)
        running = time.perf_counter()
        total = np.sum(pool.map(counted_by_pillow, paths, chunksize=16), axis=0)
        end = time.perf_counter()
    return end - start, end - running, total


def looped(paths: list[str]) -> float:
    """Return the seconds that the loop over classes takes for all the files, from the first of them."""
    start = time.perf_counter()
    counts = np.zeros(CLASSES, np.int64)
    for path in paths[:LOOPED]:
        with Image.open(path) as image:
            label = np.asarray(image)
        for c in range(CLASSES):
            counts[c] += (label == c).sum()
    return (time.perf_counter() - start) * len(paths) / len(paths[:LOOPED])


class Labels:
    """The label maps as a Torch dataset."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        with Image.open(self.paths[index]) as image:
            return torch.from_numpy(np.array(image))


def loaded(paths: list[str]) -> float:
    """Return the seconds that a `DataLoader` with two workers and `torch.bincount` take, start included."""
    import torch
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    counts = torch.zeros(256, dtype=torch.int64)
    for label in DataLoader(Labels(paths), batch_size=None, num_workers=2):  # type: ignore[arg-type]
        counts += torch.bincount(label.flatten(), minlength=256)
    return time.perf_counter() - start


def scan(folder: Path, home: str, *more: str) -> tuple[float, dict[str, Any]]:
    """Run `statsvc scan`; return its seconds and its report."""
    command = [sys.executable, "-m", "statsvc", "scan", str(folder), "--home", home, "--json", *more]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start, json.loads(done.stdout)


def whole_scan(images: int, size: str) -> list[Row]:
    folder = ROOT / "build" / f"demo-{images}-{size}"
    if not (folder / "classes.txt").exists():
        demo = [sys.executable, "-m", "statsvc", "demo", str(folder), "--images", str(images), "--size", size]
        subprocess.run(demo, check=True)
    paths = sorted(map(str, folder.rglob("*.png")))
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as home:
        scan(folder / "val", home, "--name", "warm")  # what is compiled at first use is kept from here on
        ours, result = scan(folder, home, "--name", "all")
    theirs, running, total = two_processes(paths)
    for row in result["weights"]["classes"]:
        assert row["pixels"] == total[row["id"]]
    rate = images * width * height / running
    ours_rate = result["scan"]["pixels_per_second"]
    what = f"{images} files of {size}"
    rows = [
        Row(
            f"{what}, once running: 2 processes of Pillow + np.bincount",
            rate / 1e9,
            ours_rate / 1e9,
            "Gpx/s",
            ours_rate / rate,
            "≥ 8",
            ours_rate >= 8 * rate,
        ),
        faster(f"{what}, the command: 2 processes of Pillow + np.bincount", theirs, ours, 3, "s"),
        faster(f"{what}, the command: loop over {CLASSES} classes, 1 process", looped(paths), ours, 20, "s"),
    ]
    if installed("torch"):
        name = f"{what}, the command: DataLoader of 2 workers + torch.bincount"
        rows.append(faster(name, loaded(paths), ours, unit="s"))
    return rows


def walked(folder: Path) -> float:
    """Return the median seconds of listing a tree with the size and times of each file."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        found = 0
        for top, _, names in os.walk(folder):
            for name in names:
                os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118 - what people write for speed
                found += 1
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def job_seconds(home: str) -> float:
    """Return the seconds from lease to end of the newest job."""
    catalog = Catalog.open(homes.resolve(home, None, None).database)
    [(job, _)] = jobs.recent(catalog, limit=1)
    catalog.close()
    assert job.started_at is not None
    assert job.finished_at is not None
    return job.finished_at - job.started_at


def recomputed(files: int) -> list[Row]:
    """Return the rows of scans where nothing, and where one file, changed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "labels"
        for number in range(files):
            part = folder / f"{number // 1000:04d}"
            if number % 1000 == 0:
                part.mkdir(parents=True)
                first = part / "000000.png"
                Image.fromarray(street_scene(number, (64, 32))).save(first)
            else:
                os.link(first, part / f"{number:06d}.png")
        # By itself: removing one of several links would change the others' ctime.
        changed = folder / "0000" / "single.png"
        Image.fromarray(street_scene(1, (64, 32))).save(changed)
        home = str(Path(place) / "home")
        scan(folder, home, "--name", "many")
        tree = walked(folder)
        unchanged = []
        for _ in range(3):
            report_of = scan(folder, home, "--name", "many")[1]["scan"]
            assert report_of["counted"] == 0
            unchanged.append(job_seconds(home))
        Image.fromarray(street_scene(2, (64, 32))).save(changed)
        time.sleep(2.1)  # a file changed less than 2 s ago is waited for
        report_of = scan(folder, home, "--name", "many")[1]["scan"]
        assert report_of["counted"] == 1
        one = job_seconds(home)
    nothing = statistics.median(unchanged)
    return [
        at_most(f"{files} unchanged files, lease to end: walking the tree", tree, nothing, 3),
        within("one of them changed: beyond that (limit 0.5 s)", one - nothing, 0.5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", default="2048x1024", metavar="WxH")
    parser.add_argument("--unchanged", type=int, default=100_000, metavar="FILES")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = whole_scan(options.images, options.size)
    if options.unchanged:
        rows += recomputed(options.unchanged)
    report(
        "scans on this machine's cores", rows, options.json, not_installed({"torch": "Torch's DataLoader"})
    )


if __name__ == "__main__":
    main()
