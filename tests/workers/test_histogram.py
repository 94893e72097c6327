from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from statsvc.errors import UnreadableSample
from statsvc_workers.kernels import histogram as histogram_module
from statsvc_workers.kernels.histogram import Counter, count_batch_torch

DTYPES = ["?", *(order + kind + size for kind in "iu" for size in "1248" for order in "<>")]


def expected(*arrays: np.ndarray) -> tuple[list[int], list[int]]:
    """Count with Python's own integers."""
    found: dict[int, int] = {}
    for array in arrays:
        for value in array.ravel().tolist():
            found[int(value)] = found.get(int(value), 0) + 1
    ids = sorted(found)
    return ids, [found[value] for value in ids]


def lists(histogram: tuple[np.ndarray, np.ndarray]) -> tuple[list[int], list[int]]:
    ids, counts = histogram
    assert ids.dtype == counts.dtype == np.int64
    return ids.tolist(), counts.tolist()


@st.composite
def label_arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements = None
    if dtype.kind == "u" and dtype.itemsize == 8:
        elements = st.integers(0, 2**63 - 1)
    if draw(st.booleans()) and dtype.kind != "b":
        elements = st.integers(0 if dtype.kind == "u" else -3, 9)
    array = draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=12), elements=elements))
    layout = draw(st.sampled_from(["C", "F", "strided", "read-only"]))
    if layout == "strided":
        return array[::-2]
    array = np.asarray(array, order="F" if layout == "F" else "C")
    array.flags.writeable = layout != "read-only"
    return array


@settings(deadline=None)  # the first example of a type compiles
@given(st.lists(label_arrays(), max_size=4))
def test_a_counter_equals_counting_pixel_by_pixel(arrays: Any) -> None:
    counter = Counter()
    for array in arrays:
        counter.add(array)
    assert lists(counter.result()) == expected(*arrays)
    assert lists(counter.result()) == expected(*arrays), "asking twice changes nothing"


@settings(deadline=None)
@given(st.lists(label_arrays(), max_size=5), st.sampled_from([1 << 24, 40, 7]))
def test_torch_gives_the_same_integers(arrays: Any, batch: Any) -> None:
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram_module, "BATCH_PIXELS", batch)
        found = count_batch_torch(arrays, "cpu")
    assert [lists(histogram) for histogram in found] == [expected(array) for array in arrays]


@pytest.mark.parametrize("dtype", ["u1", "u2", ">i4", "i8"])
def test_an_array_of_many_pieces_is_counted_once(dtype: Any) -> None:
    array = np.random.default_rng(0).integers(0, 100, (1000, 1001)).astype(dtype)
    counter = Counter()
    counter.add(array)
    ids, counts = np.unique(array, return_counts=True)
    assert lists(counter.result()) == (ids.tolist(), counts.tolist())


