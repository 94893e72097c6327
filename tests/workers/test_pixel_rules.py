"""Pixel encodings: equal channels, one channel, whole floats, classes along an axis, one mask per class.

Counts are checked against NumPy over the arrays that were written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import statsvc as library
from statsvc.dataset import counting_rule
from statsvc.errors import InvalidParameter, SourceError
from support.commands import scan_json
from support.scans import counts_by_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def ids() -> NDArray[np.uint8]:
    return np.random.default_rng(5).choice(4, (20, 30), p=[0.6, 0.2, 0.15, 0.05]).astype(np.uint8)


def counted(table: Any) -> dict[int, int]:
    totals = table.totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def expected(array: NDArray[Any]) -> dict[int, int]:
    values, pixels = np.unique(array, return_counts=True)
    return {int(value): int(n) for value, n in zip(values, pixels, strict=True)}


def write(file: Path, pixels: NDArray[Any], mode: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(file)


# Equal channels, and one channel


def save_channels(file: Path, pixels: NDArray[np.uint8]) -> None:
    if file.suffix == ".npy":
        np.save(file, pixels)
    elif file.suffix == ".tif":
        tifffile.imwrite(file, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(file, lossless=True)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.npy", "a.webp"])
def test_three_equal_channels_are_ids_and_colors_are_rejected(
    tmp_path: Path, ids: NDArray[np.uint8], name: str
) -> None:
    pixels = np.stack([ids] * 3, -1)
    save_channels(tmp_path / name, pixels)
    assert counted(library.scan(tmp_path)) == expected(ids)
    pixels[-1, -1, 2] += 1
    save_channels(tmp_path / name, pixels)
    with pytest.raises(SourceError, match="is color-coded"):
        library.scan(tmp_path)


def test_gray_with_alpha_and_rgba_are_ids_unless_the_transparency_varies(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    opaque = np.full_like(ids, 255)
    write(tmp_path / "la/a.png", np.stack([ids, opaque], -1))
    write(tmp_path / "rgba/a.png", np.stack([ids, ids, ids, opaque], -1))
    opaque[0, 0] = 0
    write(tmp_path / "varies/a.png", np.stack([ids, ids, ids, opaque], -1))
    for folder in ("la", "rgba"):
        assert counted(library.scan(tmp_path / folder)) == expected(ids)
    with pytest.raises(SourceError, match="varying transparency"):
        library.scan(tmp_path / "varies")


@pytest.mark.parametrize("channel", ["r", "g", "b", "a", "2"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_one_channel_is_counted(tmp_path: Path, ids: NDArray[np.uint8], name: str, channel: str) -> None:
    index = "rgba2".index(channel) % 4 if channel != "2" else 2
    pixels = np.random.default_rng(0).integers(0, 256, (*ids.shape, 4)).astype(np.uint8)
    pixels[..., index] = ids
    save_channels(tmp_path / name, pixels)
    assert counted(library.scan(tmp_path, rule=f"channel:{channel}")) == expected(ids)
    assert counted(library.scan(tmp_path, rule=f"Channel: {index}")) == expected(ids)


def test_a_channel_of_other_files(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    image = Image.fromarray(ids)
    image.putpalette(bytes([9, 8, 7, 1, 2, 3, 4, 5, 6, 0, 1, 2]))
    (tmp_path / "palette").mkdir()
    image.save(tmp_path / "palette/a.png")
    assert counted(library.scan(tmp_path / "palette", rule="channel:g")) == expected(
        np.array([8, 2, 5, 1])[ids]
    )
    write(tmp_path / "gray/a.png", ids)
    assert counted(library.scan(tmp_path / "gray", rule="channel:r")) == expected(ids)
    wide = np.stack([ids + np.uint16(300), ids, ids], -1)
    (tmp_path / "bands").mkdir()
    tifffile.imwrite(
        tmp_path / "bands/a.tif", np.moveaxis(wide, -1, 0), planarconfig="separate", photometric="rgb"
    )
    assert counted(library.scan(tmp_path / "bands", rule="channel:0")) == expected(wide[..., 0])
    with pytest.raises(SourceError, match=r"color-coded .* --rule channel:r"):
        library.scan(tmp_path / "bands")
    with pytest.raises(SourceError, match=r"3 channels, .* no channel:7"):
        library.scan(tmp_path / "bands", rule="channel:7")


# Whole floats


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
def test_whole_floats_are_ids_and_fractions_are_rejected(
    tmp_path: Path, ids: NDArray[np.uint8], dtype: str
) -> None:
    values = ids.astype(dtype)
    folders = {name: tmp_path / name for name in ("npy", "npz", "tif")}
    for folder in folders.values():
        folder.mkdir()

    def save() -> None:
        np.save(folders["npy"] / "a.npy", values)
        np.savez_compressed(folders["npz"] / "a.npz", image=values[..., None], label=values)
        tifffile.imwrite(folders["tif"] / "a.tif", values.astype(values.dtype.newbyteorder("=")))

    save()
    for name, folder in folders.items():
        assert counted(library.scan(folder, key="label" if name == "npz" else None)) == expected(ids)
    values[3, 4] = 0.5
    save()
    for name, folder in folders.items():
        with pytest.raises(SourceError, match=r"the value 0\.5, which is not an integer"):
            library.scan(folder, key="label" if name == "npz" else None)


def test_nan_as_nodata_of_a_float_geotiff_is_ignored(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    values = ids.astype(np.float32)
    values[0] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "nan", True)])
    assert counted(library.scan(tmp_path)) == {-1: ids.shape[1]} | expected(ids[1:])


def test_a_scale_that_almost_gives_integers_is_rounded_and_reported(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    image = nibabel.Nifti1Image(ids.astype(np.float64)[..., None] * 1.00002, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    assert not (stored == np.rint(stored)).all()
    table = library.scan(tmp_path)
    assert counted(table) == expected(np.rint(stored))
    assert "1 of 1 NIfTI files" in table.configuration.notes["scale"]


# Classes along an axis


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "tif", "zarr", "nii.gz"])
def test_classes_along_an_axis_are_suggested_and_counted(
    tmp_path: Path, ids: NDArray[np.uint8], kind: str, axis: int
) -> None:
    one_hot = np.moveaxis(np.eye(4, dtype=np.uint8)[ids], -1, axis)
    rng = np.random.default_rng(1)
    noise = rng.random(one_hot.shape).astype(np.float32) * 0.2
    probabilities = one_hot + noise
    probabilities /= probabilities.sum(axis=axis, keepdims=True)
    for name, stack in {"one_hot": one_hot, "probabilities": probabilities}.items():
        folder = tmp_path / name
        folder.mkdir()
        if kind == "npy":
            np.save(folder / "a.npy", stack)
        elif kind == "npz":
            np.savez(folder / "a.npz", stack)
        elif kind == "h5":
            with h5py.File(folder / "a.h5", "w") as file:
                file["a"] = stack
        elif kind == "zarr":
            zarr.create_array(folder / "a.zarr", data=stack)
        elif kind == "nii.gz":
            nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), folder / "a.nii.gz")
        else:
            tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", metadata=None)
        source = folder / "a.zarr" if kind == "zarr" else folder
        if not (kind == "tif" and axis == 2):
            with pytest.raises(SourceError, match=f"--rule argmax:{axis}"):
                library.scan(source)
        assert counted(library.scan(source, rule=f"argmax:{axis}")) == expected(stack.argmax(axis=axis))
        if kind != "nii.gz":
            assert counted(library.scan(source, rule=f"argmax:{axis - 3}")) == expected(
                stack.argmax(axis=axis)
            )


def test_a_binary_volume_is_not_taken_for_classes(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 2, (4, 20, 30)).astype(np.uint8)
    np.save(tmp_path / "a.npy", volume)
    assert counted(library.scan(tmp_path)) == expected(volume)
    with pytest.raises(SourceError, match="without an axis 5"):
        library.scan(tmp_path, rule="argmax:5")


def test_a_binary_volume_is_read_again_only_if_it_can_contain_classes() -> None:
    from statsvc.errors import UnreadableSample
    from statsvc_workers.formats.stacks import reject_classes

    mask = np.zeros((20, 30, 40), np.int16)
    mask[5:9, 5:20, 5:20] = 1
    read = []

    def read_mask() -> NDArray[Any]:
        read.append(1)
        return mask

    for volume, ends in ((mask, (20, 40)), (np.zeros_like(mask), (20, 40))):
        assert sum(part.size for part in reject_classes(volume, read_mask, ends)) == volume.size
    assert not read
    assert len(list(reject_classes(mask, read_mask))) == 20  # without the lengths of the axes
    assert read
    one_hot = (np.arange(9) == np.random.default_rng(0).integers(0, 9, (20, 30, 1))).astype(np.uint8)
    with pytest.raises(UnreadableSample, match="argmax:2"):
        list(reject_classes(one_hot, lambda: one_hot, (20, 9)))


def test_malformed_rules_are_rejected() -> None:
    for rule in ("channel:x", "channel:", "argmax:", "argmax:first", "mask-per-class:name"):
        with pytest.raises(InvalidParameter, match="no rule"):
            counting_rule.read(rule, None)


# One mask per class

NAMES = ("background", "car", "road", "tree")


def masks(folder: Path, pictures: dict[str, NDArray[np.uint8]], name: str) -> None:
    """Write the masks of the classes 1 to 3 under names such as '{picture}/{name}.png'."""
    for picture, label in pictures.items():
        for class_id in range(1, 4):
            path = folder / name.format(picture=picture, name=NAMES[class_id])
            write(path, np.where(label == class_id, 255, 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("{picture}/segmentations/{name}.png", "{picture}/segmentations"),
        ("masks/{name}/{picture}.png", "masks/{picture}.png"),
        ("{picture}_{name}.png", "{picture}"),
        ("train/task-{picture}-annotation-1-by-1-tag-{name}-0.png", "train/task-{picture}-annotation-1-by-1"),
    ],
)
def test_masks_of_a_picture_are_one_label_map(
    tmp_path: Path, ids: NDArray[np.uint8], name: str, sample: str
) -> None:
    pictures = {f"{k}": np.roll(ids, 7 * k) % (4 - k // 3) for k in range(5)}
    masks(tmp_path, pictures, name)
    if "_" not in name:  # a suffix has too many other meanings
        assert "--rule mask-per-class" in library.scan(tmp_path, pattern="*").configuration.notes["masks"]
    table = library.scan(tmp_path, rule="mask-per-class")
    assert table.configuration.class_names == NAMES
    assert counts_by_path(table) == {
        sample.format(picture=picture): expected(label) for picture, label in pictures.items()
    }


def test_pixels_in_several_masks_are_counted_apart(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    masks(tmp_path, {"a": ids, "b": ids}, "{picture}/{name}.png")
    write(tmp_path / "a/car.png", ((ids == 1) | (ids == 2)).astype(np.uint8))
    table = library.scan(tmp_path, rule="mask-per-class:file")
    overlap = int((ids == 2).sum())
    assert counts_by_path(table)["a"] == {k: n for k, n in expected(ids).items() if k != 2} | {65536: overlap}
    assert table.configuration.num_classes == 4
    assert "65536" in table.configuration.notes["overlaps"]
    assert str(overlap) in table.weights().warnings[0]["message"]


def test_pictures_with_a_mask_that_cannot_be_used_are_rejected(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    masks(tmp_path, dict.fromkeys("abcd", ids), "{picture}/{name}.png")
    write(tmp_path / "a/car.png", ids)
    write(tmp_path / "b/car.png", np.minimum(ids, 1)[1:])
    (tmp_path / "c/car.png").unlink()
    (tmp_path / "c/car.png").symlink_to(tmp_path / "missing.png")
    table = library.scan(tmp_path, rule="mask-per-class:file")
    assert {path for path, counts in counts_by_path(table).items() if counts} == {"d"}
    failures = dict(table.failures()[1])
    assert failures.keys() == {*"abc"}
    assert "has the mask car.png, which is a symbolic link to" in failures["c"]
    assert "car.png, which is not binary" in failures["a"]
    assert "30 x 20 pixels, but another one of 30 x 19" in failures["b"]


def test_names_that_show_no_arrangement_are_rejected(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    write(tmp_path / "a.png", ids)
    write(tmp_path / "b.png", ids)
    with pytest.raises(SourceError, match="mask-per-class:file, mask-per-class:folder"):
        library.scan(tmp_path, rule="mask-per-class")


def test_later_scans_keep_the_ids_and_count_only_pictures_that_changed(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    folder, home = tmp_path / "masks", ("--home", tmp_path / "home", "--name", "m")
    masks(folder, {"a": ids, "b": ids, "c": ids}, "{picture}/{name}.png")
    first = scan_json(folder, "--rule", "mask-per-class:file", *home)
    assert [row["name"] for row in first["weights"]["classes"]] == list(NAMES)
    write(folder / "b/car.png", np.zeros_like(ids))
    write(folder / "c/boat.png", np.zeros_like(ids))
    second = scan_json(folder, "--rule", "mask-per-class:file", *home, "--max-removed", 1, code=1)["scan"]
    assert (second["counted"], second["failed"]) == (1, 1)
    assert "'boat', which the dataset did not have" in second["failures"][0]["error"]
