"""A damaged or malicious file costs only itself while a source is listed: it is named, the rest counted."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from statsvc.classes import class_lists, class_map_files
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import InvalidParameter, UnreadableSample
from statsvc_workers.formats import open_label_map, peek
from statsvc_workers.samples import roots
from statsvc_workers.sources import content
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.sources import open_source
from support import damage

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG = damage.png(np.zeros((4, 4), np.uint8))
MEMORY = 100 << 20
HUGE = 1 << 30


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a tar header with a correct checksum; `size` is the raw field of 12 bytes."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:124] = b"0000644\x000000000\x000000000\x00"
    header[124:136], header[136:148] = size, b"00000000000\x00"
    header[148:156], header[156:157], header[257:265] = b" " * 8, kind, b"ustar\x0000"
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def sparse(path: Path, start: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def parquet(values: list[bytes]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"label": pa.array(values, pa.binary())}), file, compression="none")
    return file.getvalue()


def unreadable(folder: Path, pattern: str, rows: str = "array") -> dict[str, str]:
    """Return path → error of a listing."""
    with little_memory():
        return list_samples(Source(str(folder), pattern), Counting(rows=rows)).unreadable


@pytest.mark.timeout(60)
def test_damaged_tar_headers_are_named(tmp_path: Path) -> None:
    negative = (-512 & ((1 << 96) - 1)).to_bytes(12, "big")
    first = tar_header(b"a.png", b"00000000000\x00")
    (tmp_path / "negative.tar").write_bytes(first + tar_header(b"b.png", negative) + bytes(1024))
    for kind in (b"x", b"g", b"L"):
        name = f"huge-{kind.decode()}.tar"
        sparse(tmp_path / name, tar_header(b"x", b"%011o\x00" % HUGE, kind), HUGE + 2048)
    good = tar_header(b"a.png", b"%011o\x00" % len(PNG)) + PNG.ljust(-(-len(PNG) // 512) * 512, b"\0")
    (tmp_path / "good.tar").write_bytes(good + bytes(1024))
    errors = unreadable(tmp_path, "*.tar")
    assert set(errors) == {"negative.tar", "huge-x.tar", "huge-g.tar", "huge-L.tar"}
    assert "damaged" in errors["negative.tar"]


def test_each_changed_byte_of_a_parquet_file_costs_only_this_file(tmp_path: Path) -> None:
    content = parquet([PNG, PNG])
    (tmp_path / "good.parquet").write_bytes(content)
    for position in range(4, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        (tmp_path / "bad.parquet").write_bytes(changed)
        listing = list_samples(Source(str(tmp_path), "*.parquet"))
        assert {"good.parquet/0", "good.parquet/1"} <= set(listing.path)
        assert set(listing.unreadable) <= {"bad.parquet"}


def test_a_parquet_file_cannot_claim_millions_of_rows(tmp_path: Path) -> None:
    repeated = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(1 << 20, np.int8)), pa.array([b"\x89PNG"], pa.binary())
    )
    table = pa.table({"label": repeated})
    with pq.ParquetWriter(
        tmp_path / "a.parquet", table.schema, compression="zstd", store_schema=False
    ) as out:
        for _ in range(2):
            out.write_table(table)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    assert "more than the limit" in unreadable(tmp_path, "*.parquet")["a.parquet"]


def test_headers_that_promise_gigabytes_are_not_read(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", HUGE)
    sparse(tmp_path / "a.npy", header, HUGE + 12)
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header + b" " * (200 << 20))
    tags = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(270, 2, HUGE, 4096), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 4), (279, 4, 1, 16)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    sparse(tmp_path / "c.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries, HUGE + 4096)
    (tmp_path / "d.png").write_bytes(PNG)
    with little_memory():
        for name in ("a.npy", "b.npz", "c.tif", "d.png"):
            open_source(str(tmp_path / name), None)
        for name in ("a.npy", "b.npz"):
            folder = tmp_path / name[0]
            folder.mkdir()
            (tmp_path / name).rename(folder / name)
            open_source(str(folder), None)  # reads the headers


def test_chunks_of_png_files_and_large_images_are_not_decoded_to_detect_photographs(tmp_path: Path) -> None:
    header = PNG[: PNG.index(b"IDAT") - 4]
    sparse(tmp_path / "text.png", header + struct.pack(">I", 2 * MEMORY) + b"zTXt", 2 * MEMORY + 200)
    large = struct.pack(">IIBBBBB", 1 << 15, 1 << 15, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + large))
    (tmp_path / "large.png").write_bytes(PNG[:16] + large + crc + PNG[33:])
    (tmp_path / "good.png").write_bytes(PNG)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))  # Pillow allocates outside of Python
    try:
        inspected = [content.inspect(str(tmp_path), f"{name}.png") for name in ("text", "large", "good")]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert [found and found.look for found in inspected] == [content.Look.UNKNOWN] * 2 + [content.Look.LABELS]


@pytest.mark.timeout(60)
def test_a_sparse_json_file_is_not_read_as_annotations(tmp_path: Path) -> None:
    sparse(tmp_path / "a.json", b'{"images": [], "annotations": [', HUGE)
    assert "null bytes" in unreadable(tmp_path, "*.json")["a.json"]


def test_an_npy_header_that_is_nested_deeply_is_damaged(tmp_path: Path) -> None:
    header = b"{'descr': " + b"-" * 9000 + b"1"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with (tmp_path / "a.npy").open("rb") as file, pytest.raises(UnreadableSample, match="damaged NPY header"):
        open_label_map("a.npy", file, 1 << 20)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_expands_in_one_step_is_not_read(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", bytes(128 << 20))
    with little_memory(), (tmp_path / "a.npz").open("rb") as file:
        assert peek("a.npz", file) is None
        with pytest.raises(UnreadableSample, match="compressed with method"):
            open_label_map("a.npz", file, 1 << 20)


def test_nested_lists_in_a_file_of_splits_are_not_a_list_of_splits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "splits_final.json").write_text("[" * 100_000)
    assert not open_source(str(tmp_path), None).splits


@pytest.mark.parametrize("restricted", [False, True])
def test_metadata_of_a_zarr_array_is_a_small_file(tmp_path: Path, restricted: bool) -> None:
    (tmp_path / "pipe.zarr").mkdir()
    os.mkfifo(tmp_path / "pipe.zarr" / ".zarray")
    (tmp_path / "sparse.zarr").mkdir()
    sparse(tmp_path / "sparse.zarr" / ".zarray", b"{", HUGE)
    with roots.restricted([str(tmp_path)] if restricted else None):
        errors = unreadable(tmp_path, "*.zarr", rows="index")
    assert set(errors) == {"pipe.zarr", "sparse.zarr"}
    assert "bytes of metadata" in errors["sparse.zarr"]


def test_a_zarr_array_cannot_claim_millions_of_chunks(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(1 << 12, 1 << 12), chunks=(1, 1), dtype="u1")
    assert "chunks" in unreadable(tmp_path, "*.zarr", rows="index")["a.zarr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map: {7: 300000000}\nnames: {300000000: x}\n", "at most 65535"),
        ("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n", "alias"),
        ("map: &m {1: 0}\nnames: *m\n", "alias"),
    ],
)
def test_a_small_class_map_file_cannot_need_much_memory(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with little_memory(), pytest.raises(InvalidParameter, match=message):
        class_map_files.load(tmp_path / "names.yaml")


@pytest.mark.timeout(60)
def test_a_small_class_list_cannot_need_much_memory() -> None:
    lines = ["x0: &x0 [a, a]", *(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 50)}]" for k in range(1, 9))]
    with little_memory(), pytest.raises(ValueError, match="type list"):
        class_lists.parse("names.yaml", "\n".join([*lines, "names: *x8"]).encode())


def test_directories_of_a_tiff_file_that_refer_to_each_other_end(tmp_path: Path) -> None:
    first = damage.tiff(np.zeros((4, 4), np.uint8))
    (start,) = struct.unpack("<I", first[4:8])
    (tags,) = struct.unpack("<H", first[start : start + 2])
    end = start + 2 + 12 * tags
    # Twenty copies of the directory; the last one refers to the first one.
    copies = b"".join(
        first[start:end] + struct.pack("<I", len(first) + (k + 1) * (end - start + 4)) for k in range(20)
    )
    content = first[:end] + struct.pack("<I", len(first)) + first[end + 4 :] + copies[:-4]
    content += struct.pack("<I", len(first))  # back to the first copy
    (tmp_path / "a.tif").write_bytes(content)
    started = time.process_time()
    with (tmp_path / "a.tif").open("rb") as file:
        peek("a.tif", file)
        with pytest.raises(UnreadableSample):
            open_label_map("a.tif", file, 1 << 20)
    assert time.process_time() - started < 20
