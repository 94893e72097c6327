"""The compiled loops that count on the CPU, as functions of arrays.

Each is a loop of `run_lengths`, `tile_rows` or `png_rows`, compiled for pointers instead of arrays, so that
its machine code can be kept (`machine_code`). The functions release the GIL. They raise `ValueError` for an
array that is shorter than the loop reads or writes, or that is not contiguous and aligned.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc_workers.kernels import machine_code
from statsvc_workers.kernels.sizes import BYTE_COUNTERS, IDS, NOISE_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    UInt8 = NDArray[np.uint8]
    Loop = tuple[Callable[..., Any], Any]
    """A function of pointers and integers, and its signature for numba."""

_ROWS, _BANDS, _UNFILTER = "count_rows", "count_bands", "unfilter"


class _Scratch(threading.local):
    """Memory that `run_lengths.count_dense` needs while it counts, for each thread."""

    def __init__(self) -> None:
        self.arrays = np.zeros(BYTE_COUNTERS, np.uint32), np.empty(NOISE_PIXELS, np.uint8)
        self.addresses = tuple(ctypes.c_int64(_address(array)) for array in self.arrays)


class Dense:
    """A table in which integers of a narrow range are counted, as by `run_lengths.count_dense`.

    low, counts  as there
    """

    def __init__(self, low: int, counts: Int64) -> None:
        self._low, self._counts = low, counts
        # Converted once: an array of a file is counted in many pieces, each of which takes microseconds.
        self._numbers = tuple(map(ctypes.c_int64, (low, _address(counts), len(counts))))

    def count(self, flat: NDArray[Any]) -> int:
        """Count integers [n]; return the number of integers counted."""
        loop = _dense(flat.dtype)
        if loop is None:
            from statsvc_workers.kernels import run_lengths

            return int(run_lengths.count_dense(flat, self._low, self._counts, *_scratch.arrays))
        return loop(_address(flat), len(flat), *self._numbers, *_scratch.addresses)


def count_sparse(flat: NDArray[Any], ids: Int64, counts: Int64) -> int:
    """Count integers of a wide range, as `run_lengths.count_sparse` does."""
    loop = machine_code.load(_name("count_sparse", flat.dtype), partial(_count_sparse, flat.dtype))
    if loop is None:
        from statsvc_workers.kernels import run_lengths

        return int(run_lengths.count_sparse(flat, ids, counts))
    _check(len(ids) == len(counts))
    return loop(_address(flat), len(flat), _address(ids), _address(counts), len(ids))


def narrowed(ids: NDArray[Any], low: int, narrow: UInt8) -> bool:
    """Convert ids to bytes if they fit, as `run_lengths.narrowed` does."""
    loop = machine_code.load(_name("narrowed", ids.dtype), partial(_narrowed, ids.dtype))
    if loop is None:
        from statsvc_workers.kernels import run_lengths

        return bool(run_lengths.narrowed(ids, low, narrow))
    _check(len(ids) >= len(narrow))
    return bool(loop(_address(ids), _address(narrow), len(narrow), low))


def count_bands(
    flat: UInt8,
    rows: Int64,
    band_of: Int64,
    columns: Int64,
    counts: Int64,
    counters: NDArray[np.uint32],
) -> None:
    """Count the rows of a rectangle of bytes in tiles, as `tile_rows.count_bands` does."""
    loop = machine_code.load(_BANDS, _count_bands)
    if loop is None:
        from statsvc_workers.kernels import tile_rows

        tile_rows.count_bands(flat, rows, band_of, columns, counts, counters)
        return
    tiles = len(columns) - 1
    _check(
        len(flat) >= int(rows[-1]) * int(columns[-1])
        and len(band_of) >= len(rows) - 1
        and counts.shape[1] == tiles * IDS
        and counters.shape == (tiles, BYTE_COUNTERS)
    )
    loop(
        *(_address(flat), len(flat), _address(rows), len(rows), _address(band_of)),
        *(_address(columns), len(columns), _address(counts), len(counts), _address(counters)),
    )


def count_rows(
    data: UInt8, rows: Int64, row: int, columns: Int64, counts: Int64, tails: Int64, before: UInt8
) -> int:
    """Unfilter and count rows, as `png_rows.count_rows` does."""
    loop = machine_code.load(_ROWS, _count_rows)
    if loop is None:
        from statsvc_workers.kernels import png_rows

        return int(png_rows.count_rows(data, rows, row, columns, counts, tails, before))
    _check(
        len(data) >= int(rows[-1]) * (1 + row)
        and len(counts) >= (len(rows) - 1) * (len(columns) - 1) * IDS
        and len(tails) >= IDS
        and len(before) >= row
    )
    return loop(
        *(_address(data), len(data), _address(rows), len(rows), row, _address(columns), len(columns)),
        *(_address(counts), _address(tails), _address(before)),
    )


def unfilter(data: UInt8, height: int, row: int, step: int, pixels: UInt8, before: UInt8) -> int:
    """Unfilter rows into an image, as `png_rows.unfilter` does."""
    loop = machine_code.load(_UNFILTER, _unfilter)
    if loop is None:
        from statsvc_workers.kernels import png_rows

        return int(png_rows.unfilter(data, height, row, step, pixels, before))
    _check(len(data) >= height * (1 + row) and pixels.shape == (height, row) and len(before) >= row)
    return loop(_address(data), len(data), height, row, step, _address(pixels), _address(before))


def prepare_unfilter() -> None:
    """Load, or compile, what `unfilter` needs."""
    machine_code.load(_UNFILTER, _unfilter)


def prepare_rows() -> None:
    """Load, or compile, what `count_rows` needs."""
    machine_code.load(_ROWS, _count_rows)


def prepare_arrays(dtype: np.dtype[Any], *, on_grid: bool) -> None:
    """Load, or compile, what counts arrays of integers of a type, in tiles if `on_grid`."""
    if on_grid:
        machine_code.load(_BANDS, _count_bands)
        if dtype != np.uint8:
            machine_code.load(_name("narrowed", dtype), partial(_narrowed, dtype))
    else:
        _dense(dtype)


def load_stored() -> None:
    """Load what the most frequent files need, PNG and volumes of bytes, as far as it is on disk."""
    for name in (_ROWS, "count_dense-u1"):
        machine_code.load_stored(name)


@cache
def _dense(dtype: np.dtype[Any]) -> Callable[..., int] | None:
    return machine_code.load(_name("count_dense", dtype), partial(_count_dense, dtype))


def _name(loop: str, dtype: np.dtype[Any]) -> str:
    """Return the name of the machine code of a loop over integers of a type, in native byte order."""
    if not dtype.isnative:
        raise ValueError("an array is not in native byte order")
    return f"{loop}-{dtype.kind}{dtype.itemsize}"


def _check(long_enough: bool) -> None:
    if not long_enough:
        raise ValueError("an array is shorter than the loop reads or writes")


def _address(array: NDArray[Any]) -> int:
    """Return the address of an array. Raises `ValueError` for one that is not contiguous and aligned."""
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        raise ValueError("an array is not contiguous, or not aligned")
    if flags.writeable and array.size:  # a quarter of the time of `ctypes.data`
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    address: int = array.ctypes.data
    return address


_scratch = _Scratch()


def _count_dense(dtype: np.dtype[Any]) -> Loop:
    from numba import carray, from_dtype, types

    from statsvc_workers.kernels import run_lengths

    count = run_lengths.count_dense

    def on_pointers(flat, n, low, counts, size, counters, narrow):  # type: ignore[no-untyped-def]
        return count(
            carray(flat, (n,)),
            low,
            carray(counts, (size,)),
            carray(counters, (BYTE_COUNTERS,)),
            carray(narrow, (NOISE_PIXELS,)),
        )

    number, items = types.int64, types.CPointer(from_dtype(dtype))
    return on_pointers, number(
        *(items, number, number),
        *(types.CPointer(number), number, types.CPointer(types.uint32), types.CPointer(types.uint8)),
    )


def _count_sparse(dtype: np.dtype[Any]) -> Loop:
    from numba import carray, from_dtype, types

    from statsvc_workers.kernels import run_lengths

    count = run_lengths.count_sparse

    def on_pointers(flat, n, ids, counts, slots):  # type: ignore[no-untyped-def]
        return count(carray(flat, (n,)), carray(ids, (slots,)), carray(counts, (slots,)))

    number, numbers = types.int64, types.CPointer(types.int64)
    return on_pointers, number(types.CPointer(from_dtype(dtype)), number, numbers, numbers, number)


def _narrowed(dtype: np.dtype[Any]) -> Loop:
    from numba import carray, from_dtype, types

    from statsvc_workers.kernels import run_lengths

    convert = run_lengths.narrowed

    def on_pointers(ids, narrow, n, low):  # type: ignore[no-untyped-def]
        return types.int64(convert(carray(ids, (n,)), low, carray(narrow, (n,))))

    items, number = types.CPointer(from_dtype(dtype)), types.int64
    return on_pointers, number(items, types.CPointer(types.uint8), number, number)


def _count_bands() -> Loop:
    from numba import carray, types

    from statsvc_workers.kernels import tile_rows

    count = tile_rows.count_bands

    def on_pointers(flat, n, rows, edges, band_of, columns, borders, counts, bands, counters):  # type: ignore[no-untyped-def]
        tiles = borders - 1
        count(
            carray(flat, (n,)),
            carray(rows, (edges,)),
            carray(band_of, (edges - 1,)),
            carray(columns, (borders,)),
            carray(counts, (bands, tiles * IDS)),
            carray(counters, (tiles, BYTE_COUNTERS)),
        )
        return 0

    octets, numbers, number = types.CPointer(types.uint8), types.CPointer(types.int64), types.int64
    return on_pointers, number(
        *(octets, number, numbers, number, numbers),
        *(numbers, number, numbers, number, types.CPointer(types.uint32)),
    )


def _count_rows() -> Loop:
    from numba import carray, types

    from statsvc_workers.kernels import png_rows

    count = png_rows.count_rows

    def on_pointers(data, size, rows, bands, row, columns, edges, counts, tails, before):  # type: ignore[no-untyped-def]
        return count(
            carray(data, (size,)),
            carray(rows, (bands,)),
            row,
            carray(columns, (edges,)),
            carray(counts, ((bands - 1) * (edges - 1) * IDS,)),
            carray(tails, (IDS,)),
            carray(before, (row,)),
        )

    octets, numbers, number = types.CPointer(types.uint8), types.CPointer(types.int64), types.int64
    return on_pointers, number(
        octets, number, numbers, number, number, numbers, number, numbers, numbers, octets
    )


def _unfilter() -> Loop:
    from numba import carray, types

    from statsvc_workers.kernels import png_rows

    decode = png_rows.unfilter

    def on_pointers(data, size, height, row, step, pixels, before):  # type: ignore[no-untyped-def]
        return decode(
            carray(data, (size,)), height, row, step, carray(pixels, (height, row)), carray(before, (row,))
        )

    octets, number = types.CPointer(types.uint8), types.int64
    return on_pointers, number(octets, number, number, number, number, octets, octets)
