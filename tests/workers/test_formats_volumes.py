"""NIfTI, NPZ, HDF5 and Zarr against nibabel, NumPy, h5py and zarr with `numpy.unique`."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import nibabel
import numpy as np
import pytest
import zarr

import statsvc
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.formats import nifti, open_label_map
from statsvc_workers.formats.zarr_arrays import open_folder
from statsvc_workers.samples.members import Member

if TYPE_CHECKING:
    from numpy.typing import NDArray

KITS19 = Path(__file__).resolve().parents[3] / "shared" / "data" / "kits19"
LARGE = 1 << 40


def labels(dtype: str, shape: tuple[int, ...] = (7, 9, 11), seed: int = 0) -> NDArray[Any]:
    """Return labels of every id that the type is good for, its extremes among them."""
    kind = np.dtype(dtype)
    array = np.random.default_rng(seed).integers(0, 2 if kind.kind == "b" else 6, shape).astype(kind)
    if kind.kind in "iu" and kind.itemsize < 8:
        array.ravel()[:2] = np.iinfo(kind).min, np.iinfo(kind).max
    return array


def counts_of(array: NDArray[Any]) -> dict[int, int]:
    ids, pixels = np.unique(array, return_counts=True)
    return dict(zip(ids.astype(np.int64).tolist(), pixels.tolist(), strict=True))


def counted(path: Path, key: str | None = None, max_pixels: int = LARGE) -> dict[int, int] | str:
    """Return the counts of one sample as a worker takes them, or why it could not be read."""
    sample = Member(path.name, path.name, "zarr") if path.is_dir() else path.name
    rows = count_samples(CountOptions(str(path.parent), max_pixels, "cpu", Counting(key=key)), [sample])
    if rows.error[0]:
        return rows.error[0]
    assert rows.pixels[0] == rows.counts.sum()
    return dict(zip(rows.ids.tolist(), rows.counts.tolist(), strict=True))


def nifti_bytes(
    array: NDArray[Any], order: Any = "<", kind: Any = nibabel.Nifti1Image, **scale: float
) -> bytes:
    image = kind(array, np.eye(4), dtype=array.dtype)
    header = image.header.as_byteswapped(order)
    if scale:
        header["scl_slope"], header["scl_inter"] = scale["slope"], scale["inter"]
    header["vox_offset"] = len(header.binaryblock) + 4
    stored = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    data: bytes = header.binaryblock + bytes(4) + stored
    return data


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("shape", [(9,), (5, 6), (3, 4, 5, 2), (2, 1, 3, 1, 2, 1, 2)])
def test_a_header_of_one_to_seven_axes_says_what_nibabel_reads(tmp_path: Path, shape: Any, kind: Any) -> None:
    array, path = labels("i2", shape), tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(array, ">", kind, slope=2, inter=3))
    stored = nibabel.load(path)
    with path.open("rb") as file:
        header = nifti.read_header(file)
    assert header == ("int16", ">", stored.shape, stored.dataobj.offset, 2, 3)


def test_a_surface_of_freesurfer_has_its_number_of_vertices_elsewhere(tmp_path: Path) -> None:
    array = labels("i4", (70000, 1, 1))
    with pytest.warns(UserWarning, match="large vector"):
        content = nifti_bytes(array)
    (tmp_path / "a.nii").write_bytes(content)
    assert counted(tmp_path / "a.nii") == counts_of(array)


@pytest.mark.parametrize(("code", "word"), [(32, "complex64"), (128, "RGB"), (1, "1-bit"), (7, "type 7")])
def test_voxels_that_are_not_numbers_are_named(tmp_path: Path, code: int, word: str) -> None:
    content = bytearray(nifti_bytes(labels("u1")))
    content[70:72] = struct.pack("<h", code)
    (tmp_path / "a.nii").write_bytes(content)
    assert word in counted(tmp_path / "a.nii")


@pytest.mark.parametrize("axes", [-1, 8, 30000])
def test_a_header_of_an_impossible_number_of_axes_is_damaged(tmp_path: Path, axes: int) -> None:
    content = bytearray(nifti_bytes(labels("u1")))
    content[40:42] = struct.pack("<h", axes)
    (tmp_path / "a.nii").write_bytes(content)
    assert f"its header gives {axes} axes" in counted(tmp_path / "a.nii")


def test_voxels_that_begin_nowhere_are_damaged(tmp_path: Path) -> None:
    for start in (np.nan, np.inf, -1, 347, 1e30):
        content = bytearray(nifti_bytes(labels("u1")))
        content[108:112] = struct.pack("<f", start)
        (tmp_path / "a.nii").write_bytes(content)
        assert "its voxels begin at byte" in counted(tmp_path / "a.nii")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_a_volume_equals_what_nibabel_reads(
    tmp_path: Path, dtype: Any, kind: Any, order: Any, packed: Any
) -> None:
    array = labels(dtype)
    content = nifti_bytes(array, order, kind)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert counted(path) == counts_of(array) == counts_of(np.asarray(nibabel.load(path).dataobj))


@pytest.mark.parametrize(("slope", "inter"), [(2, 0), (1, -1), (0.5, 3), (0, 7), (float("nan"), 0)])
def test_a_scale_is_applied_where_it_gives_whole_numbers(tmp_path: Path, slope: Any, inter: Any) -> None:
    array = 2 * np.random.default_rng(0).integers(0, 5, (5, 6, 7)).astype(np.int16)
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(array, slope=slope, inter=inter))
    assert counted(path) == counts_of(np.asarray(nibabel.load(path).dataobj))


def test_scaled_or_floating_labels_that_are_not_integers_are_rejected(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (tmp_path / "scaled.nii").write_bytes(nifti_bytes(array, slope=0.4, inter=0))
    (tmp_path / "soft.nii").write_bytes(nifti_bytes(array.astype(np.float32) / 7))
    (tmp_path / "nan.nii").write_bytes(nifti_bytes(np.full((2, 2, 2), np.nan, np.float32)))
    (tmp_path / "inf.nii").write_bytes(nifti_bytes(np.full((2, 2, 2), np.inf, np.float64)))
    for name, word in {
        "scaled": "has the scale 0.4 x",
        "soft": "cannot be a class id",
        "nan": "nan",
        "inf": "2**53 or more",
    }.items():
        assert word in counted(tmp_path / f"{name}.nii")


def test_gzip_of_several_members_is_one_volume(tmp_path: Path) -> None:
    array, path = labels("u1", (30, 30, 30)), tmp_path / "a.nii.gz"
    content = nifti_bytes(array)
    path.write_bytes(gzip.compress(content[:9000]) + gzip.compress(content[9000:]))
    assert counted(path) == counts_of(array)


@pytest.mark.parametrize("at", [0.001, 0.2, 0.6, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_volume_is_rejected(tmp_path: Path, packed: Any, at: Any) -> None:
    content = nifti_bytes(np.random.default_rng(0).integers(0, 250, (20, 20, 20)).astype(np.uint8))
    data = gzip.compress(content) if packed else content
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(data[: int(len(data) * at)])
    assert isinstance(counted(path), str)


def test_a_flipped_bit_in_a_gzip_stream_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(nifti_bytes(labels("u1", (30, 30, 30))), 0))
    data[len(data) // 2] ^= 4
    path = tmp_path / "a.nii.gz"
    path.write_bytes(data)
    assert "damaged" in counted(path)


def test_a_volume_over_the_limit_is_rejected_before_decoding(tmp_path: Path) -> None:
    content = bytearray(nifti_bytes(np.zeros((2, 2, 2), np.uint8)))
    content[42:48] = struct.pack("<3h", 1000, 1000, 1000)
    for name, data in {"a.nii": bytes(content), "b.nii.gz": gzip.compress(bytes(content))}.items():
        (tmp_path / name).write_bytes(data)
        assert "max_pixels" in counted(tmp_path / name, max_pixels=1 << 28)
        assert "truncated" in counted(tmp_path / name)


def test_a_gzip_bomb_does_not_reach_memory(tmp_path: Path) -> None:
    # One voxel, and a gigabyte of zeros after it.
    packer = gzip.compress(nifti_bytes(np.ones((1, 1, 1), np.uint8)))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packer + gzip.compress(bytes(1 << 28)) * 4)
    tracemalloc.start()
    counted(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.skipif(not KITS19.exists(), reason="the KiTS19 volumes are not available next to the clone")
def test_kits19_equals_the_counts_of_nibabel_and_numpy() -> None:
    table = statsvc.scan(KITS19)
    expected = np.zeros(3, np.int64)
    for file in KITS19.glob("*.nii.gz"):
        expected += np.bincount(np.asarray(nibabel.load(file).dataobj).ravel(), minlength=3)
    assert table.totals().pixels.tolist() == expected.tolist()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<u8"])
def test_an_archive_of_one_array_is_read(tmp_path: Path, dtype: Any, save: Any) -> None:
    array = labels(dtype)
    save(tmp_path / "a.npz", array)
    assert counted(tmp_path / "a.npz") == counts_of(array)


def test_a_key_selects_an_array_of_an_archive(tmp_path: Path) -> None:
    image, mask = np.zeros((4, 4), np.float32), labels("u1")
    np.savez(tmp_path / "a.npz", image=image, mask=mask)
    assert counted(tmp_path / "a.npz", "mask") == counts_of(mask)
    assert "contains 2 arrays (image, mask); choose one with --key" in counted(tmp_path / "a.npz")
    assert "no array 'label'" in counted(tmp_path / "a.npz", "label")


def test_a_damaged_archive_is_rejected(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, labels("u1", (40, 40)))
    data = bytearray(file.getvalue())
    data[700] ^= 1
    (tmp_path / "flipped.npz").write_bytes(data)
    (tmp_path / "short.npz").write_bytes(data[:900])
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.txt", "no array")
    assert "CRC" in counted(tmp_path / "flipped.npz")
    assert "zip" in counted(tmp_path / "short.npz")
    assert "other than a NumPy array" in counted(tmp_path / "other.npz")


LAYOUTS: dict[str, Any] = {
    "contiguous": {},
    "chunks": {"chunks": (3, 4, 5)},
    "gzip": {"chunks": (3, 4, 5), "compression": "gzip", "shuffle": True},
    "checksum": {"chunks": (7, 9, 11), "fletcher32": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i2", ">u4", "<i8", ">f4"])
def test_an_hdf5_dataset_equals_what_h5py_reads(tmp_path: Path, dtype: Any, layout: Any) -> None:
    array = labels(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("volumes/labels", data=array, **LAYOUTS[layout])
    with h5py.File(tmp_path / "a.h5") as file:
        expected = counts_of(file["volumes/labels"][:])
    assert counted(tmp_path / "a.h5") == expected == counted(tmp_path / "a.h5", "volumes/labels")


def test_an_hdf5_file_with_several_datasets_needs_a_key_and_rejects_external_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["labels"] = np.zeros((4, 4), np.float64), labels("u1", (4, 5))
        file["soft"] = np.full((4, 4), 0.5)
        file["elsewhere"] = h5py.ExternalLink("b.h5", "labels")
        layout = h5py.VirtualLayout((4, 5), "u1")
        layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "labels", (4, 5))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = labels("u1", (4, 5))
    assert counted(tmp_path / "a.h5", "labels") == counts_of(labels("u1", (4, 5)))
    for key, word in {
        None: "contains 4 datasets",
        "raw ": "no dataset",
        "soft": "0.5",
        "elsewhere": "another file",
        "virtual": "other files",
    }.items():
        assert word in counted(tmp_path / "a.h5", key)


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9])
def test_a_truncated_hdf5_file_is_rejected(tmp_path: Path, keep: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "labels", data=np.random.default_rng(0).integers(0, 9, (100, 100)), chunks=(10, 100)
        )
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[: int(len(data) * keep)])
    assert "cannot be decoded" in counted(tmp_path / "a.h5")


def test_hdf5_over_the_limit_is_rejected_before_reading(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("labels", (1 << 20, 1 << 20), "u1", chunks=(1 << 10, 1 << 10))
    assert "max_pixels" in counted(tmp_path / "a.h5", "labels", 1 << 28)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", ">i4", "u8", "f4"])
@pytest.mark.parametrize("chunks", [(3, 4, 5), (7, 9, 11)])
def test_a_zarr_array_equals_what_zarr_reads(tmp_path: Path, dtype: Any, version: Any, chunks: Any) -> None:
    if version == 3 and dtype == ">i4":
        dtype = "i4"
    array = labels(dtype)
    stored = zarr.create_array(
        tmp_path / "a.zarr",
        shape=array.shape,
        dtype=array.dtype,
        chunks=chunks,
        zarr_format=version,
        fill_value=0,
    )
    stored[:] = array
    assert counted(tmp_path / "a.zarr") == counts_of(
        np.asarray(zarr.open_array(tmp_path / "a.zarr", mode="r")[:])
    )


def test_a_missing_chunk_is_the_fill_value(tmp_path: Path) -> None:
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(10, 10), chunks=(4, 4), dtype="u1", fill_value=7)
    stored[:4, :4] = 3
    assert counted(tmp_path / "a.zarr") == {3: 16, 7: 84}


def test_level_0_of_ome_zarr_labels_is_counted(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.zeros((8, 8), np.uint16))
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    cells = group.require_group("labels").require_group("cells")
    group["labels"].attrs["labels"] = ["cells"]
    array = labels("u2", (16, 16))
    cells.create_array("s0", data=array)
    cells.create_array("s1", data=array[::2, ::2])
    cells.attrs["multiscales"] = [{"datasets": [{"path": "s0"}, {"path": "s1"}]}]
    assert counted(tmp_path / "a.ome.zarr") == counts_of(array)
    assert counted(tmp_path / "a.ome.zarr", "labels/cells/s1") == counts_of(array[::2, ::2])
    assert "labels" in counted(tmp_path / "a.ome.zarr", "nothing")


def test_a_damaged_zarr_array_is_reported_and_the_rest_is_counted(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 5, (32, 32)).astype(np.uint8)
    for name in ("chunk", "meta", "shape", "good"):
        zarr.create_array(tmp_path / f"{name}.zarr", data=array, chunks=(16, 16))
    chunk = tmp_path / "chunk.zarr/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    (tmp_path / "meta.zarr/zarr.json").write_text("{")
    file = tmp_path / "shape.zarr/zarr.json"
    described = json.loads(file.read_text())
    described["shape"] = [1 << 30, 1 << 30]
    file.write_text(json.dumps(described))
    table = statsvc.scan(tmp_path)
    assert sorted(path for path, _ in table.failures()[1]) == ["chunk.zarr", "meta.zarr", "shape.zarr"]
    assert dict(
        zip(table.totals().class_id.tolist(), table.totals().pixels.tolist(), strict=True)
    ) == counts_of(array)


def test_the_limit_applies_to_a_chunk_of_a_zarr_array(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(1 << 13, 1 << 13), chunks=(1 << 13, 1 << 13), dtype="u1")
    with pytest.raises(UnreadableSample, match="max_pixels"):
        open_folder(str(tmp_path / "a.zarr"), 1 << 25, None)


def test_the_content_must_match_the_extension(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "a.npz", "a.h5"):
        with pytest.raises(UnreadableSample, match="text file"):
            open_label_map(name, io.BytesIO(b"some words of text\n" * 20), LARGE)


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zlib_ng", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes(labels("u1"))))
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    for name, library in {"a.nii.gz": "zlib_ng", "a.h5": "h5py"}.items():
        message = f"cannot be read because {library} is not installed. Run: pip install 'statsvc[formats]'"
        assert message in counted(tmp_path / name)
