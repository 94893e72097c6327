"""Memory of the Dask workers during a scan of many large label maps.

    python benchmarks/worker_memory.py [--images 3000] [--size 2048x1024]

Generates demo label maps once (kept in build/), scans them in a new home directory, and samples the resident
set size of every worker process five times a second. Prints the maximum of any worker for each tenth of the
scan. The goal is a flat series: the last tenths do not exceed the first ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 500


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the Dask worker processes of a scan: spawned processes, without multiprocessing's helpers."""
    workers = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.Error:
            continue
    return workers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", default="2048x1024")
    options = parser.parse_args()
    labels = ROOT / "build" / f"demo-{options.images}-{options.size}"
    if not (labels / "classes.txt").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "statsvc", "demo", labels),
                *("--images", str(options.images), "--size", options.size),
            ],
            check=True,
        )
    readings: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as home:
        start = time.monotonic()
        scan = psutil.Popen(
            [sys.executable, "-m", "statsvc", "scan", labels, "--home", home, "--json"],
            stdout=subprocess.PIPE,
        )
        while scan.poll() is None:
            for worker in workers_of(scan):
                try:
                    readings.append((time.monotonic() - start, worker.memory_info().rss / 1e6))
                except psutil.Error:
                    continue
            time.sleep(0.2)
        seconds = time.monotonic() - start
        assert scan.stdout is not None
        summary = json.loads(scan.stdout.read())["scan"]
    print(f"{summary['counted']} of {summary['total']} label maps of {options.size} in {seconds:.1f} s")
    print(f"{summary['pixels_per_second'] / 1e9:.2f} Gpx/s while counting")
    last = readings[-1][0]
    peaks = [0.0] * 10
    for seconds_in, megabytes in readings:
        tenth = min(9, int(10 * seconds_in / last))
        peaks[tenth] = max(peaks[tenth], megabytes)
    print("highest worker RSS by tenth of the scan, MB:", " ".join(f"{peak:.0f}" for peak in peaks))
    print(f"highest: {max(peaks):.0f} MB; goal: flat, at most {LIMIT_MB} MB")
    return int(max(peaks) > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
