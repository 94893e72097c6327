"""Samples that are not a file by themselves: members of a container, folders, pictures with a sidecar."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from statsvc_workers.formats import open_label_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.formats import LabelMap
    from statsvc_workers.samples.open_sample import Opened

AGAIN = "scan again when it is complete"

MemberKind = Literal["zarr", "range", "row", "panoptic", "annotations", "zarr part", "hdf5 part", "npy part"]


@dataclass(frozen=True, slots=True)
class Member:
    """A sample and how to find it.

    path     the sample's name
    file     the file or folder that holds it, relative to the source
    kind     zarr: the folder is an array, or a group of arrays
             range: bytes of the file, `where` = (offset, length)
             row: a value of a Parquet column, `where` = (column, row group, row in it)
             panoptic: a picture of segments, `where` = {segment: category}
             annotations: COCO annotations of an image, `where` = their JSON
             zarr part, hdf5 part: a region of the array, `where` = a slice for each axis
             npy part: bytes of the file, `where` = (offset, length, dtype, shape)
    where    see kind; small, for it travels to the worker
    length   about how many bytes are read for it
    files    others, relative to the source, whose change changes the sample; of a Zarr part, all that make it
    etag     of the container that told where it is, in an object store; "" for files
    listed   fingerprint of the files when `where` was found out, where no ETag tells; another then is
             another container
    """

    path: str
    file: str
    kind: MemberKind
    where: Any = None
    length: int = 0
    files: tuple[str, ...] = ()
    etag: str = ""
    listed: tuple[int, int, int] | None = None

    @property
    def in_folder(self) -> bool:
        """Whether `file` is a folder."""
        return self.kind in ("zarr", "zarr part")


def name_of(sample: str | Member) -> str:
    """Return a sample's name."""
    return sample if isinstance(sample, str) else sample.path


def bytes_of(member: Member, source: Opened) -> BinaryIO | None:
    """Return the sample's bytes as a seekable file; None where it is a folder, or blocks of a file."""
    if member.kind in ("range", "npy part"):
        assert source.file is not None
        return cast("BinaryIO", Range(source.file, *member.where[:2]))
    if member.kind == "hdf5 part":
        return None
    if member.kind == "row":
        from statsvc_workers.containers.parquet import value

        assert source.file is not None
        return io.BytesIO(value(source.file, member, source.stamp()))
    if member.kind == "annotations":
        return io.BytesIO(member.where)
    return source.file


def opener(member: Member, source: Opened, counting: Counting) -> Callable[[BinaryIO, int], LabelMap]:
    """Return the function that opens the label map in the member's bytes, given a limit of pixels."""
    colours = counting.palette is not None
    if member.kind == "zarr":
        from statsvc_workers.formats.zarr_arrays import open_folder

        return lambda _file, max_pixels: open_folder(source.path, max_pixels, counting.key)
    if member.kind == "zarr part":
        from statsvc_workers.formats.zarr_arrays import open_part

        files = source.files[1:]
        return lambda _file, max_pixels: open_part(source.path, max_pixels, counting.key, member.where, files)
    if member.kind == "hdf5 part":
        from statsvc_workers.formats.hdf5 import open_part as open_hdf5

        assert source.file is not None
        data = source.file
        return lambda _file, max_pixels: open_hdf5(data, max_pixels, counting.key, member.where)
    if member.kind == "npy part":
        from statsvc_workers.formats.npy import open_part as open_npy

        return lambda file, max_pixels: open_npy(file, max_pixels, *member.where[2:])
    if member.kind == "panoptic":
        return lambda file, max_pixels: open_label_map(member.path, file, max_pixels, colours=True)
    if member.kind == "annotations":
        from statsvc_workers.formats.annotations import open_annotations

        return open_annotations
    if member.kind == "row":
        from statsvc_workers.containers.parquet import named

        return lambda file, max_pixels: open_label_map(named(file), file, max_pixels, colours=colours)
    # The key chose the member; what it holds is one array.
    return lambda file, max_pixels: open_label_map(member.path, file, max_pixels, colours=colours)


class Range:
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def read(self, count: int = -1) -> bytes:
        """Read on, to the end of the part at most."""
        left = max(0, self.length - self.position)
        self.file.seek(self.start + self.position)
        data = self.file.read(left if count < 0 else min(count, left))
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the part."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """Return the place in the part."""
        return self.position
