"""Histograms on a grid equal `np.bincount` over slices of the label map, for every format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.grid import Grid
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.samples.members import Member

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

GRIDS = (Grid(8, 8), Grid(3, 5), Grid(16, 16), Grid(1, 1))


def label_map(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return an image of long runs with a noisy band, so that every path of the kernels is used."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 6, (height // 7 + 1, width // 11 + 1), dtype=np.uint8)
    labels = np.kron(blocks, np.ones((7, 11), np.uint8))[:height, :width].copy()
    band = labels[height // 2 : height // 2 + 9]
    band[:] = random.integers(0, 200, band.shape)
    return labels


def expected(labels: NDArray[Any], grid: Grid) -> dict[tuple[int, int], int]:
    """Return (tile, id) → pixels by NumPy alone."""
    height, width = labels.shape
    result = {}
    for r in range(grid.rows):
        for c in range(grid.columns):
            tile = labels[
                r * height // grid.rows : (r + 1) * height // grid.rows,
                c * width // grid.columns : (c + 1) * width // grid.columns,
            ]
            for raw, pixels in zip(*np.unique(tile, return_counts=True), strict=True):
                result[r * grid.columns + c, int(raw)] = int(pixels)
    return result


def counted(folder: Path, name: str, counting: Counting) -> dict[tuple[int, int], int]:
    """Return what a worker counts in one file; every entry occurs once."""
    rows = count_samples(CountOptions(str(folder), 1 << 28, "cpu", counting), [name])
    assert rows.error == [""]
    keys = list(zip(rows.tile.tolist(), rows.ids.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, rows.counts.tolist(), strict=True))


def _png(**options: Any) -> Callable[[Path, NDArray[Any]], None]:
    def save(path: Path, labels: NDArray[Any]) -> None:
        from PIL import Image

        Image.fromarray(labels).save(path, **options)

    return save


def _tiff(**options: Any) -> Callable[[Path, NDArray[Any]], None]:
    def save(path: Path, labels: NDArray[Any]) -> None:
        import tifffile

        tifffile.imwrite(path, labels, **options)

    return save


def _hdf5(path: Path, labels: NDArray[Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("labels", data=labels[None], chunks=(1, 37, 29))


def _nifti(path: Path, labels: NDArray[Any]) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.asfortranarray(labels.T), np.eye(4)), path)


def _npy(order: Any) -> Callable[[Path, NDArray[Any]], None]:
    return lambda path, labels: np.save(path, np.array(labels, order=order))


FORMATS: dict[str, tuple[str, Callable[[Path, NDArray[Any]], None]]] = {
    "png": ("a.png", _png()),
    "png of 16 bits": ("a.png", lambda path, labels: _png()(path, labels.astype(np.uint16))),
    "bmp": ("a.bmp", _png()),
    "tiff strips": ("a.tif", _tiff(rowsperstrip=13, compression="deflate")),
    "tiff tiles": ("a.tif", _tiff(tile=(32, 48))),
    "tiff contiguous": ("a.tif", _tiff()),
    "npy": ("a.npy", _npy("C")),
    "npy fortran": ("a.npy", _npy("F")),
    "npy big-endian": ("a.npy", lambda path, labels: np.save(path, labels.astype(">i4"))),
    "npz": ("a.npz", lambda path, labels: np.savez_compressed(path, labels[..., None])),
    "hdf5": ("a.h5", _hdf5),
    "nifti": ("a.nii.gz", _nifti),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_tiles_of_numpy(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small chunks, which begin and end within rows.
    for module in ("npy", "tiff", "images", "blocks"):
        monkeypatch.setattr(f"statsvc_workers.formats.{module}.CHUNK_PIXELS", 1000)
    monkeypatch.setattr("statsvc_workers.formats.voxels.PIECE_BYTES", 1000)
    monkeypatch.setattr("statsvc_workers.formats.png.BAND", 1 << 12)
    file, save = FORMATS[name]
    labels = label_map(123, 210)
    save(tmp_path / file, labels)
    for grid in GRIDS:
        assert counted(tmp_path, file, Counting(grid=grid)) == expected(labels, grid)


def test_images_smaller_than_the_grid_have_empty_tiles(tmp_path: Path) -> None:
    for height, width in ((1, 1), (3, 2), (9, 5), (5, 40)):
        labels = label_map(height, width, seed=height)
        _png()(tmp_path / "a.png", labels)
        np.save(tmp_path / "a.npy", labels)
        for file in ("a.png", "a.npy"):
            assert counted(tmp_path, file, Counting(grid=Grid(8, 8))) == expected(labels, Grid(8, 8))


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint16])
def test_ids_outside_a_byte_are_counted_in_their_tiles(tmp_path: Path, dtype: type) -> None:
    labels: NDArray[Any] = label_map(50, 60).astype(dtype) * 97
    labels[10:20, 30:40] = -1 if dtype is not np.uint16 else 65535
    np.save(tmp_path / "a.npy", labels)
    assert counted(tmp_path, "a.npy", Counting(grid=Grid(8, 8))) == expected(labels, Grid(8, 8))


def test_counting_rules_apply_to_tiles(tmp_path: Path) -> None:
    labels = label_map(64, 64).astype(np.uint16)
    _png()(tmp_path / "a.png", labels * 1000 + np.arange(64, dtype=np.uint16))
    grid = Grid(4, 4)
    ids = labels.astype(np.int64) * 1000 + np.arange(64)
    ids = (ids % 65536).astype(np.int64)
    assert counted(tmp_path, "a.png", Counting("id // 1000", grid=grid)) == expected(
        np.where(ids < 1000, ids, ids // 1000), grid
    )


def expected_in_volume(labels: NDArray[Any], grid: Grid) -> dict[tuple[int, int], int]:
    """Return (tile, id) → pixels of a volume [depth, rows, columns] by NumPy alone."""
    depth, height, width = labels.shape
    result: dict[tuple[int, int], int] = {}
    for layer in range(grid.depth):
        slices = labels[layer * depth // grid.depth : (layer + 1) * depth // grid.depth]
        # Slices side by side have the columns of tiles of each slice.
        for image in slices.reshape(-1, height, width):
            for (tile, raw), pixels in expected(image, grid).items():
                key = (layer * grid.tiles + tile, raw)
                result[key] = result.get(key, 0) + pixels
    return result


def _stack(**options: Any) -> Callable[[Path, NDArray[Any]], None]:
    def save(path: Path, labels: NDArray[Any]) -> None:
        import tifffile

        tifffile.imwrite(path, labels, metadata={"axes": "ZYX"}, **options)

    return save


def _hdf5_volume(path: Path, labels: NDArray[Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("labels", data=labels, chunks=(2, 13, 17))


def _nifti_volume(path: Path, labels: NDArray[Any]) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(labels.T.astype(np.int16), np.eye(4)), path)


def _zarr(path: Path, labels: NDArray[Any]) -> None:
    import zarr

    zarr.create_array(str(path), data=labels, chunks=(2, 13, 17))


VOLUMES: dict[str, tuple[str, Callable[[Path, NDArray[Any]], None]]] = {
    "npy": ("a.npy", _npy("C")),
    "npy fortran": ("a.npy", _npy("F")),
    "npy unit axis": ("a.npy", lambda path, labels: np.save(path, labels[:, None])),
    "tiff contiguous": ("a.tif", _stack()),
    "tiff tiles": ("a.tif", _stack(tile=(16, 32), compression="deflate")),
    "hdf5": ("a.h5", _hdf5_volume),
    "nifti": ("a.nii.gz", _nifti_volume),
    "zarr": ("a.zarr", _zarr),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_every_format_has_the_tiles_of_volumes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("npy", "tiff", "blocks"):
        monkeypatch.setattr(f"statsvc_workers.formats.{module}.CHUNK_PIXELS", 1000)
    monkeypatch.setattr("statsvc_workers.formats.voxels.PIECE_BYTES", 1000)
    file, save = VOLUMES[name]
    volume = np.stack([label_map(41, 53, seed) for seed in range(7)])
    save(tmp_path / file, volume)
    for grid in (Grid(4, 3, 2), Grid(2, 2, 9)):
        options = CountOptions(str(tmp_path), 1 << 28, "cpu", Counting(grid=grid))
        rows = count_samples(options, [Member(file, file, "zarr") if name == "zarr" else file])
        assert rows.error == [""]
        assert rows.place.tolist() == [[0, 0, 0, *volume.shape, *volume.shape]]
        entries = zip(rows.tile.tolist(), rows.ids.tolist(), strict=True)
        assert dict(zip(entries, rows.counts.tolist(), strict=True)) == expected_in_volume(volume, grid)


def test_parts_of_arrays_have_a_place_and_tiles(tmp_path: Path) -> None:
    from statsvc_workers.containers import list_array_rows

    volume = np.stack([label_map(40, 30, seed) for seed in range(5)])
    _hdf5_volume(tmp_path / "a.h5", volume)
    _zarr(tmp_path / "a.zarr", volume)
    np.save(tmp_path / "a.npy", volume)
    for file, option in (("a.h5", "chunk"), ("a.zarr", "chunk"), ("a.npy", "index"), ("a.zarr", "index")):
        counting = Counting(rows=option, grid=Grid(2, 3, 2))
        members = list_array_rows(str(tmp_path), file, counting)
        rows = count_samples(CountOptions(str(tmp_path), 1 << 28, "cpu", counting), members)
        assert rows.error == [""] * len(members)
        covered = np.zeros(volume.shape, int)
        for row, place in enumerate(rows.place.reshape(-1, 3, 3)):
            assert place[2].tolist() == list(volume.shape)
            region = tuple(slice(a, a + n) for a, n in zip(place[0], place[1], strict=True))
            covered[region] += 1
            part = slice(rows.offsets[row], rows.offsets[row + 1])
            entries = zip(rows.tile[part].tolist(), rows.ids[part].tolist(), strict=True)
            depth = 2 if place[1][0] > 1 else 1
            assert dict(zip(entries, rows.counts[part].tolist(), strict=True)) == expected_in_volume(
                volume[region], Grid(2, 3, depth)
            )
        assert (covered == 1).all()


def test_arrays_of_four_axes_have_no_grid(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([[label_map(20, 30)] * 3] * 2))
    grid = Counting(grid=Grid(2, 2, 2))
    assert {tile for tile, _ in counted(tmp_path, "a.npy", grid)} == {-1}


def test_volumes_without_a_depth_and_slices(tmp_path: Path) -> None:
    from statsvc_workers.containers import list_array_rows

    volume = np.stack([label_map(40, 30, seed) for seed in range(3)])
    np.save(tmp_path / "a.npy", volume)
    grid = Counting(grid=Grid(8, 8))
    assert {tile for tile, _ in counted(tmp_path, "a.npy", grid)} == {-1}
    by_index = replace(grid, rows="index")
    members = list_array_rows(str(tmp_path), "a.npy", by_index)
    rows = count_samples(CountOptions(str(tmp_path), 1 << 28, "cpu", by_index), members)
    part = slice(rows.offsets[1], rows.offsets[2])
    entries = zip(rows.tile[part].tolist(), rows.ids[part].tolist(), strict=True)
    assert dict(zip(entries, rows.counts[part].tolist(), strict=True)) == expected(volume[1], Grid(8, 8))
