"""Label maps of one byte a pixel, counted on CUDA: many in one launch, runs merged before anything is added.

Imported only where there is a device. What makes label maps slow on a GPU is what makes them small on a
disk: neighbours are equal, so the threads of a warp would all add to one counter, one after the other. Here
a thread adds a run of pixels at once, to counters that only its warp shares, in the fast memory of its block;
the device's own memory is added to once a block and id.

Compiled for the device by numba at first use, https://numba.readthedocs.io/en/stable/cuda.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda, int32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

THREADS = 256
"""Threads of a block."""

WARPS = THREADS // 32
"""Groups of threads that run in step; each has counters of its own, 8 KiB a block in all."""

TILE_WORDS = 1 << 13
"""Words of eight pixels that one block counts: enough to be worth its counters, few enough for all blocks."""

BUFFER_BYTES = 1 << 25
"""Pixels of one launch, copied from pinned memory: two such buffers take turns, on a stream each."""

_one_at_a_time = threading.Lock()
"""Held while the buffers are used: a Dask worker may have several threads, and they are the process's."""

EACH_BYTE = np.uint64(0x0101010101010101)
BYTE = np.uint64(0xFF)
BITS = np.uint64(8)


def available() -> bool:
    """Whether numba finds a device and compiles for it."""
    try:
        if not cuda.is_available():
            return False
        counted = count_batch([np.arange(256, dtype=np.uint8)])
    except Exception:  # noqa: BLE001 - no toolkit, another driver: whatever it is, Torch counts instead
        return False
    return bool(counted[0][1].sum() == 256)


def count_batch(arrays: Sequence[NDArray[Any]]) -> list[tuple[Int64, Int64]]:
    """Count label maps of uint8 or bool; return for each the ids, ascending, and pixels, int64 [k] each.

    Threads take turns.
    """
    with _one_at_a_time:
        table = _counted(arrays)
    present = [np.flatnonzero(counts) for counts in table]
    return [(ids, counts[ids]) for ids, counts in zip(present, table, strict=True)]


def _counted(arrays: Sequence[NDArray[Any]]) -> Int64:
    """Return the pixels of each id in each label map, int64 [n, 256]."""
    table = np.zeros((len(arrays), 256), np.int64)
    turns, turn = _turns(), 0
    for one in turns:
        one.clear()  # of a call that failed
    for row, array in enumerate(arrays):
        # "K": pixels in the order they lie in memory, so that only strided arrays are copied.
        flat = array.ravel(order="K").view(np.uint8)
        whole = len(flat) - len(flat) % 8
        table[row] += np.bincount(flat[whole:], minlength=256)
        at = 0
        while at < whole:
            at += turns[turn].take(row, flat[at:whole])
            if turns[turn].room == 0:
                turns[turn].launch()
                turn = 1 - turn
                turns[turn].collect(table)
    for one in turns:
        one.launch()
        one.collect(table)
    return table


def launched(pixels: Any, words: Int64, stream: Any) -> Any:
    """Start counting label maps, one after the other on the device; return where their counts will be.

    pixels  uint64 [n] on the device, eight pixels a word
    words   int64 [k], words of each label map; their sum is n

    The result is int64 [k, 256] on the device, complete when `stream` has come to it.
    """
    tiles = -(-words // TILE_WORDS)
    label_map = np.repeat(np.arange(len(words)), tiles)
    within = np.arange(len(label_map)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    starts = np.cumsum(words) - words
    first = starts[label_map] + within * TILE_WORDS
    last = np.minimum(first + TILE_WORDS, starts[label_map] + words[label_map])
    places = [cuda.to_device(column, stream=stream) for column in (label_map, first, last)]
    counts = cuda.to_device(np.zeros((len(words), 256), np.int64), stream=stream)
    _count[len(label_map), THREADS, stream](pixels, *places, counts)
    return counts


@dataclass(slots=True)
class _Turn:
    """One buffer, its stream, and what was launched from it."""

    stream: Any = field(default_factory=cuda.stream)
    host: NDArray[np.uint8] = field(default_factory=lambda: cuda.pinned_array(BUFFER_BYTES, np.uint8))
    filled: int = 0
    rows: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    counts: Any = None

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return BUFFER_BYTES - self.filled

    def take(self, row: int, flat: NDArray[np.uint8]) -> int:
        """Take what fits of a label map, whole words; return how many bytes that was."""
        taken = min(len(flat), self.room)
        self.host[self.filled : self.filled + taken] = flat[:taken]
        self.filled += taken
        self.rows.append(row)
        self.words.append(taken // 8)
        return taken

    def launch(self) -> None:
        """Copy and count what was taken; the host goes on meanwhile."""
        if not self.filled:
            return
        pixels = cuda.to_device(self.host[: self.filled].view(np.uint64), stream=self.stream)
        self.counts = launched(pixels, np.array(self.words, np.int64), self.stream)

    def collect(self, table: Int64) -> None:
        """Wait for what was launched, add it to the rows of `table`, int64 [n, 256], and be empty again."""
        if self.counts is not None:
            counts = self.counts.copy_to_host(stream=self.stream)
            self.stream.synchronize()
            np.add.at(table, self.rows, counts)
        self.clear()

    def clear(self) -> None:
        """Forget what was taken."""
        self.counts, self.filled = None, 0
        self.rows.clear()
        self.words.clear()


@functools.cache
def _turns() -> tuple[_Turn, _Turn]:
    """Return the process's buffers: pinned memory is slow to get."""
    return _Turn(), _Turn()


@cuda.jit
def _count(words, label_map, first, last, counts):
    """Add the pixels of `words[first[b]:last[b]]` to `counts[label_map[b]]`, block b of the launch."""
    own = cuda.shared.array((WARPS, 256), int32)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    warp = thread // 32
    for place in range(thread, WARPS * 256, THREADS):
        own[place // 256, place % 256] = 0
    cuda.syncthreads()

    value, run = words[first[block]] & BYTE, 0
    # Neighbouring threads read neighbouring words, which the memory answers at once.
    for place in range(first[block] + thread, last[block], THREADS):
        word = words[place]
        if word == value * EACH_BYTE:
            run += 8
        else:
            for _ in range(8):
                pixel = word & BYTE
                word >>= BITS
                if pixel != value:
                    if run:
                        cuda.atomic.add(own, (warp, value), run)
                    value, run = pixel, 0
                run += 1
    if run:
        cuda.atomic.add(own, (warp, value), run)
    cuda.syncthreads()

    for pixel in range(thread, 256, THREADS):
        total = 0
        for other in range(WARPS):
            total += own[other, pixel]
        if total:
            cuda.atomic.add(counts, (label_map[block], pixel), total)
