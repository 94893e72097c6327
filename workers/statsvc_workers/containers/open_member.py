"""Open the label map of a member: one entry of `OPENERS` for each kind of member."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, cast

from statsvc.errors import UnreadableSample
from statsvc_workers.containers import class_masks, parquet
from statsvc_workers.formats import hdf5, metaimage, npy, open_label_map, pixel_rule, zarr_arrays
from statsvc_workers.formats.annotations import open_annotations
from statsvc_workers.formats.shapes import open_shapes
from statsvc_workers.formats.stacks import largest
from statsvc_workers.samples.members import FileRange
from statsvc_workers.samples.open_file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.formats import LabelMap
    from statsvc_workers.samples.members import Member, MemberKind
    from statsvc_workers.samples.open_file import OpenSample

    Opener = Callable[[Member, OpenSample, BinaryIO, int, Counting], LabelMap]


def member_bytes(member: Member, sample: OpenSample) -> BinaryIO | None:
    """Return the bytes of a member as a seekable file; None for a folder or a region of a file."""
    if member.kind in ("range", "npy part"):
        start, length = member.where[:2]
        return cast("BinaryIO", FileRange(_file(sample), start, length))
    if member.kind == "row":
        return io.BytesIO(parquet.value(_file(sample), member, sample.stamp()))
    if member.kind in ("annotations", "labelme"):
        return io.BytesIO(member.where)
    if member.kind in ("hdf5 part", "masks", "metaimage"):
        return None
    return sample.file


def open_member(
    member: Member, sample: OpenSample, data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    """Open the label map of a member.

    `data` is a file over `member_bytes`; a kind without bytes ignores it. Raises `UnreadableSample`.
    """
    return OPENERS[member.kind](member, sample, data, max_pixels, counting)


def _open_zarr(
    _member: Member, sample: OpenSample, _data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    if counting.axis is not None:
        return largest(zarr_arrays.read_array(sample.path, max_pixels, counting.key), counting.axis)
    if counting.channel is not None:
        raise UnreadableSample("has no channels (format: Zarr); omit --rule channel")
    return zarr_arrays.open_folder(sample.path, max_pixels, counting.key)


def _open_zarr_part(
    member: Member, sample: OpenSample, _data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    chunk_files = sample.files[1:]  # the first file is the array's metadata
    return zarr_arrays.open_part(sample.path, max_pixels, counting.key, member.where, chunk_files)


def _open_hdf5_part(
    member: Member, sample: OpenSample, _data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    return hdf5.open_part(_file(sample), max_pixels, counting.key, member.where)


def _open_npy_part(
    member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, _counting: Counting
) -> LabelMap:
    _, _, dtype, shape = member.where
    return npy.open_part(data, max_pixels, dtype, shape)


def _open_panoptic(
    member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, _counting: Counting
) -> LabelMap:
    return open_label_map(member.path, data, max_pixels, colors=True)


def _open_annotations(
    _member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, _counting: Counting
) -> LabelMap:
    return open_annotations(data, max_pixels)


def _open_labelme(
    _member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, _counting: Counting
) -> LabelMap:
    return open_shapes(data, max_pixels)


def _open_metaimage(
    _member: Member, sample: OpenSample, _data: BinaryIO, max_pixels: int, _counting: Counting
) -> LabelMap:
    if not sample.files:
        return metaimage.open_label_map(_file(sample), 0, max_pixels)
    with open_file("", sample.files[0]) as voxels:
        return metaimage.open_pair(_file(sample), _file(voxels), max_pixels)


def _open_row(
    _member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    name = parquet.name_by_content(data)
    return open_label_map(name, data, max_pixels, **pixel_rule(counting))


def _open_range(
    member: Member, _sample: OpenSample, data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    # No key: the key has already chosen this member of the container.
    return open_label_map(member.path, data, max_pixels, **pixel_rule(counting))


def _open_masks(
    member: Member, sample: OpenSample, _data: BinaryIO, max_pixels: int, counting: Counting
) -> LabelMap:
    with ExitStack() as stack:
        others = [stack.enter_context(open_file("", file)) for file in sample.files]
        paths, files = (member.file, *member.files), [_file(part) for part in (sample, *others)]
        masks = list(zip(paths, files, member.where, strict=True))
        return class_masks.open_masks(masks, max_pixels, counting.key)


OPENERS: dict[MemberKind, Opener] = {
    "zarr": _open_zarr,
    "zarr part": _open_zarr_part,
    "hdf5 part": _open_hdf5_part,
    "npy part": _open_npy_part,
    "panoptic": _open_panoptic,
    "annotations": _open_annotations,
    "labelme": _open_labelme,
    "metaimage": _open_metaimage,
    "row": _open_row,
    "range": _open_range,
    "masks": _open_masks,
}
"""Kind of member → function that opens its label map, with the arguments of `open_member`."""


def _file(sample: OpenSample) -> BinaryIO:
    assert sample.file is not None
    return sample.file
