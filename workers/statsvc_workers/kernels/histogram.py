"""Label arrays to histograms over raw ids, in exact 64-bit integers, on the CPU and on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import MAX_IDS
from statsvc.errors import UnreadableSample
from statsvc_workers.kernels.sizes import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

PIECE = 1 << 18
"""Pixels that are converted or hashed in one step: few enough to stay in the cache."""

DENSE_SPAN = 1 << 16
"""Widest range of ids that a dense table covers; ids of a wider range are hashed."""

BATCH_PIXELS = 1 << 24
"""Pixels per call of `torch.bincount`: 128 MB of int64 on the device."""

_SLOTS = 4 * MAX_IDS
"""Slots of the hash table, of which at most half are used."""


class TooManyIds(UnreadableSample):
    """A label map with more different ids than any dataset has classes."""


class Counter:
    """Histogram of one sample, built chunk by chunk.

    Ids of a narrow range are counted in a table with one row per id, which starts at 256 ids and grows up to
    `DENSE_SPAN`. Other ids are counted in a hash table, one piece of the chunk at a time.
    """

    def __init__(self) -> None:
        self._set_table(0, 256)
        self._ids = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def add(self, chunk: NDArray[Any]) -> None:
        """Count an integer or bool array of any shape, order and byte order.

        Raises `UnreadableSample` for more than `MAX_IDS` ids, and for ids outside int64.
        """
        # Only a chunk in foreign byte order has to be converted, and so is counted piece by piece.
        for piece in _pieces(chunk, max(1, chunk.size) if chunk.dtype.isnative else PIECE):
            flat = _native(piece)
            begin = 0
            while begin < len(flat):
                begin += self._dense.count(flat[begin:])
                if begin < len(flat) and not self._grow_table(flat[begin : begin + PIECE]):
                    self.merge(*_hashed(flat[begin : begin + PIECE]))
                    begin += PIECE
        if self._table.shape[0] > MAX_IDS:
            self._drain()

    def _grow_table(self, piece: NDArray[Any]) -> bool:
        """Grow the table to cover the ids of a non-empty piece; return False if it cannot."""
        low, span = _range(piece)
        if span > DENSE_SPAN:
            return False
        self._drain()
        joint_low = min(low, self._low)
        joint_span = max(low + span, self._low + self._table.shape[0]) - joint_low
        # Ids too far from the earlier ids get a new table.
        low, span = (joint_low, joint_span) if joint_span <= DENSE_SPAN else (low, span)
        # With a power of two, one comparison checks the range of several ids.
        self._set_table(low, 1 << (span - 1).bit_length())
        return True

    def _set_table(self, low: int, span: int) -> None:
        """Start a table of `span` ids from `low` on."""
        from statsvc_workers.kernels import loops  # listing does not need llvmlite

        self._low, self._table = low, np.zeros((span, COUNTERS), np.int64)
        self._dense = loops.Dense(low, self._table.reshape(-1))

    def _drain(self) -> None:
        """Move the counts of the dense table to the result."""
        counts = np.einsum("ij->i", self._table)  # three times as fast as `sum`
        present = np.flatnonzero(counts)
        if len(present):
            self._table[:] = 0
            self.merge(present + self._low, counts[present])

    def merge(self, ids: Int64, counts: Int64) -> None:
        """Add a histogram, int64 [k] each, ids ascending. Raises `UnreadableSample` for too many ids."""
        if not len(self._ids):
            self._ids, self._counts = ids, counts.copy()
        elif len(ids) == len(self._ids) and np.array_equal(ids, self._ids):
            self._counts += counts
        else:
            self._join(ids, counts)
        if len(self._ids) > MAX_IDS:
            raise too_many_ids(self._ids)

    def _join(self, ids: Int64, counts: Int64) -> None:
        self._ids, position = np.unique(np.concatenate([self._ids, ids]), return_inverse=True)
        total = np.zeros(len(self._ids), np.int64)
        # Neither half contains an id twice, so plain indexing adds every count.
        total[position[: len(self._counts)]] += self._counts
        total[position[len(self._counts) :]] += counts
        self._counts = total

    def result(self) -> tuple[Int64, Int64]:
        """Return the ids that occur, ascending, and the pixels of each: int64 [k], int64 [k]."""
        self._drain()
        return self._ids, self._counts


def check_ids(chunk: NDArray[Any]) -> None:
    """Raise `UnreadableSample` for an array that is not integer or bool, or has ids outside int64."""
    if chunk.dtype.kind not in "biu":
        raise UnreadableSample(f"contains {chunk.dtype.name} values, not class ids; save an integer type")
    if chunk.dtype.kind == "u" and chunk.dtype.itemsize == 8 and chunk.size:
        highest = int(chunk.max())
        if highest > np.iinfo(np.int64).max:
            raise UnreadableSample(
                f"contains the id {highest}, which exceeds int64; if it represents -1, save labels as int64"
            )


def count_batch_torch(arrays: Sequence[NDArray[Any]], device: str) -> list[tuple[Int64, Int64]]:
    """Count a batch of label maps with one call of `torch.bincount`, using a separate offset for each.

    Returns for each array its ids, ascending, and their pixels, int64 [k] each, without the limit of
    `Counter` on the number of ids. Ids of a wider range than `DENSE_SPAN` are counted on the CPU.

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
    """Sum of histograms, without a limit on the number of ids."""

    def __init__(self) -> None:
        self.parts: list[tuple[Int64, Int64]] = []

    def add(self, ids: Int64, counts: Int64) -> None:
        self.parts.append((ids, counts))

    def result(self) -> tuple[Int64, Int64]:
        if not self.parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids = np.concatenate([part[0] for part in self.parts])
        counts = np.concatenate([part[1] for part in self.parts])
        unique, position = np.unique(ids, return_inverse=True)
        total = np.zeros(len(unique), np.int64)
        np.add.at(total, position, counts)
        return unique, total


