"""Complete scans, compared with the usual ways to count: ratios of one run.

    python benchmarks/scanning.py [--small FOLDER] [--images 3000] [--size 2048x1024] [--volumes 210]
                                  [--unchanged 100000] [--json FILE]

First, small datasets, as whole processes in turns: 367 label maps of 480x360, like the training part of
CamVid, and ten of them, against a script of six lines; with `--small`, those of a folder.

The label maps are generated once and kept in build/. The peers: two processes with Pillow and `np.bincount`,
a Torch `DataLoader` with two workers, and the loop `(label == c).sum()` over 19 classes in one process, which
is measured on a part of the files and extrapolated. Then the benchmark measures volumes, compared with
decompressing them alone, and scans after which nothing or one file has changed, compared with walking the
folder.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import struct
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
"""Number of files on which the loop over classes is measured."""


def counted_by_pillow(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.bincount(np.asarray(image).ravel(), minlength=256)


def two_processes(paths: list[str]) -> tuple[float, float, np.ndarray]:
    """Return the seconds with start-up, the seconds of counting only, and the counts."""
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(counted_by_pillow, paths[:2], chunksize=1)
        running = time.perf_counter()
        total = np.sum(pool.map(counted_by_pillow, paths, chunksize=16), axis=0)
        end = time.perf_counter()
    return end - start, end - running, total


def looped(paths: list[str]) -> float:
    """Return the seconds of the loop over classes for all files, extrapolated from the first `LOOPED`."""
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
    """Return the seconds of a `DataLoader` with two workers and `torch.bincount`, including the start."""
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
    process = subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start, json.loads(process.stdout)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
counts = np.zeros(256, np.int64)
for file in Path(sys.argv[1]).rglob("*.png"):
    counts += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
"""


def demo(images: int, size: str) -> Path:
    """Return a folder of generated label maps, which are kept in build/."""
    folder = ROOT / "build" / f"demo-{images}-{size}"
    if not (folder / "classes.txt").exists():
        make = [sys.executable, "-m", "statsvc", "demo", str(folder), "--images", str(images), "--size", size]
        subprocess.run(make, check=True)
    return folder


def measured(commands: dict[str, list[str]], repeats: int) -> dict[str, tuple[float, float]]:
    """Run commands in turns; return the median wall time and CPU time of each in seconds.

    "HOME" in a command is a new folder for each run.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as home:
                arguments = [argument.replace("HOME", home) for argument in command]
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                start = time.perf_counter()
                subprocess.run(arguments, check=True, capture_output=True)
                wall = time.perf_counter() - start
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times[name].append((wall, cpu))
    return {
        name: (statistics.median(wall for wall, _ in runs), statistics.median(cpu for _, cpu in runs))
        for name, runs in times.items()
    }


def small_scans(folder: Path, repeats: int = 5) -> list[Row]:
    """Compare scans of few small files with the script, and a scan without changes with importing NumPy."""
    files = sorted(folder.rglob("*.png"))
    with tempfile.TemporaryDirectory() as temporary:
        ten, home = Path(temporary) / "ten", Path(temporary) / "home"
        ten.mkdir()
        for file in files[:10]:
            shutil.copy2(file, ten / file.name)
        time.sleep(2.1)  # a scan waits until a file is 2 s old
        scan(folder, str(home), "--name", "same")  # also compiles the loops, which are then kept
        statsvc = [sys.executable, "-m", "statsvc", "scan"]
        times = measured(
            {
                "script": [sys.executable, "-c", SCRIPT, str(folder)],
                "all": [*statsvc, str(folder), "--home", "HOME"],
                "script of ten": [sys.executable, "-c", SCRIPT, str(ten)],
                "ten": [*statsvc, str(ten), "--home", "HOME"],
                "imports": [sys.executable, "-c", "import numpy, PIL.Image"],
                "same": [*statsvc, str(folder), "--home", str(home), "--name", "same"],
            },
            repeats,
        )
    rows = []
    compared = ((len(files), "script", "all", (1.5, 2)), (10, "script of ten", "ten", (3, 3)))
    for count, script, ours, limits in compared:
        for k, kind in enumerate(("wall", "CPU")):
            name = f"{count} small files, first scan: script of 6 lines, {kind}"
            rows.append(at_most(name, times[script][k], times[ours][k], limits[k]))
    name = f"{len(files)} small files, unchanged: importing NumPy and Pillow"
    return [*rows, at_most(name, times["imports"][0], times["same"][0], 2)]


def first_use(name: str, folder: Path) -> Row:
    """Compare the CPU time of a user's first scan, which compiles a loop, with that of the next one."""
    seconds = []
    with tempfile.TemporaryDirectory() as temporary:
        environment = os.environ | {"XDG_CACHE_HOME": temporary}
        environment.pop("NUMBA_CACHE_DIR", None)
        for number in range(2):
            home = str(Path(temporary) / f"home-{number}")
            command = [sys.executable, "-m", "statsvc", "scan", str(folder), "--home", home, "--json"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Row(
        f"{name}, first scan of a user, CPU: the next scan",
        seconds[1],
        seconds[0],
        "s",
        seconds[0] / seconds[1],
    )


def read_all(paths: list[str]) -> None:
    """Read files once, so that both sides find them in the page cache, and not only the second one."""
    for path in paths:
        Path(path).read_bytes()


def inflated(path: str) -> int:
    """Decompress a file with ISA-L in pieces; return its length."""
    from isal import igzip

    size = 0
    with igzip.open(path) as file:
        while piece := file.read(1 << 22):
            size += len(piece)
    return size


def volumes(count: int, side: int = 512, slices: int = 220) -> list[Row]:
    """Compare a scan of volumes, as many and as large as those of KiTS19, with decompressing them alone."""
    folder = ROOT / "build" / f"volumes-{count}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        header = struct.pack("<i", 348) + bytes(36) + struct.pack("<8h", 3, side, side, slices, 1, 1, 1, 1)
        header += bytes(14) + struct.pack("<2h", 2, 8) + bytes(34) + struct.pack("<3f", 352, 1, 0)
        header = header.ljust(344, b"\0") + b"n+1\0" + bytes(4)
        planes = np.stack([street_scene(number, (side, side)) for number in range(8)]) % 3
        labels = np.repeat(planes, -(-slices // 8), axis=0)[:slices].astype(np.uint8)
        data = gzip.compress(header + labels.tobytes(), 6)
        for number in range(count):
            (part / f"case_{number:05d}.nii.gz").write_bytes(data)
        part.rename(folder)
    paths = sorted(map(str, folder.iterdir()))
    read_all(paths)
    with tempfile.TemporaryDirectory() as temporary:
        one, home = Path(temporary) / "one", str(Path(temporary) / "home")
        one.mkdir()
        shutil.copy2(paths[0], one)
        scan(one, home, "--name", "warm")  # compile the loops, which are then kept
        ours, _ = scan(folder, home, "--name", "volumes")
        rows = [first_use("one volume", one)]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from scanning import inflated; from concurrent.futures "
        "import ThreadPoolExecutor; print(sum(ThreadPoolExecutor(2).map(inflated, sys.argv[2:])))"
    )
    start = time.perf_counter()
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, here, *paths], check=True, capture_output=True)
    theirs = time.perf_counter() - start
    voxels = count * side * side * slices / 1e9
    name = f"{count} volumes of {voxels:.1f} Gvox: ISA-L's inflate alone, 2 threads"
    return [faster(name, theirs, ours, 0.8, "s"), *rows]


