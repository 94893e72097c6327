"""The content of a version's group, read with Zarr and xarray, and how damage to its files is detected."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray
import zarr
from msgspec.structs import replace
from zarr.core.metadata import ArrayV3Metadata

from statsvc.errors import DamagedVersion, StoreError
from statsvc.store.home import resolve
from statsvc.store.publication import open_version
from statsvc.store.versions import checkpoints
from statsvc.store.versions.folder import FolderLocation
from statsvc.store.versions.intact import is_intact
from support.damage import flipped
from support.permissions import limited_file_size
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statsvc.store.catalog.records import VersionRecord
    from statsvc.store.versions.version import Version
    from support.stores import StoredFiles

# The table of docs/explanation/architecture.md: name -> dtype, dimensions, chunks for n samples of C ids,
# fill value.
PER_SAMPLE = {
    "size": "int64",
    "mtime_ns": "int64",
    "ctime_ns": "int64",
    "content": "uint64",
    "height": "int64",
    "width": "int64",
    "pixels": "int64",
    "mode": "uint8",
    "status": "uint8",
}
STRINGS = ("path", "etag", "error")
PER_CLASS = ("class_id", "class_pixels", "class_images")
ARRAYS = ("counts", "cooccurrence", *PER_CLASS, *STRINGS, *PER_SAMPLE)


def maps_of_one_version() -> dict[str, Any]:
    return label_maps(images=9) | {"train/bad.png": "is truncated"}


@dataclass
class Published:
    """One version: its group, and how to open it again."""

    folder: Path
    record: VersionRecord

    def open(self) -> Version:
        record = replace(self.record, arrays_uri=self.folder.name)
        return open_version(FolderLocation(self.folder.parent), "streets", record)

    def is_intact(self) -> bool:
        """Whether the verification without NumPy finds nothing."""
        return is_intact(FolderLocation(self.folder), self.record.digests)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    home = resolve(str(tmp_path_factory.mktemp("published")), "", "")
    record = publish(home, "streets", maps_of_one_version())
    assert isinstance(home.store, FolderLocation)
    return Published(home.store.path / record.arrays_uri, record)


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Published:
    """Return a copy that a test may damage."""
    shutil.copytree(published.folder, tmp_path / "copy")
    return Published(tmp_path / "copy", published.record)


def read(version: Version, name: str) -> None:
    """Read one array as the rest of statsvc does."""
    if name == "counts":
        list(version.blocks())
    else:
        version.array(name)


def test_every_array_has_the_dtype_dimensions_chunks_and_fill_value_of_the_table(
    published: Published,
) -> None:
    group = zarr.open_group(published.folder, mode="r")
    assert set(group.array_keys()) == set(ARRAYS)
    samples, ids = 10, 5  # 0 to 3, and 255
    expected: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...], int]] = {
        "counts": ("int64", (samples, ids), (2048, ids), ("sample", "class"), -1),
        "cooccurrence": ("int64", (ids, ids), (ids, ids), ("present_class", "class"), -1),
    }
    for name in PER_CLASS:
        expected[name] = ("int64", (ids,), (ids,), ("class",), -1)
    fills = {"content": 0, "mode": 255, "status": 255}
    for name, dtype in PER_SAMPLE.items():
        expected[name] = (dtype, (samples,), (65536,), ("sample",), fills.get(name, -1))
    for name, (dtype, shape, chunks, dimensions, fill) in expected.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert isinstance(array.metadata, ArrayV3Metadata)
        stored = (
            str(array.dtype),
            array.shape,
            array.chunks,
            array.metadata.dimension_names,
            array.fill_value,
        )
        assert stored == (dtype, shape, chunks, dimensions, fill), name
    for name in STRINGS:
        metadata = json.loads((published.folder / name / "zarr.json").read_text())
        assert metadata["data_type"] == "string"
        assert metadata["dimension_names"] == ["sample"]


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_is_compressed_with_a_checksum_and_not_sharded(published: Published, name: str) -> None:
    metadata = json.loads((published.folder / name / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    names = [codec["name"] for codec in metadata["codecs"]]
    assert names == ["vlen-utf8" if name in STRINGS else "bytes", "zstd"]
    assert metadata["codecs"][-1]["configuration"]["checksum"] is True


def test_chunks_equal_to_the_fill_value_are_written(tmp_path: Path) -> None:
    from statsvc.store.versions.zarr_files import create_array, create_group

    group = FolderLocation(tmp_path / "g")
    create_group(group, {})
    array = create_array(group, "a", (4,), 2, np.dtype("int64"), -1, ("sample",))
    array.write(0, np.full(4, -1))
    assert sorted(file.name for file in (tmp_path / "g" / "a" / "c").iterdir()) == ["0", "1"]


def test_the_group_has_no_consolidated_metadata(published: Published) -> None:
    assert "consolidated_metadata" not in json.loads((published.folder / "zarr.json").read_text())


def test_xarray_opens_a_version_as_a_labelled_dataset(published: Published) -> None:
    maps = maps_of_one_version()
    with xarray.open_zarr(published.folder, consolidated=False, chunks=None) as dataset:
        assert dict(dataset.sizes) == {"sample": 10, "class": 5, "present_class": 5}
        labelled = dataset.set_coords(["path", "class_id"]).set_xindex("path").set_xindex("class_id")
        for path, labels in maps.items():
            for raw in (0, 3, 255):
                expected = 0 if isinstance(labels, str) else int((labels == raw).sum())
                assert int(labelled["counts"].sel(path=path, class_id=raw)) == expected
        assert dataset["counts"].dtype == np.int64


def test_importing_the_store_does_not_change_zarrs_settings(published: Published) -> None:
    assert "statsvc.store.versions.arrays" in sys.modules
    assert zarr.config.get("array.write_empty_chunks") is False


def test_an_undamaged_version_passes_verification(published: Published) -> None:
    version = published.open()
    version.verify()
    assert published.is_intact()
    assert version.failures() == (1, [("train/bad.png", "is truncated")])


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_bit_anywhere_in_any_chunk_is_detected(copy: Published, name: str) -> None:
    (chunk,) = [file for file in (copy.folder / name / "c").rglob("*") if file.is_file()]
    good = chunk.read_bytes()
    for at in sorted({0, 4, len(good) // 3, len(good) // 2, len(good) - 5, len(good) - 1}):
        chunk.write_bytes(flipped(good, bit=8 * at + 3))
        with pytest.raises(DamagedVersion, match=rf"streets version 1: array '{name}'"):
            read(copy.open(), name)
        assert not copy.is_intact()
    with pytest.raises(DamagedVersion, match="array"):
        copy.open().verify()


@pytest.mark.parametrize("name", ARRAYS)
def test_a_lost_chunk_is_detected(copy: Published, name: str) -> None:
    shutil.rmtree(copy.folder / name / "c")
    with pytest.raises(DamagedVersion, match=rf"array '{name}'.*--full"):
        read(copy.open(), name)
    with pytest.raises(DamagedVersion):
        copy.open().verify()
    assert not copy.is_intact()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def shrink(file: Path) -> None:
    metadata = json.loads(file.read_text())
    metadata["shape"][-1] -= 1
    file.write_text(json.dumps(metadata))


def without_columns(file: Path) -> None:
    metadata = json.loads(file.read_text())
    metadata["shape"][-1] = 0
    metadata["chunk_grid"]["configuration"]["chunk_shape"][-1] = 1
    file.write_text(json.dumps(metadata))


def infinite(file: Path) -> None:
    metadata = json.loads(file.read_text())
    metadata["shape"][0] = float("inf")
    file.write_text(json.dumps(metadata))


def retype(file: Path) -> None:
    metadata = json.loads(file.read_text())
    metadata["data_type"] = "float64" if metadata["data_type"] != "string" else "int64"
    metadata["fill_value"] = 0
    file.write_text(json.dumps(metadata))


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("harm", [truncate, shrink, without_columns, infinite, retype, remove])
@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_metadata_is_detected(copy: Published, name: str, harm: Callable[[Path], None]) -> None:
    harm(copy.folder / name / "zarr.json")
    with pytest.raises(DamagedVersion, match=rf"array '{name}'"):
        read(copy.open(), name)
    assert not copy.is_intact()


def test_a_damaged_group_is_detected(copy: Published) -> None:
    truncate(copy.folder / "zarr.json")
    with pytest.raises(DamagedVersion, match="cannot be read"):
        copy.open().verify()
    assert not copy.is_intact()


def test_rows_of_another_version_are_detected(copy: Published) -> None:
    """A chunk of wrong counts has a valid checksum, but its rows do not add up to their pixels."""
    array = zarr.open_group(copy.folder, mode="r+")["counts"]
    assert isinstance(array, zarr.Array)
    rows = np.asarray(array[...])
    rows[0, 0] += 1
    array[...] = rows
    with pytest.raises(DamagedVersion, match="rows 0 to 9 do not add up to their pixels"):
        list(copy.open().blocks())
    assert not copy.is_intact()
    rows[0, 1] -= 1
    array[...] = rows
    with pytest.raises(DamagedVersion, match="does not add up to class_pixels"):
        copy.open().verify()
    assert not copy.is_intact()
    rows[0, 0] -= 1
    rows[0, 1] += 1
    rows[:2, :2] += 10**9 * np.array([[1, -1], [-1, 1]])
    array[...] = rows
    with pytest.raises(DamagedVersion, match="rows 0 to 9 do not add up to their pixels"):
        copy.open().verify()
    assert not copy.is_intact()  # the sums of rows and columns are right, but there are negative counts


def test_a_version_that_needs_numpy_is_not_verified_without(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = dict(published.record.digests)
    group = FolderLocation(published.folder)
    assert not is_intact(group, digests | {"grid_shape": digests["status"]})
    assert not is_intact(group, {name: value for name, value in digests.items() if name != "etag"})
    monkeypatch.setattr("statsvc.store.versions.intact.MAX_VALUES", 10)
    assert not published.is_intact()


def test_a_version_of_several_chunks_reads_back_exactly(stored_files: StoredFiles, tmp_path: Path) -> None:
    home = resolve(str(tmp_path), "", str(stored_files.store))
    rng = np.random.default_rng(5)
    maps = {f"{number:05}.png": rng.integers(0, 3, (1, 2)).astype(np.uint8) for number in range(4500)}
    record = publish(home, "streets", maps)
    version = open_version(home.store, "streets", record)
    version.verify()
    assert is_intact(home.store / record.arrays_uri, record.digests)
    blocks = list(version.blocks())
    assert [len(block.path) for block in blocks] == [2048, 2048, 404]
    expected = np.stack([np.bincount(labels.ravel(), minlength=3) for labels in maps.values()])
    np.testing.assert_array_equal(np.concatenate([block.counts for block in blocks]), expected)
    assert version.totals().pixels.tolist() == expected.sum(axis=0).tolist()


# Checkpoints: rows of an attempt that did not finish.


def some_rows(paths: list[str], seed: int = 0) -> checkpoints.CountedRows:
    rng = np.random.default_rng(seed)
    n = len(paths)
    columns: dict[str, Any] = {name: rng.integers(0, 100, n) for name in checkpoints.COLUMNS}
    columns["content"] = rng.integers(0, 2**63, n).astype(np.uint64)
    columns["path"] = np.array(paths, object)
    columns["etag"] = np.array([f'"{k}"' if k % 2 else "" for k in range(n)], object)
    columns["error"] = np.array(["is empty" if k % 3 == 2 else "" for k in range(n)], object)
    lengths = rng.integers(0, 4, n)
    ids = np.concatenate([np.zeros(0, np.int64), *(np.sort(rng.permutation(9)[:k]) for k in lengths)])
    return checkpoints.CountedRows.without_grid(
        columns, np.concatenate(([0], np.cumsum(lengths))), ids, rng.integers(1, 50, len(ids))
    )


def recovered(folder: Any, reader: str) -> checkpoints.CountedRows:
    return checkpoints.concatenate(list(checkpoints.read_checkpoints(folder, reader)))


def by_path(rows: checkpoints.CountedRows) -> dict[str, Any]:
    out = {}
    for k, path in enumerate(rows.columns["path"].tolist()):
        entries = slice(rows.offsets[k], rows.offsets[k + 1])
        values = [rows.columns[name][k] for name in (*checkpoints.COLUMNS, *checkpoints.TEXTS)]
        out[path] = (values, rows.ids[entries].tolist(), rows.counts[entries].tolist())
    return out


def test_checkpoints_are_read_as_they_were_written(stored_files: StoredFiles) -> None:
    store = stored_files.store
    first, second = some_rows(["a.png", "ä/b c.png", "c.png"]), some_rows(["d.png"], 1)
    checkpoints.write_checkpoint(store / "job1", "1", "reader", first)
    checkpoints.write_checkpoint(store / "job2", "1", "reader", second)
    assert by_path(recovered(store, "reader")) == by_path(first) | by_path(second)
    assert len(recovered(store, "another reader")) == 0
    assert len(recovered(store / "none", "reader")) == 0


def test_a_checkpoint_without_etags_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(["a.png"])
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoints, "TEXTS", ("path", "error"))
        checkpoints.write_checkpoint(FolderLocation(tmp_path), "1", "reader", rows)
    assert by_path(recovered(FolderLocation(tmp_path), "reader")) == by_path(rows)


def test_taking_rows_keeps_their_histograms(tmp_path: Path) -> None:
    rows = some_rows([f"{k}.png" for k in range(20)])
    chosen = [19, 3, 3, 0]
    taken, all_rows = rows.take(np.array(chosen)), by_path(rows)
    assert [by_path(taken)[f"{k}.png"] for k in chosen] == [all_rows[f"{k}.png"] for k in chosen]
    dense = rows.dense(np.arange(20), np.arange(9))
    for k in range(20):
        _, ids, counts = all_rows[f"{k}.png"]
        assert {int(i): int(n) for i, n in enumerate(dense[k]) if n} == dict(zip(ids, counts, strict=True))


def test_a_damaged_checkpoint_is_ignored_wherever_the_damage_is(stored_files: StoredFiles) -> None:
    good = some_rows(["d.png"], 1)
    checkpoints.write_checkpoint(stored_files.store, "bad", "reader", some_rows(["a.png", "b.png"]))
    checkpoints.write_checkpoint(stored_files.store, "good", "reader", good)
    data = stored_files.get("bad.part")
    harmed = [flipped(data, 8 * at) for at in range(0, len(data), len(data) // 40)]
    harmed += [data[:keep] for keep in (0, 7, 16, 17, len(data) // 2, len(data) - 1)]
    for broken in harmed:
        stored_files.put("bad.part", broken)
        assert by_path(recovered(stored_files.store, "reader")) == by_path(good)


def test_a_checkpoint_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with limited_file_size(100), pytest.raises(StoreError, match="too large"):
        checkpoints.write_checkpoint(FolderLocation(tmp_path), "1", "reader", some_rows(["a.png"]))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_too_many_strings_is_ignored(tmp_path: Path) -> None:
    rows = some_rows(["a.png", "b.png"])
    rows.columns["error"] = np.array(["is odd: \0", ""], object)
    checkpoints.write_checkpoint(FolderLocation(tmp_path), "1", "reader", rows)
    assert len(recovered(FolderLocation(tmp_path), "reader")) == 0


def test_an_unfinished_checkpoint_is_not_read(tmp_path: Path) -> None:
    checkpoints.write_checkpoint(FolderLocation(tmp_path), "1", "reader", some_rows(["a.png"]))
    (tmp_path / "1.part").rename(tmp_path / ".1.tmp")
    assert len(recovered(FolderLocation(tmp_path), "reader")) == 0
