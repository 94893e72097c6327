"""Counting uint8 label maps on CUDA, compared with the copy rates of the device and the bus.

    python benchmarks/gpu.py [--size 2048x1024] [--images 64] [--repeats 20] [--json FILE]

The label maps are generated with a fixed seed. The device rate is that of a copy within its memory, the bus
rate that of a copy from pinned memory. Nothing is measured without a CUDA
device.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring import Row, faster, report
from numba import cuda
from PIL import Image

from statsvc.local.demo import make_demo
from statsvc_workers.kernels import cuda as ours

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median time until the device has finished the work of `run`."""
    run()
    cuda.synchronize()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(maps: list[np.ndarray], repeats: int) -> list[Row]:
    words = np.concatenate([array.reshape(-1) for array in maps]).view(np.uint64)
    sizes = np.array([array.size // 8 for array in maps], np.int64)
    stream = cuda.stream()
    pinned = cuda.pinned_array(len(words), np.uint64)
    pinned[:] = words
    pixels, other = cuda.to_device(words), cuda.device_array(len(words), np.uint64)
    copied = 1000 * seconds(lambda: other.copy_to_device(pixels), repeats)
    counted = 1000 * seconds(lambda: ours.launch_count(pixels, sizes, stream), repeats)
    sent = 1000 * seconds(lambda: other.copy_to_device(pinned), repeats)
    batch = 1000 * seconds(lambda: ours.count_batch(maps), repeats)
    torch_ms = 1000 * seconds(lambda: by_torch(maps), max(3, repeats // 4))
    table = ours.launch_count(pixels, sizes, stream).copy_to_host()
    expected = [np.bincount(array.reshape(-1), minlength=256) for array in maps]
    np.testing.assert_array_equal(table, expected)
    return [
        faster("CUDA, on the device: a copy of the same bytes", copied, counted, 0.5),
        faster("CUDA, from the host: a copy from pinned memory", sent, batch, 0.8),
        faster("CUDA, from the host: torch.bincount", torch_ms, batch),
    ]


def by_torch(maps: list[np.ndarray]) -> None:
    import torch

    for array in maps:
        torch.bincount(torch.from_numpy(array.reshape(-1)).cuda(), minlength=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", default="2048x1024", help="width x height")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    title = "Label maps on CUDA, total milliseconds"
    if not ours.available():
        report(title, [], options.json, ["CUDA: numba finds no usable GPU on this machine"])
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder), images=options.images, size=(width, height), seed=0)
        maps = [np.asarray(Image.open(file)) for file in sorted(Path(folder).rglob("*.png"))]
    report(f"{title}; {options.images} of {options.size}", measure(maps, options.repeats), options.json)


if __name__ == "__main__":
    main()
