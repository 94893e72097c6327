"""Count uint8 label maps on CUDA: many label maps per launch, whole runs per addition.

Neighboring pixels of a label map are equal, so the threads of a warp would add to the same counter one after
the other. Here a thread adds the length of a run in one step, to counters in shared memory that only its warp
uses; each block adds to global memory once per id. NOTES.md derives the steps.

Import this module only where a device exists. numba compiles the kernel on first use,
https://numba.readthedocs.io/en/stable/cuda.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct, field
from numba import cuda, int32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

THREADS = 256
"""Threads per block."""

WARP = 32
"""Threads per warp."""

WARPS = THREADS // WARP
"""Warps per block; each has its own 256 counters of int32 in shared memory, 8 KiB per block."""

TILE_WORDS = 1 << 13
"""Words of eight pixels per block: enough to pay for clearing counters, few enough to occupy the device."""

BUFFER_BYTES = 1 << 25
"""Pixels per launch, copied from pinned memory. Two such buffers alternate, each on its own CUDA stream."""

_buffers_lock = threading.Lock()
"""Protects the buffers, which all threads of a Dask worker share."""

EACH_BYTE = np.uint64(0x0101010101010101)
BYTE = np.uint64(0xFF)
BITS = np.uint64(8)


def available() -> bool:
    """Whether numba finds a device and can compile for it."""
    try:
        if not cuda.is_available():
            return False
        histograms = count_batch([np.arange(256, dtype=np.uint8)])
    except Exception:  # noqa: BLE001 - a missing toolkit or a wrong driver: Torch is used instead
        return False
    return bool(histograms[0][1].sum() == 256)


def count_batch(arrays: Sequence[NDArray[Any]]) -> list[tuple[Int64, Int64]]:
    """Count uint8 or bool label maps; return for each its ids, ascending, and their pixels, int64 [k] each.

    Thread-safe: concurrent calls run one after the other.
    """
    with _buffers_lock:
        table = _count_all(arrays)
    present = [np.flatnonzero(counts) for counts in table]
    return [(ids, counts[ids]) for ids, counts in zip(present, table, strict=True)]


def _count_all(arrays: Sequence[NDArray[Any]]) -> Int64:
    """Return the pixels of each id in each label map, int64 [n, 256]."""
    table = np.zeros((len(arrays), 256), np.int64)
    buffers, current = _buffers(), 0
    for buffer in buffers:
        buffer.clear()  # a failed call may have left pixels
    for row, array in enumerate(arrays):
        # "K": pixels in memory order, so that only strided arrays are copied.
        flat = array.ravel(order="K").view(np.uint8)
        whole = len(flat) - len(flat) % 8
        table[row] += np.bincount(flat[whole:], minlength=256)
        start = 0
        while start < whole:
            start += buffers[current].take(row, flat[start:whole])
            if buffers[current].free == 0:
                buffers[current].launch()
                current = 1 - current
                buffers[current].collect(table)
    for buffer in buffers:
        buffer.launch()
        buffer.collect(table)
    return table


def launch_count(pixels: Any, words: Int64, stream: Any) -> Any:
    """Start counting consecutive label maps on the device, without waiting.

    pixels  uint64 [n] on the device, eight pixels per word
    words   int64 [k], words of each label map; their sum is n

    Returns the counts, int64 [k, 256] on the device; they are complete once `stream` has finished.
    """
    tiles = -(-words // TILE_WORDS)
    label_map = np.repeat(np.arange(len(words)), tiles)
    within = np.arange(len(label_map)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    starts = np.cumsum(words) - words
    first = starts[label_map] + within * TILE_WORDS
    last = np.minimum(first + TILE_WORDS, starts[label_map] + words[label_map])
    columns = [cuda.to_device(column, stream=stream) for column in (label_map, first, last)]
    counts = cuda.to_device(np.zeros((len(words), 256), np.int64), stream=stream)
    _count[len(label_map), THREADS, stream](pixels, *columns, counts)
    return counts


class _LaunchBuffer(Struct):
    """A pinned buffer, its CUDA stream, and the counts launched from it.

    rows, words  for each piece in the buffer, the row of the result and the number of words
    """

    stream: Any = field(default_factory=cuda.stream)
    host: NDArray[np.uint8] = field(default_factory=lambda: cuda.pinned_array(BUFFER_BYTES, np.uint8))
    filled: int = 0
    rows: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    counts: Any = None

    @property
    def free(self) -> int:
        """Free bytes."""
        return BUFFER_BYTES - self.filled

    def take(self, row: int, flat: NDArray[np.uint8]) -> int:
        """Copy as much of a label map as fits, in whole words; return the number of bytes."""
        taken = min(len(flat), self.free)
        self.host[self.filled : self.filled + taken] = flat[:taken]
        self.filled += taken
        self.rows.append(row)
        self.words.append(taken // 8)
        return taken

    def launch(self) -> None:
        """Start copying the buffer to the device and counting it, without waiting."""
        if not self.filled:
            return
        pixels = cuda.to_device(self.host[: self.filled].view(np.uint64), stream=self.stream)
        self.counts = launch_count(pixels, np.array(self.words, np.int64), self.stream)

    def collect(self, table: Int64) -> None:
        """Wait for the counts, add them to the rows of `table`, int64 [n, 256], and clear the buffer."""
        if self.counts is not None:
            counts = self.counts.copy_to_host(stream=self.stream)
            self.stream.synchronize()
            np.add.at(table, self.rows, counts)
        self.clear()

    def clear(self) -> None:
        """Empty the buffer."""
        self.counts, self.filled = None, 0
        self.rows.clear()
        self.words.clear()


@functools.cache
def _buffers() -> tuple[_LaunchBuffer, _LaunchBuffer]:
    """Return the buffers of this process: pinned memory is slow to allocate."""
    return _LaunchBuffer(), _LaunchBuffer()


@cuda.jit
def _count(words, label_map, first, last, counts):
    """In block b of the launch, add the pixels of `words[first[b]:last[b]]` to `counts[label_map[b]]`.

    Shapes: words uint64 [n]; label_map, first, last int64 [blocks]; counts int64 [k, 256].
    """
    shared = cuda.shared.array((WARPS, 256), int32)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    warp = thread // WARP
    for slot in range(thread, WARPS * 256, THREADS):
        shared[slot // 256, slot % 256] = 0
    cuda.syncthreads()

    value, run = words[first[block]] & BYTE, 0
    # Neighboring threads read neighboring words, so that the memory controller coalesces the reads.
    for position in range(first[block] + thread, last[block], THREADS):
        word = words[position]
        if word == value * EACH_BYTE:
            run += 8
        else:
            for _ in range(8):
                pixel = word & BYTE
                word >>= BITS
                if pixel != value:
                    if run:
                        cuda.atomic.add(shared, (warp, value), run)
                    value, run = pixel, 0
                run += 1
    if run:
        cuda.atomic.add(shared, (warp, value), run)
    cuda.syncthreads()

    for pixel in range(thread, 256, THREADS):
        total = 0
        for other in range(WARPS):
            total += shared[other, pixel]
        if total:
            cuda.atomic.add(counts, (label_map[block], pixel), total)