def whole_scan(images: int, size: str) -> list[Row]:
    folder = demo(images, size)
    paths = sorted(map(str, folder.rglob("*.png")))
    read_all(paths)
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as home:
        scan(folder / "val", home, "--name", "warm")  # compile the kernels, which are then cached
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
        faster(f"{what}, the command: 2 processes of Pillow + np.bincount", theirs, ours, 6, "s"),
        faster(f"{what}, the command: loop over {CLASSES} classes, 1 process", looped(paths), ours, 25, "s"),
    ]
    if installed("torch"):
        name = f"{what}, the command: DataLoader of 2 workers + torch.bincount"
        rows.append(faster(name, loaded(paths), ours, unit="s"))
    return rows


def walked(folder: Path) -> float:
    """Return the median seconds of listing a folder tree with the size and times of each file."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for top, _, names in os.walk(folder):
            for name in names:
                os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118 - the fastest way in plain Python
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def job_seconds(home: str) -> float:
    """Return the seconds from the lease to the end of the newest job."""
    catalog = Catalog.open(homes.resolve(home, None, None).database)
    [(job, _)] = jobs.recent(catalog, limit=1)
    catalog.close()
    assert job.started_at is not None
    assert job.finished_at is not None
    return job.finished_at - job.started_at


def recomputed(files: int) -> list[Row]:
    """Compare scans after which no file and one file has changed with walking the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "labels"
        for number in range(files):
            subfolder = folder / f"{number // 1000:04d}"
            if number % 1000 == 0:
                subfolder.mkdir(parents=True)
                first = subfolder / "000000.png"
                Image.fromarray(street_scene(number, (64, 32))).save(first)
            else:
                os.link(first, subfolder / f"{number:06d}.png")
        # Not a hard link: replacing one link changes the ctime of the others.
        changed = folder / "0000" / "single.png"
        Image.fromarray(street_scene(1, (64, 32))).save(changed)
        home = str(Path(temporary) / "home")
        scan(folder, home, "--name", "many")
        walk = walked(folder)
        unchanged = []
        for _ in range(3):
            summary = scan(folder, home, "--name", "many")[1]["scan"]
            assert summary["counted"] == 0
            unchanged.append(job_seconds(home))
        Image.fromarray(street_scene(2, (64, 32))).save(changed)
        time.sleep(2.1)  # otherwise the scan waits until the file is 2 s old
        summary = scan(folder, home, "--name", "many")[1]["scan"]
        assert summary["counted"] == 1
        one_change = job_seconds(home)
    no_change = statistics.median(unchanged)
    return [
        at_most(f"{files} unchanged files, lease to end: walking the folder", walk, no_change, 2.5),
        within("one changed file, additional time: limit of 0.3 s", one_change - no_change, 0.3),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", type=Path, metavar="FOLDER")
    parser.add_argument("--volumes", type=int, default=210)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", default="2048x1024", metavar="WxH")
    parser.add_argument("--unchanged", type=int, default=100_000, metavar="FILES")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = small_scans(options.small or demo(367, "480x360"))
    rows += whole_scan(options.images, options.size)
    if options.volumes:
        rows += volumes(options.volumes)
    if options.unchanged:
        rows += recomputed(options.unchanged)
    report(
        "scans on this machine's cores", rows, options.json, not_installed({"torch": "Torch's DataLoader"})
    )


if __name__ == "__main__":
    main()
