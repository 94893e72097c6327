"""Label arrays to histograms over raw ids, in exact 64-bit integers, on the CPU and on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import MAX_IDS
from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

PIECE = 1 << 18
"""Pixels converted, or hashed, at once: few enough to stay in the cache."""

DENSE_SPAN = 1 << 16
"""Widest range of ids counted by their value; a wider one is hashed."""

BATCH_PIXELS = 1 << 24
"""Pixels that one `torch.bincount` counts: 128 MB of int64 on the device."""

COUNTERS = 8
"""Counts of an id in a table: pixels that follow each other without runs are counted in different ones."""

_SLOTS = 4 * MAX_IDS  # of the hash table, which is full at half


class TooManyIds(UnreadableSample):
    """A label map with more ids than there are classes anywhere."""


class Counter:
    """Histogram of one sample, fed chunk by chunk.

    Ids that lie close together are counted in a table with a row for each id of a range, which starts
    at 256 ids and is widened up to `DENSE_SPAN`; others are hashed, a piece of the chunk at a time.
    """

    def __init__(self) -> None:
        self._low = 0  # the id of the table's first row
        self._table = np.zeros((256, COUNTERS), np.int64)
        self._ids = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def add(self, chunk: NDArray[Any]) -> None:
        """Count an integer or bool array of any shape, order and byte order.

        Raises `UnreadableSample` beyond `MAX_IDS` ids, and for ids that int64 cannot hold.
        """
        from statsvc_workers.kernels import (
            run_lengths,  # numba takes 0.3 s to load: not where files are only listed
        )

        # What can be counted as it lies is counted at once; what must be converted, piece by piece.
        for piece in _pieces(chunk, max(1, chunk.size) if chunk.dtype.isnative else PIECE):
            flat = _native(piece)
            begin = 0
            while begin < len(flat):
                begin += run_lengths.count_dense(flat[begin:], self._low, self._table)
                if begin < len(flat) and not self._widened(flat[begin : begin + PIECE]):
                    self.merge(*_hashed(flat[begin : begin + PIECE]))
                    begin += PIECE
        if self._table.shape[0] > MAX_IDS:
            self._drain()

    def _widened(self, piece: NDArray[Any]) -> bool:
        """Widen the table to hold the ids of a non-empty piece; False where their range is too wide."""
        low, span = _range(piece)
        if span > DENSE_SPAN:
            return False
        self._drain()
        together = min(low, self._low)
        reach = max(low + span, self._low + self._table.shape[0]) - together
        # Ids too far from those before get a table of their own.
        self._low, span = (together, reach) if reach <= DENSE_SPAN else (low, span)
        # A power of two, which one comparison tells for several ids at once.
        self._table = np.zeros((1 << (span - 1).bit_length(), COUNTERS), np.int64)
        return True

    def _drain(self) -> None:
        """Move the table's counts to the ids that are known."""
        counts = self._table.sum(axis=1)
        present = np.flatnonzero(counts)
        if len(present):
            self._table[:] = 0
            self.merge(present + self._low, counts[present])

    def merge(self, ids: Int64, counts: Int64) -> None:
        """Add counts taken elsewhere, int64 [k] each, ids ascending. Raises `UnreadableSample`."""
        if len(ids) == len(self._ids) and np.array_equal(ids, self._ids):
            self._counts += counts
            return
        every = np.concatenate([self._ids, ids])
        self._ids, place = np.unique(every, return_inverse=True)
        total = np.zeros(len(self._ids), np.int64)
        # Both halves are without repeats, so plain indexing adds each once.
        total[place[: len(self._counts)]] += self._counts
        total[place[len(self._counts) :]] += counts
        self._counts = total
        if len(self._ids) > MAX_IDS:
            raise _too_many(self._ids)

    def result(self) -> tuple[Int64, Int64]:
        """Return the ids that occur, ascending, and the pixels of each: int64 [k], int64 [k]."""
        self._drain()
        return self._ids, self._counts


def check_ids(chunk: NDArray[Any]) -> None:
    """Refuse what is no array of ids, or holds ids beyond int64. Raises `UnreadableSample`."""
    if chunk.dtype.kind not in "biu":
        raise UnreadableSample(f"holds {chunk.dtype.name} values, not class ids; save an integer type")
    if chunk.dtype.kind == "u" and chunk.dtype.itemsize == 8 and chunk.size:
        highest = int(chunk.max())
        if highest > np.iinfo(np.int64).max:
            raise UnreadableSample(
                f"holds the id {highest}, beyond 64-bit signed integers; if it stands for -1, save int64"
            )


