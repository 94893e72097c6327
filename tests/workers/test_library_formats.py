"""NRRD, MetaImage, MAT, JPEG 2000, lidarseg, GDAL rasters and DICOM SEG, by independent writers."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import highdicom
import imagecodecs
import nrrd
import numpy as np
import pydicom
import pytest
import rasterio
import scipy.io
import SimpleITK as sitk  # noqa: N813 - its documentation uses this name

import statsvc as library
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import SourceError
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.formats import open_label_map
from statsvc_workers.samples import roots
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LARGE = 1 << 32


def labels(dtype: str = "u1", shape: tuple[int, ...] = (7, 9, 11)) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 6, shape).astype(dtype)


def counts_of(array: NDArray[Any]) -> dict[int, int]:
    ids, pixels = np.unique(array, return_counts=True)
    return dict(zip(ids.astype(np.int64).tolist(), pixels.tolist(), strict=True))


def counted(path: Path, max_pixels: int = LARGE, **rule: Any) -> dict[int, int]:
    """Return the counts of one sample as a worker takes them."""
    rows = count_samples(CountOptions(str(path.parent), max_pixels, "cpu", Counting(**rule)), [path.name])
    assert not rows.error[0], rows.error[0]
    assert rows.pixels[0] == rows.counts.sum()
    return dict(zip(rows.ids.tolist(), rows.counts.tolist(), strict=True))


def refused(path: Path, max_pixels: int = LARGE, **rule: Any) -> str:
    """Return why a worker could not read a sample."""
    rows = count_samples(CountOptions(str(path.parent), max_pixels, "cpu", Counting(**rule)), [path.name])
    assert rows.error[0], "the file was counted"
    return rows.error[0]


def check_damage(path: Path, content: bytes | bytearray) -> None:
    """Check that a truncated file is reported, and one over the limit of pixels before it is decoded."""
    path.write_bytes(content)
    assert "max_pixels" in refused(path, max_pixels=10)
    for share in (0.02, 0.3, 0.6, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        reason = refused(path)
        assert "\n" not in reason
        assert "bug" not in reason, reason
    path.write_bytes(b"")
    assert "is empty" in refused(path)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_volume_that_simpleitk_writes_is_read(tmp_path: Path, dtype: str, compressed: Any) -> None:
    array = labels(dtype)
    for name in ("a.nrrd", "a.seg.nrrd", "a.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), compressed)
        assert counted(tmp_path / name) == counts_of(array)
        check_damage(tmp_path / name, (tmp_path / name).read_bytes())


def test_an_nrrd_file_may_be_compressed_with_bzip2_and_have_another_byte_order(tmp_path: Path) -> None:
    array = labels(">i4")
    nrrd.write(str(tmp_path / "a.nrrd"), array, {"encoding": "bzip2"})
    assert counted(tmp_path / "a.nrrd") == counts_of(array)
    nrrd.write(str(tmp_path / "b.nrrd"), array, {"encoding": "raw", "endian": "big"})
    assert counted(tmp_path / "b.nrrd") == counts_of(array)


def test_an_nrrd_file_that_names_other_voxels_or_layers_is_rejected(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), labels("u1", (2, 5, 6, 7)), {"kinds": ["list"] + ["domain"] * 3})
    assert "2 values for each voxel" in refused(tmp_path / "a.nrrd")
    nrrd.write(str(tmp_path / "a.nrrd"), labels("u1", (3, 5, 6)), {"kinds": ["RGB-color"] + ["domain"] * 2})
    assert "color-coded" in refused(tmp_path / "a.nrrd")
    (tmp_path / "secret").write_bytes(bytes(24))
    header = (
        f"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 6\nencoding: raw\ndata file: {tmp_path}/secret\n\n"
    )
    (tmp_path / "a.nrrd").write_text(header)
    assert "another file" in refused(tmp_path / "a.nrrd")


@pytest.mark.parametrize("kind", ["List", "4-vector", "3D-matrix", "point", "quaternion"])
def test_values_along_an_axis_of_an_nrrd_file_that_is_not_spatial_belong_to_one_voxel(
    tmp_path: Path, kind: str
) -> None:
    array, path = labels("u1", (4, 5, 6)), tmp_path / "a.nrrd"
    nrrd.write(str(path), array, {"kinds": [kind, "domain", "domain"]})
    assert "4 values for each voxel" in refused(path)
    nrrd.write(str(path), array, {"kinds": ["Space", "domain", "???"]})
    assert counted(path) == counts_of(array)
    nrrd.write(str(path), array[:1], {"kinds": [kind, "domain", "domain"]})
    assert counted(path) == counts_of(array[:1])


@pytest.mark.parametrize("local", ["LOCAL", "Local", "local"])
def test_every_spelling_of_local_that_metaio_accepts_is_read(tmp_path: Path, local: str) -> None:
    header = "ObjectType = Image\nNDims = 2\nDimSize = 4 6\nElementType = MET_UCHAR\n"
    array, path = labels("u1", (6, 4)), tmp_path / "a.mha"
    path.write_bytes(f"{header}ElementDataFile = {local}\n".encode() + array.tobytes())
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == array).all()
    assert counted(path) == counts_of(array)


def test_a_metaimage_never_reads_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    text = "ObjectType = Image\nNDims = 2\nDimSize = 4 6\nElementType = MET_UCHAR\nElementDataFile = "
    (tmp_path / "a.mha").write_text(text + "LOCAL\n" + "x" * 24)
    assert counted(tmp_path / "a.mha") == {ord("x"): 24}
    for other in ("secret.raw\n", f"{tmp_path}/secret.raw\n", f"LIST\n{tmp_path}/secret.raw\n"):
        (tmp_path / "a.mha").write_text(text + other)
        assert "another file" in refused(tmp_path / "a.mha")
        (tmp_path / "a.mha").write_text(f"Comment =\nElementDataFile = LOCAL\n{text}{other}")
        assert "twice" in refused(tmp_path / "a.mha")


def test_damage_inside_the_compressed_voxels_of_a_metaimage_is_found(tmp_path: Path) -> None:
    header = "ObjectType = Image\nNDims = 2\nBinaryData = True\nCompressedData = True\nDimSize = 40 50\n"
    stream = zlib.compress(labels("u1", (50, 40)).tobytes())
    other = zlib.compress(bytes(1999))
    changed = bytearray(stream)
    changed[-1] ^= 1  # the checksum
    for data, reason in {
        stream[:200]: "compressed voxels",
        bytes(changed): "check",
        other: "instead of",
    }.items():
        size = f"CompressedDataSize = {len(data)}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        (tmp_path / "a.mha").write_bytes((header + size).encode() + data)
        assert reason in refused(tmp_path / "a.mha")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_metaimage_in_two_files_is_read_when_a_pattern_names_it(tmp_path: Path, compressed: Any) -> None:
    array = labels("i2")
    (tmp_path / "masks").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "masks/a.mhd"), compressed)
    with pytest.raises(SourceError, match=r"MetaImage headers.*--pattern '\*\*/\*\.mhd'"):
        library.scan(tmp_path)
    table = library.scan(tmp_path, pattern="**/*.mhd")
    assert list(table.rows.path) == ["masks/a.mhd"]
    totals = table.totals()
    assert dict(zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True)) == counts_of(array)
    with pytest.raises(SourceError, match="max_pixels"):
        library.scan(tmp_path, pattern="**/*.mhd", max_pixels=10)
    voxels = tmp_path / ("masks/a.zraw" if compressed else "masks/a.raw")
    voxels.write_bytes(voxels.read_bytes()[:100])
    with pytest.raises(SourceError, match="damaged or truncated"):
        library.scan(tmp_path, pattern="**/*.mhd")
    voxels.unlink()
    with pytest.raises(SourceError, match=r"a\.z?raw for its voxels, which is missing"):
        library.scan(tmp_path, pattern="**/*.mhd")


def test_the_voxels_of_a_metaimage_stay_inside_the_roots(tmp_path: Path) -> None:
    secret, source = tmp_path / "secret.raw", tmp_path / "source"
    secret.write_bytes(bytes(24))
    source.mkdir()
    text = "ObjectType = Image\nNDims = 2\nDimSize = 4 6\nElementType = MET_UCHAR\n"
    for name in ("../secret.raw", str(secret), "LIST", "a%d.raw 1 2 1"):
        (source / "a.mhd").write_text(f"{text}ElementDataFile = {name}\n")
        listing = list_samples(Source(str(source), "*.mhd"))
        assert "save it as one .mha" in listing.unreadable["a.mhd"]
    (source / "a.raw").symlink_to(secret)
    (source / "a.mhd").write_text(f"{text}ElementDataFile = a.raw\n")
    with roots.restricted([str(source)]):
        assert "a.mhd" in list_samples(Source(str(source), "*.mhd")).unreadable
        member = Member("a.mhd", "a.mhd", "metaimage", files=("a.raw",))
        options = CountOptions(str(source), LARGE, "cpu", Counting(), roots=(str(source),))
        assert count_samples(options, [member]).error[0]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_variable_of_matlab_5_is_read(tmp_path: Path, compressed: Any) -> None:
    array, path = labels("u1", (40, 50)), tmp_path / "a.mat"
    scipy.io.savemat(path, {"labels": array, "scale": 2.0, "name": "x"}, do_compression=compressed)
    assert counted(path) == counts_of(array)
    check_damage(path, path.read_bytes())
    scipy.io.savemat(path, {"labels": array.astype(float), "other": array + 1}, do_compression=compressed)
    assert "labels (float64 (40, 50)), other (uint8 (40, 50))); choose one with --key" in refused(path)
    assert counted(path, key="labels") == counts_of(array)
    assert "no array 'missing'" in refused(path, key="missing")


def test_a_field_of_a_matlab_struct_is_read(tmp_path: Path) -> None:
    array, path = labels("u1", (40, 50)), tmp_path / "a.mat"  # as in the Semantic Boundaries Dataset
    scipy.io.savemat(path, {"GTcls": {"Segmentation": array, "CategoriesPresent": np.array([3, 4])}})
    assert counted(path) == counted(path, key="GTcls.Segmentation") == counts_of(array)


def test_a_bomb_in_a_mat_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": {"x": np.zeros((4000, 4000)), "y": np.zeros((9, 9))}}, do_compression=True)
    assert "max_pixels" in refused(path, max_pixels=10_000, key="a.y")
    stream = zlib.compress(bytes(1 << 26))
    path.write_bytes(
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(stream)) + stream
    )
    assert "max_pixels" in refused(path, max_pixels=1000)


@pytest.mark.parametrize(("dtype", "codec"), [("u1", "jp2"), ("u2", "jp2"), ("u1", "j2k")])
def test_a_lossless_jpeg_2000_is_read(tmp_path: Path, dtype: str, codec: str) -> None:
    array, path = labels(dtype, (90, 110)), tmp_path / f"a.{codec}"
    content = imagecodecs.jpeg2k_encode(array, reversible=True, codecformat=codec)
    path.write_bytes(content)
    assert counted(path) == counts_of(array)
    check_damage(path, content)
    path.write_bytes(imagecodecs.jpeg2k_encode(array, reversible=True, bitspersample=3, codecformat=codec))
    assert counted(path) == counts_of(array)
    path.write_bytes(imagecodecs.jpeg2k_encode(array, level=50, reversible=False, codecformat=codec))
    assert "lossy" in refused(path)


def test_jpeg_2000_of_gdal_and_in_color_is_read(tmp_path: Path) -> None:
    array, path = labels("u1", (64, 80)), tmp_path / "a.jp2"
    options = {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": "100", "count": 1, "dtype": "uint8"}
    write_raster(path, array, **options)
    assert counted(path) == counts_of(array)
    path.write_bytes(imagecodecs.jpeg2k_encode(np.stack([array] * 3, -1), reversible=True))
    assert counted(path) == counted(path, rule="channel:0") == counts_of(array)
    colors = labels("u1", (64, 80, 3)) * 40
    path.write_bytes(imagecodecs.jpeg2k_encode(colors, reversible=True))
    assert "color-coded" in refused(path)
    with path.open("rb") as file:
        chunks = list(open_label_map("a.jp2", file, LARGE, colors=True).chunks)
    packed = colors.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    assert (np.concatenate(chunks) == packed).all()


def test_boxes_after_the_image_of_a_jpeg_2000_file_are_allowed(tmp_path: Path) -> None:
    array, path = labels("u1", (64, 80)), tmp_path / "a.jp2"
    content = imagecodecs.jpeg2k_encode(array, reversible=True, codecformat="jp2")
    box = content.index(b"jp2c") - 4
    length = struct.pack(">I", len(content) - box)
    after = struct.pack(">I4s", 40, b"xml ") + bytes(32)
    path.write_bytes(content[:box] + length + content[box + 4 :] + after)
    assert counted(path) == counts_of(array)
    path.write_bytes(content[:box] + length + content[box + 4 : -9] + after)
    assert "is truncated" in refused(path)
    extended = struct.pack(">I4sQ", 1, b"jp2c", len(content) - box + 8)
    path.write_bytes(content[:box] + extended + content[box + 8 :] + after)
    assert counted(path) == counts_of(array)


def test_a_channel_of_a_jpeg_2000_file_with_a_lossy_transform_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.j2k"
    content = imagecodecs.jpeg2k_encode(labels("u1", (64, 80)), reversible=True, codecformat="j2k")
    cod = content.index(b"\xff\x52")
    end = cod + 2 + int.from_bytes(content[cod + 2 : cod + 4], "big")
    levels = content[cod + 9]
    for transform, reason in ((0, "lossy"), (1, "")):
        # COC: length, channel, precincts, then levels, size and style of code blocks, and the transform.
        coc = struct.pack(">HHBBBBBBB", 0xFF53, 9, 0, 0, levels, *content[cod + 10 : cod + 13], transform)
        path.write_bytes(content[:end] + coc + content[end:])
        if reason:
            assert reason in refused(path)
        else:
            assert counted(path) == counts_of(labels("u1", (64, 80)))


def write_raster(path: Path, array: NDArray[Any], **options: Any) -> None:
    bands = array if array.ndim == 3 else array[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        _, height, width = bands.shape
        with rasterio.open(path, "w", height=height, width=width, **options) as dataset:
            dataset.write(bands)


def test_points_of_nuscenes_are_one_row_of_classes(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 32, 5000).astype(np.uint8)
    classes.tofile(tmp_path / "ab12_lidarseg.bin")
    assert counted(tmp_path / "ab12_lidarseg.bin") == counts_of(classes)
    assert "max_pixels" in refused(tmp_path / "ab12_lidarseg.bin", max_pixels=10)
    (tmp_path / "velodyne.bin").write_bytes(bytes(16))
    assert "'.bin', which is not supported" in refused(tmp_path / "velodyne.bin")


@pytest.mark.parametrize("options", [{}, {"COMPRESSED": "YES"}])
def test_erdas_imagine_files_are_read(tmp_path: Path, options: dict[str, str]) -> None:
    array, path = labels("u1", (90, 110)), tmp_path / "a.img"
    write_raster(path, array, driver="HFA", count=1, dtype="uint8", **options)
    assert counted(path) == counts_of(array)
    check_damage(path, path.read_bytes())
    bands = labels("i2", (2, 90, 110))
    write_raster(path, bands, driver="HFA", count=2, dtype="int16", **options)
    assert "has 2 bands" in refused(path)
    assert counted(path, rule="channel:1") == counts_of(bands[1])


def test_ascii_grids_are_read(tmp_path: Path) -> None:
    array, path = labels("i4", (9, 11)), tmp_path / "a.asc"
    rows = "\n".join(" ".join(map(str, row)) for row in array)
    header = "ncols 11\nnrows 9\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
    path.write_text(header + rows + "\n")
    assert counted(path) == counts_of(array)
    path.write_text((header + rows)[:120])
    assert "GDAL cannot read it" in refused(path)
    path.write_text(header.replace("9", "900000") + rows)
    assert "max_pixels" in refused(path, max_pixels=1 << 20)


def segmentation(masks: NDArray[Any], kind: str = "BINARY") -> bytes:
    """Return a DICOM SEG of masks [z, y, x, segment], written by highdicom for images of the same size."""
    uid = highdicom.UID
    study, series, frame = uid(), uid(), uid()
    images = []
    for number in range(masks.shape[0]):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = pydicom.uid.CTImageStorage, uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.Modality, image.InstanceNumber, image.SeriesNumber = "CT", number + 1, 1
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "1", "A^B", "", "O"
        image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "", "", "", "1"
        image.ReferringPhysicianName, image.ContentDate, image.ContentTime = "", "", ""
        image.Rows, image.Columns = masks.shape[1:3]
        image.PixelSpacing, image.SliceThickness = [1.0, 1.0], 1.0
        image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        image.ImagePositionPatient = [0.0, 0.0, float(number)]
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        images.append(image)
    code = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    descriptions = [
        highdicom.seg.SegmentDescription(
            k, f"part {k}", code, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for k in range(1, masks.shape[-1] + 1)
    ]
    file = io.BytesIO()
    highdicom.seg.Segmentation(
        images, masks, kind, descriptions, uid(), 2, uid(), 1, "maker", "model", "1", "7"
    ).save_as(file)
    return file.getvalue()


def test_fractions_of_a_dicom_segmentation_are_rejected_unless_they_are_whole(tmp_path: Path) -> None:
    path, inside = tmp_path / "a.dcm", np.zeros((2, 8, 8, 1), np.float32)
    inside[:, 2:4] = 1
    path.write_bytes(segmentation(inside, "FRACTIONAL"))
    assert counted(path) == {0: 96, 1: 32}
    path.write_bytes(segmentation(inside * 0.5, "FRACTIONAL"))
    assert "FRACTIONAL" in refused(path)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_the_segments_of_a_dicom_segmentation_are_class_ids(tmp_path: Path, kind: str) -> None:
    array, path = labels("u1", (5, 16, 24)) % 4, tmp_path / "a.dcm"
    content = segmentation(np.stack([array == k for k in (1, 2, 3)], -1), kind)
    path.write_bytes(content)
    assert counted(path) == counts_of(array)
    check_damage(path, content)


def test_slices_that_a_dicom_segmentation_leaves_out_are_background_between_others(tmp_path: Path) -> None:
    masks = np.zeros((5, 16, 24, 1), bool)
    masks[[1, 3], 2:4, 2:4] = True
    (tmp_path / "a.dcm").write_bytes(segmentation(masks))
    assert counted(tmp_path / "a.dcm") == {0: 3 * 16 * 24 - 8, 1: 8}


def test_overlapping_segments_and_dicom_images_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(segmentation(np.ones((2, 8, 8, 2), bool)))
    assert "overlapping segments" in refused(path)
    image = pydicom.dcmread(path)
    image.SOPClassUID, image.Modality = pydicom.uid.CTImageStorage, "CT"
    image.save_as(path)
    assert "modality CT, not a segmentation" in refused(path)
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(path)
    assert "deflated" in refused(path)


@pytest.mark.parametrize(
    ("name", "library", "extra", "content"),
    [
        ("a.nrrd", "nrrd", "formats", b"NRRD0004\n"),
        ("a.mha", "SimpleITK", "formats", b"ObjectType = Image\nElementDataFile = LOCAL\n"),
        ("a.mat", "scipy", "formats", b"MATLAB 5.0 MAT-file".ljust(128)),
        ("a.img", "rasterio", "geo", b"EHFA_HEADER_TAG\0"),
        ("a.dcm", "pydicom", "formats", bytes(128) + b"DICM"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str, content: bytes
) -> None:
    for module in [m for m in sys.modules if m == library or m.startswith(f"{library}.")] or [library]:
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(content)
    assert f"{library} is not installed. Run: pip install 'statsvc[{extra}]'" in refused(tmp_path / name)
