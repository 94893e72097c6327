"""The compiled loops: PNG rows against Pillow, arrays against NumPy, and nothing read beyond the end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from statsvc.dataset.grid import Grid, edges
from statsvc_workers.formats import open_label_map
from statsvc_workers.kernels.device import Engine
from statsvc_workers.kernels.histogram import Counter
from statsvc_workers.kernels.tiles import TileCounter
from support.png_files import GRAY, PALETTE, filtered_rows, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = [(GRAY, depth) for depth in (1, 2, 4, 8, 16)] + [(PALETTE, depth) for depth in (1, 2, 4, 8)]


def by_pillow(data: bytes, colour: int, depth: int) -> tuple[list[int], list[int]]:
    array = np.asarray(Image.open(io.BytesIO(data))).astype(np.int64)
    if colour == GRAY:
        array //= {2: 85, 4: 17}.get(depth, 1)  # Pillow scales these to 0…255
    ids, counts = np.unique(array, return_counts=True)
    return ids.tolist(), counts.tolist()


def both_ways(data: bytes) -> tuple[list[int], list[int]]:
    """Count a PNG while unfiltering it and by its array; both must be equal."""
    counter = Counter()
    label_map = open_label_map("x.png", io.BytesIO(data), 1 << 24)
    for part in label_map.chunks:
        counter.add(part)
    ids, counts = counter.result()
    again = open_label_map("x.png", io.BytesIO(data), 1 << 24)
    if again.histogram is not None:
        direct = again.histogram()
        assert (direct[0].tolist(), direct[1].tolist()) == (ids.tolist(), counts.tolist())
        assert direct[0].dtype == direct[1].dtype == np.int64
    return ids.tolist(), counts.tolist()


@pytest.mark.parametrize("kind", range(6))
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_every_filter_depth_and_width_equals_pillow(colour: int, depth: int, kind: int) -> None:
    rng = np.random.default_rng(100 * depth + 10 * colour + kind)
    for width in range(1, 71):
        for zeros in (0.0, 0.9, 0.99):
            rows = filtered_rows(rng, 7, (width * depth + 7) // 8, kind, zeros)
            data = png(colour, depth, width, rows, 7)
            assert both_ways(data) == by_pillow(data, colour, depth), (width, zeros)


def maps(rng: np.random.Generator, width: int) -> dict[str, NDArray[np.uint8]]:
    """Return label maps of 45 rows: few changes from row to row, many, and both in turns."""
    height = 45
    blobs = np.zeros((height, width), np.uint8)
    for _ in range(30):
        top, left = rng.integers(0, height), rng.integers(0, width)
        blobs[top : top + rng.integers(1, 20), left : left + rng.integers(1, width)] = rng.integers(0, 256)
    squares = rng.integers(0, 19, (height // 4 + 1, width // 4 + 1)).repeat(4, 0).repeat(4, 1)
    noise = rng.integers(0, 256, (height, width))
    mixed = np.where(np.arange(height)[:, None] // 9 % 2, noise, blobs)
    return {
        "blobs": blobs,
        "squares": squares[:height, :width].astype(np.uint8),
        "noise": noise.astype(np.uint8),
        "mixed": mixed.astype(np.uint8),
    }


def encoded(pixels: NDArray[np.uint8], kind: int) -> bytes:
    """Return the rows of a PNG with the filter None, Sub or Up."""
    before = np.zeros_like(pixels)
    if kind == 1:
        before[:, 1:] = pixels[:, :-1]
    elif kind == 2:
        before[1:] = pixels[:-1]
    return np.insert(pixels - before, 0, kind, axis=1).tobytes()


@pytest.mark.parametrize("width", [63, 64, 65, 130, 480])
def test_tiles_equal_numpys(width: int) -> None:
    engine, grids = Engine("cpu"), (Grid(1, 1), Grid(3, 5), Grid(8, 8))
    for name, pixels in maps(np.random.default_rng(width), width).items():
        for grid in grids:
            rows, columns = edges(len(pixels), grid.rows), edges(width, grid.columns)
            expected = {
                (tile, int(value)): int(count)
                for tile, (y, x) in enumerate(np.ndindex(grid.rows, grid.columns))
                for value, count in zip(
                    *np.unique(
                        pixels[rows[y] : rows[y + 1], columns[x] : columns[x + 1]], return_counts=True
                    ),
                    strict=True,
                )
            }
            counter = TileCounter(1, len(pixels), width, grid, "rows")
            list(counter.count([pixels], engine))
            found = [counter.result(engine)]
            for kind in range(3):
                file = io.BytesIO(png(GRAY, 8, width, encoded(pixels, kind), len(pixels)))
                tiles = open_label_map("x.png", file, 1 << 24).tiles
                assert tiles is not None
                found.append(tiles(grid))
            for tile, ids, counts in found:
                assert tile.dtype == ids.dtype == counts.dtype == np.int64
                keys = zip(tile.tolist(), ids.tolist(), strict=True)
                assert dict(zip(keys, counts.tolist(), strict=True)) == expected, (name, grid)
                assert list(zip(ids, tile, strict=True)) == sorted(zip(ids, tile, strict=True))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_generated_images_equal_pillows(data: st.DataObject) -> None:
    depth = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    width, height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    row = (width * depth + 7) // 8
    residual = st.one_of(st.just(0), st.integers(0, 255))
    rows = b"".join(
        bytes((data.draw(st.integers(0, 4)), *data.draw(st.lists(residual, min_size=row, max_size=row))))
        for _ in range(height)
    )
    file = png(GRAY, depth, width, rows, height)
    assert both_ways(file) == by_pillow(file, GRAY, depth)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">u2", "i4", "u4", "i8", "u8"])
def test_long_runs_short_runs_and_noise_are_counted_exactly(dtype: str) -> None:
    rng = np.random.default_rng(5)
    kind = np.dtype(dtype)
    for low, high in ((0, 3), (0, 120), (-100 if kind.kind == "i" else 0, 100)):
        lengths = rng.integers(1, 90, 400) ** rng.integers(0, 2, 400)
        array = np.repeat(rng.integers(low, high, 400), lengths).astype(kind)
        noise = rng.integers(low, high, 3000).astype(kind)
        for values in (array, noise, np.concatenate([noise, array])[3:]):
            counter = Counter()
            counter.add(values)
            ids, counts = np.unique(values.astype(np.int64), return_counts=True)
            assert [part.tolist() for part in counter.result()] == [ids.tolist(), counts.tolist()]


def test_ids_that_lie_far_apart_are_counted_exactly() -> None:
    rng = np.random.default_rng(6)
    ids = np.unique(rng.integers(-(2**62), 2**62, 4000))
    values = np.repeat(rng.permutation(np.concatenate([ids, ids[:50]])), 3)
    counter = Counter()
    counter.add(values)
    expected = np.unique(values, return_counts=True)
    assert [part.tolist() for part in counter.result()] == [part.tolist() for part in expected]


GUARDED = """
import ctypes, mmap
import numpy as np
import os
from statsvc_workers.kernels import loops, png_rows, run_lengths, tile_rows
from statsvc_workers.kernels.sizes import BYTE_COUNTERS, COUNTERS, NOISE_PIXELS