def count_batch_torch(arrays: Sequence[NDArray[Any]], device: str) -> list[tuple[Int64, Int64]]:
    """Count a batch of label maps with `torch.bincount`, all at once, with an offset for each.

    Returns for each array the ids that occur, ascending, and their pixels, as `Counter` does but without
    its limit on ids. Arrays whose ids spread wider than `DENSE_SPAN` are counted on the CPU.

    Raises `UnreadableSample` as `check_ids` does.
    """
    counters = [_Tally() for _ in arrays]
    batch: list[tuple[_Tally, NDArray[Any], int, int]] = []
    filled = 0
    for tally, array in zip(counters, arrays, strict=True):
        for piece in _pieces(array, BATCH_PIXELS):
            low, span = _range(piece)
            if span > DENSE_SPAN:
                for part in _pieces(piece):
                    tally.add(*_hashed(part))
                continue
            if batch and filled + len(piece) > BATCH_PIXELS:
                _launch(batch, device)
                batch, filled = [], 0
            batch.append((tally, piece, low, span))
            filled += len(piece)
    if batch:
        _launch(batch, device)
    return [tally.result() for tally in counters]


class _Tally:
    """Sum of histograms without a limit on ids."""

    def __init__(self) -> None:
        self.parts: list[tuple[Int64, Int64]] = []

    def add(self, ids: Int64, counts: Int64) -> None:
        self.parts.append((ids, counts))

    def result(self) -> tuple[Int64, Int64]:
        if not self.parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids = np.concatenate([part[0] for part in self.parts])
        counts = np.concatenate([part[1] for part in self.parts])
        unique, place = np.unique(ids, return_inverse=True)
        total = np.zeros(len(unique), np.int64)
        np.add.at(total, place, counts)
        return unique, total


def _launch(batch: list[tuple[_Tally, NDArray[Any], int, int]], device: str) -> None:
    """Count the pieces (tally, ids, lowest id, span) of one batch in one call."""
    import torch

    index = torch.empty(sum(len(piece) for _, piece, _, _ in batch), dtype=torch.int64, device=device)
    pixel = offset = 0
    for _, piece, low, span in batch:
        part = index[pixel : pixel + len(piece)]
        part.copy_(torch.from_numpy(_for_torch(piece)))
        part.add_(offset - low)
        pixel, offset = pixel + len(piece), offset + span
    counts = torch.bincount(index, minlength=offset).cpu().numpy()
    offset = 0
    for tally, _, low, span in batch:
        mine = counts[offset : offset + span]
        present = np.flatnonzero(mine)
        tally.add(present.astype(np.int64) + low, mine[present].astype(np.int64))
        offset += span


def _for_torch(piece: NDArray[Any]) -> NDArray[Any]:
    """Return the piece in a type that every Torch converts: native, writable, uint8 or signed."""
    if piece.dtype.kind == "u" and piece.dtype.itemsize > 1:
        # Wider than the type, so that no id changes its sign; uint64 was checked to fit int64.
        return piece.astype({2: np.int32, 4: np.int64, 8: np.int64}[piece.dtype.itemsize])
    native = _native(piece)
    return native if native.flags.writeable else native.copy()


def _pieces(chunk: NDArray[Any], size: int = PIECE) -> Iterator[NDArray[Any]]:
    """Yield the pixels as flat contiguous arrays of at most `size`, in any order."""
    check_ids(chunk)
    if not chunk.size:
        return
    # "K": pixels in the order they lie in memory, so that only strided arrays are copied.
    flat = chunk.ravel(order="K")
    for start in range(0, flat.size, size):
        yield flat[start : start + size]


def _range(piece: NDArray[Any]) -> tuple[int, int]:
    """Return the lowest id and how many values reach to the highest."""
    if piece.dtype.itemsize == 1 and piece.dtype.kind != "i":
        return 0, 256
    low = int(piece.min())
    return low, int(piece.max()) - low + 1


def _hashed(piece: NDArray[Any]) -> tuple[Int64, Int64]:
    """Return the ids of a non-empty piece, ascending, and their counts. Raises `UnreadableSample`."""
    from statsvc_workers.kernels import run_lengths

    ids, counts = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.int64)
    if run_lengths.count_sparse(_native(piece), ids, counts) < 0:
        low, span = _range(piece)
        raise _too_many(np.array([low, low + span - 1], np.int64))
    taken = np.flatnonzero(counts)
    taken = taken[np.argsort(ids[taken])]
    return ids[taken], counts[taken]


def _native(piece: NDArray[Any]) -> NDArray[Any]:
    """Return the piece in this machine's byte order, bool as uint8."""
    if piece.dtype.kind == "b":
        return piece.view(np.uint8)
    return piece.astype(piece.dtype.newbyteorder("="), copy=False)


def _too_many(ids: Int64) -> TooManyIds:
    return TooManyIds(
        f"holds more than {MAX_IDS} different ids (from {ids[0]} to {ids[-1]}), which are no classes. "
        "Instance ids? A CT scan or a depth map? Choose the files that hold class ids with --pattern"
    )