def test_counting_a_large_image_needs_little_extra_memory() -> None:
    import tracemalloc

    array = np.zeros((4000, 4000), np.uint16)
    tracemalloc.start()
    Counter().add(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 2


def test_counts_beyond_float_and_32_bit_precision_stay_exact() -> None:
    counter = Counter()
    for _ in range(3):
        counter.merge(np.array([4]), np.array([2**53 + 1]))
    counter.add(np.full(7, 4, np.uint8))
    assert lists(counter.result()) == ([4], [3 * (2**53 + 1) + 7])


@pytest.mark.parametrize("dtype", ["u2", "i4", "u8"])
def test_4096_ids_are_counted_and_4097_are_rejected(dtype: Any) -> None:
    counter = Counter()
    counter.add(np.arange(4096).astype(dtype))
    assert len(counter.result()[0]) == 4096
    with pytest.raises(UnreadableSample, match=r"more than 4096 .*instance ids.*CT scan.*--pattern"):
        counter.add(np.array([4096]).astype(dtype))


def test_too_many_ids_end_the_count_within_a_chunk() -> None:
    with pytest.raises(UnreadableSample, match=r"more than 4096 different ids \(from \d+ to \d+\)") as caught:
        Counter().add(np.arange(10**7, dtype=np.int32))
    assert "9999999" not in str(caught.value)


def test_ids_beyond_64_bit_signed_integers_are_rejected() -> None:
    for array in (np.array([2**63], np.uint64), np.array([1, 2**64 - 1], ">u8")):
        with pytest.raises(
            UnreadableSample, match=f"contains the id {int(array.max())}.*save labels as int64"
        ):
            Counter().add(array)


@pytest.mark.parametrize("dtype", ["f4", "c8", "O", "M8[s]"])
def test_values_that_are_not_integers_are_rejected(dtype: Any) -> None:
    with pytest.raises(UnreadableSample, match="not class ids"):
        Counter().add(np.zeros(3, dtype))


def test_counting_on_the_cpu_does_not_load_torch() -> None:
    import subprocess

    code = "import sys, numpy; from statsvc_workers.kernels.histogram import Counter; "
    code += "Counter().add(numpy.zeros(3, 'u1')); "
    code += (
        "from statsvc_workers.kernels.device import Engine; Engine('cpu'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


SIMULATED = """
import os, sys
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
import numpy as np, torch
from statsvc_workers.kernels import cuda, device, histogram as histogram_module
cuda.THREADS, cuda.WARPS, cuda.TILE_WORDS, cuda.BUFFER_BYTES = 64, 2, 24, 512
random = np.random.default_rng(0)
arrays = [
    random.integers(0, 256, (31, 33)).astype(np.uint8),
    np.repeat(random.integers(0, 5, (40, 2)), 19, 1).astype(np.uint8),
    np.zeros((0, 4), np.uint8),
    np.full(5, 7, np.uint8),
    random.integers(0, 2, (9, 9)).astype(bool),
    np.asfortranarray(random.integers(0, 3, (24, 20)).astype(np.uint8))[:, ::2],
    random.integers(-3, 999, (9, 9)).astype(np.int16),
]
of_bytes = [array for array in arrays if array.itemsize == 1]
for array, (ids, counts) in zip(of_bytes, cuda.count_batch(of_bytes), strict=True):
    values, expected = np.unique(array, return_counts=True)
    np.testing.assert_array_equal(ids, values.astype(np.int64))
    np.testing.assert_array_equal(counts, expected)

# And by way of what would count on the CPU where the device fails.
device._torch_sees_cuda = lambda: True
device.count_batch_torch = lambda chunks, device: histogram_module.count_batch_torch(chunks, "cpu")
device._kernel = True
engine = device.Engine("cuda")
counters = [engine.counter() for _ in arrays]
for counter, array in zip(counters, arrays):
    engine.add(counter, array)
engine.flush()
for counter, array in zip(counters, arrays):
    ids, counts = engine.result(counter)
    values, expected = np.unique(array, return_counts=True)
    np.testing.assert_array_equal(ids, values.astype(np.int64))
    np.testing.assert_array_equal(counts, expected)
assert cuda.available()

# A grid: each part of a chunk in a tile is one of the arrays.
from statsvc.dataset.grid import Grid
from statsvc_workers.kernels.tiles import TileCounter
volume = random.integers(0, 4, (4, 18, 21)).astype(np.uint8)
engine = device.Engine("cuda")
tiles = TileCounter(*volume.shape, Grid(3, 2, 2), "rows")
for _ in tiles.count([volume[:1], volume[1:]], engine):
    pass
engine.flush()
counted = dict(zip(zip(*(column.tolist() for column in tiles.result(engine)[:2])), tiles.result(engine)[2]))
for tile, (front, top, left) in enumerate(np.ndindex(2, 3, 2)):
    part = volume[2 * front : 2 * front + 2, 6 * top : 6 * top + 6, (0, 10)[left] : (10, 21)[left]]
    for value, pixels in zip(*np.unique(part, return_counts=True)):
        assert counted.pop((tile, int(value))) == pixels
assert not counted

# A Dask worker may have several threads; the buffers are the process's.
from concurrent.futures import ThreadPoolExecutor
ones = [np.full((8, 40), value, np.uint8) for value in range(4)]
with ThreadPoolExecutor(4) as pool:
    for value, [(ids, counts)] in enumerate(pool.map(lambda one: cuda.count_batch([one]), ones)):
        assert (ids.tolist(), counts.tolist()) == ([value], [320])
"""


def test_the_cuda_kernel_on_numbas_simulator_counts_as_numpy_does() -> None:
    ran = subprocess.run([sys.executable, "-c", SIMULATED], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
