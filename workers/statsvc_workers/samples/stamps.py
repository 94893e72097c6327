"""Stamps: what distinguishes a file or object from a changed one without reading its contents."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from stat import S_ISDIR
from typing import TYPE_CHECKING, NamedTuple

from statsvc_workers.samples import roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class SampleChanged(OSError):
    """The file changed while it was being read."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ESTALE, "changed while it was being read", path)


class Stamp(NamedTuple):
    """Identity of the contents of a file or object at one moment.

    size      bytes
    mtime_ns  time of the last modification, in nanoseconds since the epoch
    ctime_ns  time of the last change of the inode, in nanoseconds since the epoch; 0 for an object
    inode     inode number; 0 for an object
    etag      ETag of an object; "" for a file
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str = ""

    @property
    def fingerprint(self) -> tuple[int, int, int]:
        """The part of the stamp that a version stores: size, mtime_ns, ctime_ns."""
        return self.size, self.mtime_ns, self.ctime_ns


_LATEST_NS = 2**63 - 1
"""In the year 2262. File systems can store later times, but the version store cannot."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of one file."""
    return Stamp(*fingerprint_of(status), status.st_ino)


def fingerprint_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return the `fingerprint` of the stamp of one file."""
    return status.st_size, min(status.st_mtime_ns, _LATEST_NS), min(status.st_ctime_ns, _LATEST_NS)


def combined(stamps: Iterable[Stamp]) -> Stamp:
    """Return one stamp for several files.

    The latest ctime is enough to notice a change of any file: the kernel sets it on every change, and no
    program can set it back.
    """
    size = mtime = ctime = inode = 0
    for stamp in stamps:
        size, inode = size + stamp.size, inode ^ stamp.inode
        mtime, ctime = max(mtime, stamp.mtime_ns), max(ctime, stamp.ctime_ns)
    return Stamp(size, mtime, ctime, inode)


def files_stamp(files: Iterable[str]) -> Stamp:
    """Return one stamp for those of `files` that exist. Raises `OSError`."""
    stamps = []
    for file in files:
        with suppress(FileNotFoundError):
            stamps.append(stamp_of(roots.status(file)))
    return combined(stamps)


def folder_stamp(path: str) -> Stamp:
    """Return one stamp for a folder and every file and folder below it.

    Raises `OSError`, and `OutsideRoots` where a link leads outside the roots.
    """
    return combined(_stamps(path, frozenset()))


def _stamps(path: str, above: frozenset[tuple[int, int]]) -> Iterator[Stamp]:
    descriptor = roots.open_descriptor(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return  # a link to a folder above it
        # The size of a folder is meaningless; its times change when an entry is added or removed.
        yield stamp_of(status)._replace(size=0)
        with os.scandir(descriptor) as entries:
            for entry in entries:
                full = os.path.join(path, entry.name)  # noqa: PTH118
                is_link = entry.is_symlink()
                status = roots.status(full) if is_link else entry.stat(follow_symlinks=False)
                if S_ISDIR(status.st_mode):
                    yield from _stamps(full, above | {identity})
                else:
                    yield stamp_of(status)
    finally:
        os.close(descriptor)
