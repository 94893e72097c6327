"""Label maps of bytes counted on CUDA, beside what the device and the bus can copy; nothing without a device.

    python benchmarks/gpu.py [--size 2048x1024] [--images 64] [--repeats 20] [--json FILE]

Label maps are drawn with a fixed seed. The device's rate is that of a copy within its memory, the bus's that
of a copy from pinned memory.
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
    """Return the median time from starting `run` until the device has nothing left to do."""
    run()
    cuda.synchronize()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measured(maps: list[np.ndarray], repeats: int) -> list[Row]:
    whole = np.concatenate([array.reshape(-1) for array in maps]).view(np.uint64)
    words = np.array([array.size // 8 for array in maps], np.int64)
    stream = cuda.stream()
    pinned = cuda.pinned_array(len(whole), np.uint64)
    pinned[:] = whole
    pixels, other = cuda.to_device(whole), cuda.device_array(len(whole), np.uint64)
    copied = 1000 * seconds(lambda: other.copy_to_device(pixels), repeats)
    counted = 1000 * seconds(lambda: ours.launched(pixels, words, stream), repeats)
    sent = 1000 * seconds(lambda: other.copy_to_device(pinned), repeats)
    batch = 1000 * seconds(lambda: ours.count_batch(maps), repeats)
    torch_ms = 1000 * seconds(lambda: by_torch(maps), max(3, repeats // 4))
    table = ours.launched(pixels, words, stream).copy_to_host()
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
    title = "Label maps on CUDA, ms for all of them"
    if not ours.available():
        report(title, [], options.json, ["CUDA: there is no GPU that numba can use here"])
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder), images=options.images, size=(width, height), seed=0)
        maps = [np.asarray(Image.open(file)) for file in sorted(Path(folder).rglob("*.png"))]
    report(f"{title}; {options.images} of {options.size}", measured(maps, options.repeats), options.json)


if __name__ == "__main__":
    main()