if os.environ["NUMBA_BOUNDSCHECK"] == "1":
    # In code that is not kept, so that counters of 32 bits are emptied before they would overflow.
    run_lengths.MOST_PENDING = tile_rows.MOST_PENDING = 3000
counters, narrow = np.zeros(BYTE_COUNTERS, np.uint32), np.zeros(NOISE_PIXELS, np.uint8)


def check(flat, low, span, expected):
    # `expected` is the index of the first id outside the table, or the length.
    inside = flat[:expected].astype(np.int64) - low
    for by_numba in (True, False):
        table = np.zeros((span, COUNTERS), np.int64)
        if by_numba:
            assert run_lengths.count_dense(flat, low, table.reshape(-1), counters, narrow) == expected
        else:
            assert loops.Dense(low, table.reshape(-1)).count(flat) == expected
        assert table.sum(1).tolist() == np.bincount(inside, minlength=span).tolist()
        assert not counters.any()


PAGE, LENGTH = mmap.PAGESIZE, 8 * mmap.PAGESIZE
area = mmap.mmap(-1, LENGTH + 2 * PAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
start = (address + PAGE - 1) // PAGE * PAGE
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(start + LENGTH), ctypes.c_size_t(PAGE), 0) == 0
memory = np.frombuffer(area, np.uint8, LENGTH, start - address)
rng = np.random.default_rng(0)
counts, tails = np.zeros(9 * 256, np.int64), np.zeros(256, np.int64)
for width in range(1, 80):
    for height in (1, 2, 5):
        rows = rng.integers(0, 256, (height, width + 1), dtype=np.uint8)
        rows[rng.random(rows.shape) < 0.9] = 0
        for kind in range(6):
            rows[:, 0] = kind if kind < 5 else rng.integers(0, 5, height)
            data = memory[-rows.size :]
            for whole in (width, width - 1):
                data[:] = rows.ravel()
                columns = np.array([0, whole // 3, whole // 3, whole])
                bands = np.array([0, 0, height // 2, height])
                for loop in (png_rows.count_rows, loops.count_rows):
                    before = np.zeros(width, np.uint8)
                    assert loop(data, bands, width, columns, counts, tails, before) == -1
            data[:] = rows.ravel()
            images = []
            for loop in (png_rows.unfilter, loops.unfilter):
                pixels, before = np.empty((height, width), np.uint8), np.zeros(width, np.uint8)
                assert loop(data, height, width, 1, pixels, before) == -1
                assert before.tolist() == pixels[-1].tolist()
                images.append(pixels.tolist())
            assert images[0] == images[1]
for dtype in (np.uint8, np.uint16, np.int32, np.int64):
    for length in range(1, 200):
        for top in (1, 4):
            flat = memory[-length * np.dtype(dtype).itemsize :].view(dtype)
            flat[:] = rng.integers(0, top, length)
            for span in (4, 256):
                check(flat, 0, span, length)
            for loop in (run_lengths.count_sparse, loops.count_sparse):
                ids, found = np.zeros(64, np.int64), np.zeros(64, np.int64)
                assert loop(flat, ids, found) == len(np.unique(flat))
                assert found.sum() == length
            part = memory[:length]  # the output, which begins where a page does
            for loop in (run_lengths.narrowed, loops.narrowed):
                part[:] = 255
                assert loop(flat, 0, part)
                assert part.tolist() == flat.tolist()
                assert not loop(flat, 5, part)
# Without runs, ids are counted in blocks of 2048.
for dtype in (np.uint8, np.int8, np.uint16, np.int32, np.int64):
    for length in (2047, 2048, 2048 + 9, 2048 + 64, 2048 + 65, 4095):
        flat = memory[-length * np.dtype(dtype).itemsize :].view(dtype)
        flat[:] = rng.integers(0, 100, length)
        for low in (0, -100):
            check(flat, low, 256, length)
        flat[length - 1] = 127
        check(flat, 1, 128, np.flatnonzero(flat < 1)[0])
        check(flat, -1, 128, length - 1)
    # Runs and noise, up to an id outside the table.
    for trial in range(150):
        length = rng.integers(1, 7000 // np.dtype(dtype).itemsize)
        flat = memory[-length * np.dtype(dtype).itemsize :].view(dtype)
        runs = np.repeat(rng.integers(0, 60, length), rng.integers(1, rng.choice([2, 9, 200]), length))
        flat[:] = runs[:length]
        begin = rng.integers(0, length)
        noisy = flat[begin : begin + 500]
        noisy[:] = rng.integers(0, 60, len(noisy))
        outside = rng.integers(0, length)
        flat[outside] = 64
        for span in (64, 256):
            check(flat, 0, span, outside if span == 64 else length)
for width in (1, 7, 8, 9, 63, 64, 65, 200):
    for kind in range(3):
        height = rng.integers(1, 40)
        flat = memory[-height * width :]
        image = flat.reshape(height, width)
        image[:] = rng.integers(0, 256, image.shape if kind else (1, width))
        if kind == 2:
            image[height // 2 :] = image[height // 2]
        rows = np.array([0, height // 3, height // 3, height])
        columns = np.array([0, width // 3, width // 3, width])
        for loop in (tile_rows.count_bands, loops.count_bands):
            tables = np.zeros((3, 3 * 256), np.int64)
            columns_counters = np.zeros((3, BYTE_COUNTERS), np.uint32)
            loop(flat, rows, np.array([0, 1, 2]), columns, tables, columns_counters)
            assert not columns_counters.any()
            for r in range(3):
                for c in range(3):
                    tile = image[rows[r] : rows[r + 1], columns[c] : columns[c + 1]]
                    expected = np.bincount(tile.ravel(), minlength=256)
                    assert tables[r, 256 * c : 256 * (c + 1)].tolist() == expected.tolist()
print("whole")
"""


@pytest.mark.parametrize("boundscheck", ["0", "1"])
def test_nothing_is_read_or_written_beyond_the_end(boundscheck: str, tmp_path: Path) -> None:
    """The data ends where a page without access begins; and again with every index checked."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": boundscheck}
    if boundscheck == "1":
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)  # code compiled with checks is not kept
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


MUTATED = """
import io, sys, zlib
import numpy as np
sys.path.insert(0, "tests")
from support.png_files import GRAY, filtered_rows, png
from statsvc.errors import UnreadableSample
from statsvc_workers.formats import open_label_map

rng = np.random.default_rng(1)
refused = read = 0
for depth in (1, 4, 8, 16):
    whole = bytearray(png(GRAY, depth, 37, filtered_rows(rng, 9, (37 * depth + 7) // 8, 5, 0.9), 9))
    for _ in range(2500):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(8, len(data))] = rng.integers(0, 256)
        at = 8
        while at + 12 <= len(data):  # right checksums, so that the damage reaches the decoder
            end = at + 8 + int.from_bytes(data[at : at + 4], "big")
            if end + 4 > len(data):
                break
            data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
            at = end + 4
        try:
            label_map = open_label_map("x.png", io.BytesIO(bytes(data)), 1 << 20)
            if label_map.histogram is None:
                assert sum(part.size for part in label_map.chunks) == label_map.height * label_map.width
            else:
                assert label_map.histogram()[1].sum() == label_map.height * label_map.width
            read += 1
        except UnreadableSample:
            refused += 1
assert refused > 1000, refused
assert read > 100, read
print("whole")
"""


@pytest.mark.parametrize("boundscheck", ["0", "1"])
def test_mutated_files_are_rejected_or_counted_completely_within_bounds(
    boundscheck: str, tmp_path: Path
) -> None:
    environment = os.environ | {"NUMBA_BOUNDSCHECK": boundscheck}
    if boundscheck == "1":
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)  # code compiled with checks is not kept
    done = subprocess.run(
        [sys.executable, "-c", MUTATED],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


LOOPS = """
from statsvc_workers.kernels.numba_support import kernel

@kernel
def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""


@pytest.mark.parametrize("cache", ["writable", "damaged", "missing", "full"])
def test_loops_run_whatever_state_their_cache_is_in(tmp_path: Path, cache: str) -> None:
    """A cache that cannot be used is a problem of the machine, never of a label map."""
    folder = tmp_path / "cache"
    folder.mkdir()
    program = "import numpy, loops; print(loops.total(numpy.arange(10)))"
    if cache != "missing":
        (tmp_path / "loops.py").write_text(LOOPS)
    else:
        program = f"{LOOPS}\nimport numpy; print(total(numpy.arange(10)))"  # numba cannot cache such code
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(tmp_path)}

    def run(limit: str = "true") -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'{limit}; exec "$0" -c "$1"', sys.executable, program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    first = run("ulimit -f 0" if cache == "full" else "true")
    assert (first.stdout, first.returncode) == ("45\n", 0), first.stderr
    if cache == "damaged":
        for file in folder.rglob("*.nb?"):
            file.write_bytes(b"\x80")
        second = run()
        assert (second.stdout, second.returncode) == ("45\n", 0), second.stderr
        assert "compiling it again" in second.stderr
    elif cache == "missing":
        assert "Set NUMBA_CACHE_DIR" in first.stderr
    elif cache == "full":
        assert "cannot be stored" in first.stderr
    else:
        assert list(folder.rglob("*.nbc"))


COUNT = """
import io, sys
import numpy as np
sys.path.insert(0, "tests")
from support.png_files import GRAY, filtered_rows, png
from statsvc_workers.formats import open_label_map

data = png(GRAY, 8, 50, filtered_rows(np.random.default_rng(1), 9, 50, 5, 0.9), 9)
print(int(open_label_map("x.png", io.BytesIO(data), 1 << 20).histogram()[1].sum()), "numba" in sys.modules)
"""


@pytest.mark.parametrize("cache", ["writable", "damaged", "full"])
def test_a_png_is_counted_without_numba_once_the_loop_is_compiled(tmp_path: Path, cache: str) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(limit: str = "true") -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'{limit}; exec "$0" -c "$1"', sys.executable, COUNT]
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )

    first = run("ulimit -f 0" if cache == "full" else "true")
    assert first.stdout == "450 True\n", first.stderr
    files = list((tmp_path / "cache").rglob("count_rows-*.o"))
    if cache == "full":
        assert "cannot be stored" in first.stderr
        assert [file.read_bytes() for file in files] == []
        return
    [file] = files
    if cache == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        damaged = run()
        assert damaged.stdout == "450 True\n", damaged.stderr
        assert "compiling it again" in damaged.stderr
    assert run().stdout == "450 False\n"


ARRAYS = """
import io, sys
import numpy as np
sys.path.insert(0, "tests")
from support.png_files import GRAY, filtered_rows, png
from statsvc.dataset.grid import Grid
from statsvc_workers.formats import open_label_map
from statsvc_workers.kernels.device import Engine
from statsvc_workers.kernels.histogram import Counter
from statsvc_workers.kernels.tiles import TileCounter

rng, engine = np.random.default_rng(2), Engine("cpu")
for name in sys.argv[1:]:
    array = rng.integers(0, 90, (60, 50)).astype(name)
    expected = [part.tolist() for part in np.unique(array.astype(np.int64), return_counts=True)]
    counter = Counter()
    counter.add(array)
    assert [part.tolist() for part in counter.result()] == expected, name
    tiles = TileCounter(1, 60, 50, Grid(2, 2), "rows")
    list(tiles.count([array], engine))
    assert tiles.result(engine)[2].sum() == array.size, name
    if array.itemsize > 2:
        wide = array.astype(np.int64) * 1_000_000
        counter = Counter()
        counter.add(wide.astype(name))
        assert counter.result()[1].tolist() == expected[1], name
data = png(GRAY, 16, 50, filtered_rows(rng, 9, 100, 5, 0.9), 9)
assert sum(chunk.size for chunk in open_label_map("x.png", io.BytesIO(data), 1 << 20).chunks) == 450
print("numba" in sys.modules)
"""


def test_arrays_are_counted_without_numba_once_the_loops_are_compiled(tmp_path: Path) -> None:
    names = ["?", "u1", ">i2", "i8"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ARRAYS, *names]
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )

    first, second = run(), run()
    assert first.stdout == "True\n", first.stderr
    assert second.stdout == "False\n", second.stderr


def test_loops_are_compiled_where_numba_is_told_not_to_compile(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    command, folder = [sys.executable, "-c", ARRAYS, "u1"], Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_an_array_that_is_not_aligned_is_counted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 300, 5000).astype("<i4")
    shifted = np.frombuffer(b"\0" + values.tobytes(), "<i4", offset=1)
    assert not shifted.flags.aligned
    counter = Counter()
    counter.add(shifted)
    expected = np.unique(values, return_counts=True)
    assert [part.tolist() for part in counter.result()] == [part.tolist() for part in expected]


def test_the_loops_refuse_arrays_that_are_not_contiguous_or_too_short() -> None:
    from statsvc_workers.kernels import loops

    flat, counts = np.zeros(8, np.uint8), np.zeros(256 * 8, np.int64)
    dense = loops.Dense(0, counts)
    assert dense.count(flat) == 8
    with pytest.raises(ValueError, match="contiguous"):
        dense.count(flat[::2])
    with pytest.raises(ValueError, match="byte order"):
        dense.count(flat.view(">i4" if sys.byteorder == "little" else "<i4"))
    with pytest.raises(ValueError, match="contiguous"):
        loops.Dense(0, counts[::2])
    with pytest.raises(ValueError, match="shorter"):
        loops.narrowed(flat, 0, np.empty(9, np.uint8))
    with pytest.raises(ValueError, match="shorter"):
        loops.count_sparse(flat, counts, counts[1:])


def test_the_loop_refuses_arrays_that_are_shorter_than_it_reads() -> None:
    from statsvc_workers.kernels import loops

    def count(length: int, row: int) -> int:
        data, before = np.zeros(length, np.uint8), np.zeros(row, np.uint8)
        counts, tails = np.zeros(256, np.int64), np.zeros(256, np.int64)
        return loops.count_rows(data, np.array([0, 3]), 8, np.array([0, 8]), counts, tails, before)

    assert count(27, 8) == -1
    for length, row in ((26, 8), (27, 7)):
        with pytest.raises(ValueError, match="shorter"):
            count(length, row)
