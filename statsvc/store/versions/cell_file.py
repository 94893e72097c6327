"""A temporary file with the histograms on a grid of counted rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.grid import Cells, concatenate
from statsvc.store.versions.checkpoints import narrowed
from statsvc.store.versions.folder import FolderLocation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.store.versions.checkpoints import CountedRows
    from statsvc.store.versions.location import Location

    Int64 = NDArray[np.int64]


class CellFile:
    """Histograms on a grid of the rows of a scan: hundreds of entries per row, too many for memory.

    store  the version store; the file is in its folder, because the temporary folder can be in memory
    """

    def __init__(self, store: Location) -> None:
        folder = store.path if isinstance(store, FolderLocation) and store.path.is_dir() else None
        import tempfile

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until `close`
        self._end = 0
        self._blocks: list[tuple[Int64, list[tuple[int, np.dtype[Any]]]]] = []

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def move(self, rows: CountedRows) -> CountedRows:
        """Write the tiles of rows to the file; return the rows without them, and with where they are.

        The columns `block` and `block_row` are int32 [n].
        """
        cells = rows.cells(np.arange(len(rows)))
        columns = []
        for values in (cells.tile, cells.class_id, cells.pixels):
            stored = narrowed(values)
            columns.append((self._end, stored.dtype))
            self._file.write(stored.tobytes())
            self._end += stored.nbytes
        summed = rows.summed()
        place = {
            "block": np.full(len(rows), len(self._blocks), np.int32),
            "block_row": np.arange(len(rows), dtype=np.int32),
        }
        self._blocks.append((np.concatenate([[0], np.cumsum(cells.lengths)]), columns))
        summed.columns = summed.columns | place
        return summed

    def lengths(self, block: NDArray[np.int32], row: NDArray[np.int32]) -> Int64:
        """Return the number of entries of rows, int64 [n], given their columns `block` and `block_row`."""
        if not self._blocks:
            return np.zeros(len(block), np.int64)
        starts = np.cumsum([0] + [len(first) for first, _ in self._blocks])
        first = np.concatenate([first for first, _ in self._blocks])
        position = starts[block] + row
        return np.asarray(first[position + 1] - first[position])

    def cells(self, block: NDArray[np.int32], row: NDArray[np.int32]) -> Cells:
        """Return the histograms on the grid of rows, in their order."""
        self._file.flush()
        order = np.argsort(block, kind="stable")
        parts = []
        for number in np.unique(block).tolist():
            first, columns = self._blocks[number]
            wanted = row[block == number]
            low, high = int(first[wanted.min()]), int(first[wanted.max() + 1])
            arrays = []
            for offset, dtype in columns:
                size = (high - low) * dtype.itemsize
                data = os.pread(self._file.fileno(), size, offset + low * dtype.itemsize)
                if len(data) != size:
                    raise OSError(f"the temporary file of the grid has {len(data)} of {size} bytes")
                arrays.append(np.frombuffer(data, dtype).astype(np.int64))
            in_block = Cells(np.diff(first)[wanted.min() : wanted.max() + 1], *arrays)
            parts.append(in_block.take(wanted - wanted.min()))
        return concatenate(parts).take(np.argsort(order))
