"""DICOM segmentations (DICOM SEG), decoded as a whole by highdicom; the ids are the numbers of the segments.

Voxels outside all segments have the id 0. A file usually stores only slices with segments: slices between two
of them are counted as background, slices outside are not counted.
Format: DICOM PS3.3, section A.51, https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.51.html.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    Format,
    LabelMap,
    Mode,
    Peek,
    check_pixels,
    long_axes,
    size_without_unit_axes,
    volume_of,
)
from statsvc_workers.formats.magic import describe_content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "DICOM segmentation"

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Classes of objects: Segmentation Storage, Label Map Segmentation Storage."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax in which the whole file is compressed; pydicom would decompress any size in one step."""

META_BYTES = 1 << 12
"""Bytes from the start of a file that contain its transfer syntax."""


def open_label_map(file: BinaryIO, size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header of a segmentation; [z, y, x], or the whole image of a slide.

    Raises `UnreadableSample` for an image, for overlapping segments, for fractions, and for a damaged file.
    """
    with _named_damage():
        shape = _checked(file, size, max_pixels)
    height, width = size_without_unit_axes(shape)
    layout: Literal["rows"] | None = None if long_axes(shape) is None else "rows"
    volume = volume_of(shape)
    return LabelMap(Mode.ARRAY, height, width, _ids(file), axes=len(shape), layout=layout, volume=volume)


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    header = _header(file)
    is_segmentation = str(header.get("SOPClassUID", "")) in SEGMENTATIONS
    return Peek("DICOM segmentation" if is_segmentation else "DICOM image", color=not is_segmentation)


FORMAT = Format(NAME, (b"",), open_label_map, peek)


def _checked(file: BinaryIO, size: int, max_pixels: int) -> tuple[int, ...]:
    """Return the shape of the label map. Raises `UnreadableSample`."""
    header = _header(file)
    kind = str(header.get("SOPClassUID", ""))
    if kind not in SEGMENTATIONS:
        modality = "".join(letter for letter in str(header.get("Modality", "")) if letter.isalnum())[:16]
        raise UnreadableSample(
            f"is a DICOM file of the modality {modality or 'unknown'}, not a segmentation (DICOM SEG); "
            "choose the segmentations with --pattern"
        )
    rows, columns = int(header.Rows), int(header.Columns)
    frames = int(header.get("NumberOfFrames", 1))
    bits = int(header.BitsAllocated)
    check_pixels(frames * rows, columns, max_pixels)
    encoded = header.file_meta.TransferSyntaxUID.is_encapsulated
    if not encoded and size < frames * rows * columns * bits // 8:
        raise UnreadableSample(
            f"is truncated: {size} bytes for {frames} frames of {columns} x {rows} pixels; {COPY_AGAIN}"
        )
    shape = _shape(header, file)
    check_pixels(*size_without_unit_axes(shape), max_pixels)
    return shape


@contextmanager
def _named_damage() -> Iterator[None]:
    """Report attributes that a damaged file lacks: pydicom and highdicom raise an `AttributeError`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnreadableSample(f"is damaged or truncated ({reason}); {COPY_AGAIN}") from None


def _header(file: BinaryIO) -> Any:
    """Return pydicom's dataset without the pixels."""
    import pydicom

    file.seek(0)
    head = file.read(META_BYTES)
    if head[128:132] != b"DICM":
        raise UnreadableSample(f"is not a valid {NAME}: it {describe_content(head)}")
    if DEFLATED in head:
        raise UnreadableSample("is deflated as a whole; save it with another transfer syntax")
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True)


def _segmentation(file: BinaryIO) -> Any:
    """Return highdicom's object."""
    import highdicom

    file.seek(0)
    return highdicom.seg.segread(file)


def _shape(header: Any, file: BinaryIO) -> tuple[int, ...]:
    """Return the shape of the label map, [z, y, x] or [y, x]."""
    if "TotalPixelMatrixRows" in header:
        return int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
    geometry = _segmentation(file).get_volume_geometry(allow_missing_positions=True)
    if geometry is None:
        raise UnreadableSample(
            "has slices that are not parallel or not at equal distances; convert it: segimage2itkimage "
            "--inputDICOM FILE --outputType nii"
        )
    return tuple(geometry.spatial_shape)


def _ids(file: BinaryIO) -> Iterator[NDArray[Any]]:
    """Decode the segments into ids. Raises `UnreadableSample` for segments that overlap."""
    try:
        with _named_damage():
            segmentation = _segmentation(file)
            if "TotalPixelMatrixRows" in segmentation:
                ids = segmentation.get_total_pixel_matrix(combine_segments=True)
            else:
                ids = segmentation.get_volume(combine_segments=True, allow_missing_positions=True).array
    except RuntimeError as error:
        if "overlap" not in str(error):
            raise
        raise UnreadableSample(
            "has overlapping segments, so a voxel would have several ids; export segments that do not "
            "overlap as one file"
        ) from None
    yield np.asarray(ids)
