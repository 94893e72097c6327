from __future__ import annotations

import io
import itertools
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import xxhash
from PIL import Image

from statsvc.errors import InvalidParameter
from statsvc_workers.cluster import hashed_file, in_process, tasks
from statsvc_workers.cluster.tasks import BatchResult, CountOptions, count_samples
from statsvc_workers.formats import png
from statsvc_workers.formats.base import as_unreadable
from statsvc_workers.kernels import device
from statsvc_workers.kernels.histogram import count_batch_torch
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source
from support import damage
from support.permissions import without_root_privileges

if TYPE_CHECKING:
    from numpy.typing import NDArray


def count(root: Path, *paths: str, max_pixels: int = 10**9, device: str = "cpu") -> BatchResult:
    return count_samples(CountOptions(str(root), max_pixels, device), paths)


def histogram(rows: BatchResult, row: int) -> dict[int, int]:
    part = slice(rows.offsets[row], rows.offsets[row + 1])
    return dict(zip(rows.ids[part].tolist(), rows.counts[part].tolist(), strict=True))


def expected(array: np.ndarray) -> dict[int, int]:
    ids, counts = np.unique(array, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def wait_until_stable(seconds: float = 2.05) -> None:
    """Wait until what was written is no longer recent."""
    time.sleep(seconds)


@pytest.fixture
def mixed(tmp_path: Path) -> Any:
    """A folder of one label map of each format; returns name → array."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "a.png": rng.integers(0, 5, (20, 30)),
        "b.npy": rng.integers(-1, 5, (3, 20, 30)).astype(np.int32),
        "c.tif": rng.integers(0, 700, (20, 31)).astype(np.uint16),
        "d/e.png": rng.integers(3, 4, (1, 1)),
    }
    (tmp_path / "d").mkdir()
    (tmp_path / "a.png").write_bytes(
        damage.png(arrays["a.png"], extra=damage.chunk(b"tEXt", b"k\0v")) + b"more"
    )
    (tmp_path / "b.npy").write_bytes(damage.npy(arrays["b.npy"]) + b"more")
    (tmp_path / "c.tif").write_bytes(damage.tiff(arrays["c.tif"], tile=(16, 16), compression="zlib"))
    (tmp_path / "d/e.png").write_bytes(damage.png(arrays["d/e.png"]))
    return tmp_path, arrays


def test_rows_contain_histogram_shape_fingerprint_and_hash_of_every_sample(mixed: Any) -> None:
    root, arrays = mixed
    wait_until_stable()
    rows = count(root, *arrays)
    assert rows.path == list(arrays)
    assert rows.status.tolist() == [0, 0, 0, 0]
    assert rows.error == [""] * 4
    assert rows.mode.tolist() == [1, 3, 1, 1]
    assert rows.height.tolist() == [20, 60, 20, 1]
    assert rows.width.tolist() == [30, 30, 31, 1]
    assert rows.bytes_read >= rows.size.sum()
    for row, (path, array) in enumerate(arrays.items()):
        status = (root / path).stat()
        assert histogram(rows, row) == expected(array)
        assert rows.pixels[row] == array.size
        assert rows.content[row] == xxhash.xxh3_64((root / path).read_bytes()).intdigest()
        assert (rows.size[row], rows.mtime_ns[row], rows.ctime_ns[row]) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


def test_rows_have_their_declared_types_and_survive_pickling(mixed: Any) -> None:
    root, arrays = mixed
    for rows in (count(root, *arrays), count(root), count(root, "gone.png")):
        n = len(rows.path)
        for name in ("size", "mtime_ns", "ctime_ns", "height", "width", "pixels"):
            column = getattr(rows, name)
            assert (column.dtype, column.shape) == (np.int64, (n,))
        assert rows.content.dtype == np.uint64
        assert rows.mode.dtype == rows.status.dtype == np.uint8
        assert rows.offsets.dtype == np.int64
        assert rows.offsets.shape == (n + 1,)
        assert rows.ids.dtype == rows.counts.dtype == np.int64
        assert rows.offsets[-1] == len(rows.ids) == len(rows.counts)
        again = pickle.loads(pickle.dumps(rows))
        np.testing.assert_array_equal(again.counts, rows.counts)
        assert again.path == rows.path


def test_a_file_changed_just_before_is_marked_to_be_counted_again(tmp_path: Path) -> None:
    damage.write_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    rows = count(tmp_path, "a.png")
    assert rows.status[0] == 0
    assert rows.ctime_ns[0] == -1
    # The modification time is old, the change time, which nobody can set, is not.
    damage.age(tmp_path / "a.png")
    assert count(tmp_path, "a.png").ctime_ns[0] == -1
    wait_until_stable()
    assert count(tmp_path, "a.png").ctime_ns[0] == (tmp_path / "a.png").stat().st_ctime_ns


def test_every_bad_file_is_a_row_with_its_error_and_the_rest_is_counted(tmp_path: Path) -> None:
    bad = damage.damaged_files()
    good = np.random.default_rng(0).integers(0, 4, (12, 12))
    damage.write_label(tmp_path / "a.png", good)
    damage.write_label(tmp_path / "z.png", good)
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    rows = count(tmp_path, "a.png", *bad, "z.png")
    assert rows.status.tolist() == [0] + [1] * len(bad) + [0]
    for row, (name, (content, words)) in enumerate(bad.items(), 1):
        assert words in rows.error[row], name
        assert rows.size[row] == len(content)
        assert histogram(rows, row) == {}
        assert (rows.pixels[row], rows.height[row], rows.width[row], rows.content[row]) == (0, 0, 0, 0)
    assert histogram(rows, 0) == histogram(rows, len(bad) + 1) == expected(good)


def test_an_image_over_the_limit_is_rejected(tmp_path: Path) -> None:
    damage.write_label(tmp_path / "a.png", np.zeros((10, 10), np.uint8))
    assert count(tmp_path, "a.png", max_pixels=100).status[0] == 0
    rows = count(tmp_path, "a.png", max_pixels=99)
    assert "10 x 10 = 100 pixels, over the limit of 99" in rows.error[0]


def test_a_file_without_read_permission_is_reported(tmp_path: Path) -> None:
    damage.write_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8)).chmod(0)
    with without_root_privileges():
        assert "permission denied; make it readable" in count(tmp_path, "a.png").error[0]


def test_a_file_that_vanished_a_folder_and_a_pipe_are_failures(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    rows = count(tmp_path, "gone.png", "folder.png", "pipe.png")
    assert rows.status.tolist() == [1, 1, 1]
    assert "was removed during the scan" in rows.error[0]
    assert "folder" in rows.error[1]
    assert "pipe" in rows.error[2]
    assert (rows.size[0], rows.mtime_ns[0], rows.ctime_ns[0]) == (0, 0, 0)


def test_a_disk_error_within_a_file_fails_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage.write_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    damage.write_label(tmp_path / "b.png", np.zeros((4, 4), np.uint8))

    class Failing(hashed_file.HashedFile):
        def read(self, count: Any = -1) -> Any:
            if self.file.name.endswith("a.png") and self.tell() > 0:
                raise OSError(5, "Input/output error")
            return super().read(count)

    monkeypatch.setattr(tasks, "HashedFile", Failing)
    rows = count(tmp_path, "a.png", "b.png")
    assert rows.status.tolist() == [1, 0]
    assert "Input/output error; check the disk" in rows.error[0]


def test_a_hashed_file_is_a_buffered_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"first\nsecond\nthird")
    with path.open("rb") as file:
        hashed = hashed_file.HashedFile(file)
        assert isinstance(hashed, io.BufferedIOBase)
        assert (hashed.readable(), hashed.seekable(), hashed.writable()) == (True, True, False)
        assert hashed.readline() == b"first\n"
        assert list(hashed) == [b"second\n", b"third"]
        hashed.seek(0)
        assert io.BufferedReader(cast("io.RawIOBase", hashed)).read() == path.read_bytes()
        assert hashed.finish() == xxhash.xxh3_64(path.read_bytes()).intdigest()


@pytest.mark.parametrize("error", [AttributeError("no readline"), TypeError("got None")])
def test_a_mistake_in_a_reader_is_reported_as_its_bug(error: Exception) -> None:
    message = str(as_unreadable(error))
    assert "probably because of a bug in its reader" in message
    assert str(error) in message
    assert "bug" not in str(as_unreadable(ValueError("bad header")))


def changing(path: Path, times: int) -> Any:
    """Return a `HashedFile` that rewrites the file at `path` during its first reads."""

    class Changing(hashed_file.HashedFile):
        left = times

        def finish(self) -> Any:
            if Changing.left:
                Changing.left -= 1
                path.write_bytes(damage.png(np.full((5, 5 + Changing.left), 2)))
            return super().finish()

    return Changing


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damage.write_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr(tasks, "HashedFile", changing(path, 2))
    rows = count(tmp_path, "a.png")
    assert rows.status[0] == 0
    assert histogram(rows, 0) == {2: 25}
    assert rows.size[0] == path.stat().st_size
    assert rows.content[0] == xxhash.xxh3_64(path.read_bytes()).intdigest()


def test_a_file_that_keeps_changing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damage.write_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr(tasks, "HashedFile", changing(path, 99))
    rows = count(tmp_path, "a.png")
    assert "changed while it was being read" in rows.error[0]
    assert "scan again when it is complete" in rows.error[0]
    assert histogram(rows, 0) == {}


def counted_here(root: Path, *paths: str) -> tuple[dict[str, str], list[str]]:
    """Return the error of each file that is counted without a worker process, and the other files."""
    rows, rest = in_process.count_checked(CountOptions(str(root), 10**9, "cpu"), list(paths))
    return {} if rows is None else dict(zip(rows.path, rows.error, strict=True)), rest


def test_files_that_need_a_worker_process_are_left_to_one(tmp_path: Path) -> None:
    labels = np.zeros((16, 16), np.uint8)
    whole = damage.png(labels)
    (tmp_path / "good.png").write_bytes(whole)
    (tmp_path / "interlaced.png").write_bytes(damage.png(labels, interlaced=True))
    (tmp_path / "large.png").write_bytes(damage.png(np.zeros((4097, 4096), np.uint8)))
    (tmp_path / "header.png").write_bytes(damage.flipped(whole, bit=8 * 20))
    (tmp_path / "cut.png").write_bytes(whole[:-20])
    errors, rest = counted_here(
        tmp_path, "interlaced.png", "good.png", "large.png", "header.png", "cut.png", "gone.png"
    )
    assert rest == ["interlaced.png", "large.png"]
    assert errors["good.png"] == ""
    assert "the checksum of its IHDR chunk" in errors["header.png"]
    assert "truncated" in errors["cut.png"]
    assert "was removed during the scan" in errors["gone.png"]
    assert counted_here(tmp_path, "large.png") == ({}, ["large.png"])


def test_a_file_that_is_overwritten_after_its_header_was_checked_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damage.write_label(tmp_path / "a.png", np.zeros((16, 16), np.uint8))
    checked = png.decompressed_bytes

    def check(*arguments: Any) -> int | None:
        size = checked(*arguments)
        path.write_bytes(damage.png(np.ones((16, 17), np.uint8), interlaced=True))
        return size

    monkeypatch.setattr(png, "decompressed_bytes", check)
    assert counted_here(tmp_path, "a.png") == ({}, ["a.png"])


def test_an_unexpected_failure_names_its_type_and_memory_errors_propagate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    for error, caught in (
        (ZeroDivisionError("odd"), False),
        (MemoryError(), True),
        (KeyboardInterrupt(), True),
    ):

        def fail(self: Any, counter: Any, chunk: Any, error: Any = error) -> None:
            raise error

        monkeypatch.setattr(device.Engine, "add", fail)
        if caught:
            with pytest.raises(type(error)):
                count(tmp_path, "a.npy")
        else:
            assert "ZeroDivisionError: odd" in count(tmp_path, "a.npy").error[0]


def test_a_stop_between_samples_returns_the_rows_before(tmp_path: Path) -> None:
    for name in "abcd":
        damage.write_label(tmp_path / f"{name}.png", np.zeros((4, 4), np.uint8))
    calls = itertools.count(1)
    rows = count_samples(
        CountOptions(str(tmp_path), 10**9, "cpu"),
        ["a.png", "b.png", "c.png", "d.png"],
        lambda: next(calls) > 2,
    )
    assert rows.path == ["a.png", "b.png"]
    assert len(rows.offsets) == 3


def test_the_torch_path_gives_the_same_rows(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    root, arrays = mixed
    for name, (content, _) in damage.damaged_files().items():
        (root / name).write_bytes(content)
    paths = [*arrays, *damage.damaged_files()]
    expected_rows = count(root, *paths)
    real = count_batch_torch
    monkeypatch.setattr(device, "_torch_sees_cuda", lambda: True)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    monkeypatch.setattr(device, "count_batch_torch", lambda chunks, where: real(chunks, on))
    for held in (1 << 26, 1):
        monkeypatch.setattr(device, "QUEUED_BYTES", held)
        rows = count(root, *paths, device="cuda")
        for name in ("ids", "counts", "offsets", "status", "pixels"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(expected_rows, name))
        assert rows.error == expected_rows.error


def test_a_label_map_or_a_device_that_fails_on_cuda_costs_no_other_label_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DriverError(Exception):
        """As numba's `CudaDriverError`, which is not a RuntimeError."""

    arrays: dict[str, NDArray[Any]] = {
        "a.npy": np.eye(5, dtype=np.uint8),
        "b.npy": np.full((3, 4), 7, np.int32),
    }
    for name, array in (arrays | {"wide.npy": np.arange(5000).reshape(50, 100) * 100_000}).items():
        np.save(tmp_path / name, array)

    def broken(_chunks: Any, _where: Any) -> None:
        raise DriverError("out of memory")

    monkeypatch.setattr(device, "_torch_sees_cuda", lambda: True)
    monkeypatch.setattr(device, "_kernel", False)
    for counted in (lambda chunks, _where: count_batch_torch(chunks, "cpu"), broken):
        monkeypatch.setattr(device, "count_batch_torch", counted)
        rows = count(tmp_path, "a.npy", "wide.npy", "b.npy", device="cuda")
        assert [histogram(rows, row) for row in (0, 2)] == [expected(array) for array in arrays.values()]
        assert [bool(error) for error in rows.error] == [False, True, False]
        assert "more than 4096 different ids" in rows.error[1]


def test_auto_decides_once_by_counting_the_first_batch_both_ways(
    mixed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    root, arrays = mixed
    real: Any = count_batch_torch
    asked: list[str] = []

    def slow(chunks: Any, where: Any) -> Any:
        asked.append(where)
        time.sleep(5)  # slower than the CPU even on a busy machine
        return real(chunks, "cpu")

    monkeypatch.setattr(device, "_auto", None)
    monkeypatch.setattr(device, "_nvidia", lambda: True)
    monkeypatch.setattr(device, "_torch_sees_cuda", lambda: True)
    monkeypatch.setattr(device, "count_batch_torch", slow)
    for _ in range(2):
        rows = count(root, *arrays, device="auto")
        assert [histogram(rows, row) for row in range(4)] == [expected(array) for array in arrays.values()]
    assert asked == ["cuda", "cuda"], "warmed up and timed in the first batch, then left alone"
    assert device._auto == "cpu"


def test_an_unknown_device_and_missing_cuda_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_torch_sees_cuda", lambda: False)
    for name in ("cuda", "tpu"):
        with pytest.raises(InvalidParameter, match="device"):
            count(tmp_path, device=name)


def test_counting_only_png_imports_neither_torch_nor_dask(mixed: Any) -> None:
    root, _ = mixed
    code = (
        "import sys; from statsvc_workers.kernels import device;"
        "from statsvc_workers.cluster.tasks import CountOptions, count_samples;"
        "device._nvidia = lambda: True;"  # as on a machine with a GPU
        f"rows = count_samples(CountOptions({str(root)!r}, 10**9, 'auto'), ['a.png']);"
        "sys.exit(int(rows.status.any() or 'torch' in sys.modules or 'dask' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Counted once with numpy.bincount on the decoded arrays.
CAMVID_TRAIN = "10682767 14750079 623349 20076880 2845085 6166762 743859 714595 3719877 405385 184967 2503995"


@pytest.mark.parametrize(
    ("split", "pixels"), [("train", [int(n) for n in CAMVID_TRAIN.split()]), ("val", None)]
)
def test_camvid_has_the_pixels_that_numpy_counts(split: Any, pixels: Any) -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / "camvid" / split
    if not root.is_dir():
        pytest.skip("the real CamVid label maps are not available next to the clone")
    source = open_source(str(root), None)
    listing = list_samples(source)
    rows = count(Path(source.root), *listing.path)
    assert rows.status.sum() == 0
    total = np.zeros(12, np.int64)
    np.add.at(total, rows.ids, rows.counts)
    if pixels is None:
        pixels = np.zeros(12, np.int64)
        for path in listing.path:
            with Image.open(root / path) as image:
                pixels += np.bincount(np.asarray(image).ravel(), minlength=12)
    assert total.tolist() == list(pixels)
