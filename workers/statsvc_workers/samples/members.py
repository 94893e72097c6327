"""Samples that are not a whole file: members of a container, Zarr folders, and regions of an array."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

from statsvc.common.sealed import Sealed

if TYPE_CHECKING:
    from typing import BinaryIO

    from statsvc.dataset.grid import Place

SCAN_AGAIN = "scan again when all files are complete"

MemberKind = Literal[
    "zarr",
    "range",
    "row",
    "panoptic",
    "annotations",
    "labelme",
    "metaimage",
    "zarr part",
    "hdf5 part",
    "npy part",
    "masks",
]


class Member(Sealed, frozen=True):
    """A sample together with the information that a worker needs to find it.

    path     name of the sample
    file     file or folder that contains the sample, relative to the source
    kind     how the sample is stored, and what `where` contains:

             zarr         the folder is a Zarr array or a group of arrays; `where` is None
             range        a range of bytes of the file; (offset, length)
             row          a value of a Parquet column; (column, row group, row in the group)
             panoptic     a PNG of segment ids; {segment id: category id}
             annotations  COCO annotations of one image; their JSON as bytes
             labelme      the shapes of one image; their JSON as bytes
             metaimage    a volume whose voxels are in the file that follows, if any; `where` is None
             zarr part    a region of a Zarr array; one slice for each axis
             hdf5 part    a region of an HDF5 dataset; one slice for each axis
             npy part     a range of bytes of an NPY file; (offset, length, dtype, shape)
             masks        one binary mask per class: the file and `files`; the class id of each
    where    see `kind`; kept small because it is sent to a worker
    length   approximate number of bytes that a worker reads for the sample
    files    further files, relative to the source, that belong to the sample's fingerprint; for a region of
             a Zarr array, all files that store the region
    etag     ETag, at listing time, of the container in an object store; "" for files
    listed   fingerprint (size, mtime_ns, ctime_ns) of the files at listing time, used where no ETag
             identifies the container; a different fingerprint means a different container
    place    for a part of an array of at most three axes, where it is in the array
    """

    path: str
    file: str
    kind: MemberKind
    where: Any = None
    length: int = 0
    files: tuple[str, ...] = ()
    etag: str = ""
    listed: tuple[int, int, int] | None = None
    place: Place | None = None

    @property
    def in_folder(self) -> bool:
        """Whether `file` is a folder."""
        return self.kind in ("zarr", "zarr part")


def sample_name(sample: str | Member) -> str:
    """Return the name of a sample, which is its path."""
    return sample if isinstance(sample, str) else sample.path


class FileRange:
    """A range of bytes of a file, presented as a seekable file of its own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, fewer at the end of the range; all remaining bytes by default."""
        remaining = max(0, self.length - self.position)
        self.file.seek(self.start + self.position)
        data = self.file.read(remaining if count < 0 else min(count, remaining))
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the range and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """Return the position in the range."""
        return self.position