def _launch(batch: list[tuple[_Tally, NDArray[Any], int, int]], device: str) -> None:
    """Count the pieces (tally, ids, lowest id, span) of one batch with one call."""
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
        piece_counts = counts[offset : offset + span]
        present = np.flatnonzero(piece_counts)
        tally.add(present.astype(np.int64) + low, piece_counts[present].astype(np.int64))
        offset += span


def _for_torch(piece: NDArray[Any]) -> NDArray[Any]:
    """Return the piece in a form that every Torch release accepts: native, writable, uint8 or signed."""
    if piece.dtype.kind == "u" and piece.dtype.itemsize > 1:
        # The wider signed type preserves every id; `check_ids` made sure that uint64 fits int64.
        return piece.astype({2: np.int32, 4: np.int64, 8: np.int64}[piece.dtype.itemsize])
    native = _native(piece)
    return native if native.flags.writeable else native.copy()


def _pieces(chunk: NDArray[Any], size: int = PIECE) -> Iterator[NDArray[Any]]:
    """Yield the pixels as flat contiguous arrays of at most `size`, in any order."""
    check_ids(chunk)
    if not chunk.size:
        return
    # "K": pixels in memory order, so that only strided arrays are copied.
    flat = chunk.ravel(order="K")
    for start in range(0, flat.size, size):
        yield flat[start : start + size]


def _range(piece: NDArray[Any]) -> tuple[int, int]:
    """Return (lowest id, number of values from the lowest to the highest id); bytes count as 0…255."""
    if piece.dtype.itemsize == 1 and piece.dtype.kind != "i":
        return 0, 256
    low = int(piece.min())
    return low, int(piece.max()) - low + 1


def _hashed(piece: NDArray[Any]) -> tuple[Int64, Int64]:
    """Return the ids of a non-empty piece, ascending, and their counts. Raises `UnreadableSample`."""
    from statsvc_workers.kernels import loops

    ids, counts = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.int64)
    if loops.count_sparse(_native(piece), ids, counts) < 0:
        low, span = _range(piece)
        raise too_many_ids(np.array([low, low + span - 1], np.int64))
    used = np.flatnonzero(counts)
    used = used[np.argsort(ids[used])]
    return ids[used], counts[used]


def _native(piece: NDArray[Any]) -> NDArray[Any]:
    """Return the piece in native byte order, aligned, bool as uint8."""
    if piece.dtype.kind == "b":
        return piece.view(np.uint8)
    if not piece.dtype.isnative:
        return piece.astype(piece.dtype.newbyteorder("="))
    return piece if piece.flags.aligned else piece.copy()


def too_many_ids(ids: Int64) -> TooManyIds:
    """Return the error for a label map with more than `MAX_IDS` ids, given the lowest and the highest."""
    return TooManyIds(
        f"contains more than {MAX_IDS} different ids (from {ids[0]} to {ids[-1]}), too many for class ids. "
        "Does it contain instance ids, a CT scan or a depth map? Choose the files that contain class ids "
        "with --pattern"
    )
