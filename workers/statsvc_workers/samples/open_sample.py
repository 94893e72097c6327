"""Open a sample: files and folders here, objects in `statsvc_workers.samples.object_store`."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from statsvc.common.object_urls import is_listable, is_url, join
from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from statsvc_workers.samples.members import Member
    from statsvc_workers.samples.object_store import ReadAhead


class SampleChanged(OSError):
    """The file changed while it was read."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ESTALE, "changed while it was read", path)


class Stamp(NamedTuple):
    """What tells a file from one that was changed: bytes, times in ns, inode; of an object, its ETag."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str = ""

    @property
    def fingerprint(self) -> tuple[int, int, int]:
        """What a row keeps of it."""
        return self.size, self.mtime_ns, self.ctime_ns


class Opened:
    """An open sample, closed at the end of a `with`.

    path   where it lies on this machine
    file   its bytes; None for a folder
    files  of a file, others that belong to its fingerprint; of a folder, those in it that make it up,
           where they are there, and the whole folder where none are named
    """

    __slots__ = ("file", "files", "path")

    def __init__(self, path: str, file: BinaryIO | None, files: tuple[str, ...]) -> None:
        self.path, self.file, self.files = path, file, files

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.file is not None:
            self.file.close()

    def stamp(self) -> Stamp:
        """Return the stamp as it is now. Raises `OSError`, `UnreadableSample` for what is no file."""
        if self.file is None:
            return folder_stamp(self.path) if not self.files else files_stamp(self.files)
        status = os.fstat(self.file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableSample("is a device or pipe, not a file; leave it out with --pattern")
        own = stamp_of(status)
        if not self.files:
            return own
        return combined([own, *(stamp_of(os.stat(file)) for file in self.files)])  # noqa: PTH116


def opened(root: str, path: str, files: Sequence[str] = (), *, folder: bool = False) -> Opened:
    """Open a file, or a folder, by its path relative to `root`, as the `files`. Raises `OSError`."""
    full = os.path.join(root, path)  # noqa: PTH118 - a million of them
    others = tuple(os.path.join(root, file) for file in files) if files else ()  # noqa: PTH118
    return Opened(full, None if folder else open(full, "rb", opener=_open_nonblocking), others)


def reading_ahead(root: str, samples: Sequence[str | Member]) -> AbstractContextManager[ReadAhead | None]:
    """Return what opens samples of an object store, reading ahead; None for files, which `opened` opens."""
    if not is_url(root):
        return nullcontext()
    from statsvc_workers.samples.object_store import ReadAhead

    return ReadAhead(root, samples)


@contextmanager
def reading(root: str, path: str) -> Iterator[BinaryIO]:
    """Open a file or object. Raises `OSError`, in place of what a reader makes of missing bytes."""
    with reading_ahead(root, [path]) as ahead, ahead.open(path) if ahead else opened(root, path) as source:
        assert source.file is not None
        try:
            yield source.file
        finally:
            source.stamp()


def located(root: str, path: str) -> str:
    """Return the path or URL of what lies at `path` below `root`."""
    return join(root, path) if is_url(root) else os.path.join(root, path)  # noqa: PTH118


def exists(root: str, path: str) -> bool:
    """Whether there is a file or object. Raises `OSError`."""
    if is_url(root):
        from statsvc_workers.samples.object_store import bucket

        return bool(bucket(root).heads([path]))
    return os.path.isfile(os.path.join(root, path))  # noqa: PTH113, PTH118


def is_folder(root: str, path: str, holding: str) -> bool:
    """Whether there is a folder; where nothing can be listed, whether the file `holding` is in it."""
    if is_url(root):
        from statsvc_workers.samples.object_store import bucket

        if not is_listable(root):
            return exists(root, f"{path}/{holding}")
        return next(bucket(root).list(path), None) is not None
    return os.path.isdir(os.path.join(root, path))  # noqa: PTH112, PTH118


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of one file."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def combined(stamps: Iterable[Stamp]) -> Stamp:
    """Return the stamp of several files: a file that changes has the latest change time, which none sets."""
    size = mtime = ctime = inode = 0
    for stamp in stamps:
        size, inode = size + stamp.size, inode ^ stamp.inode
        mtime, ctime = max(mtime, stamp.mtime_ns), max(ctime, stamp.ctime_ns)
    return Stamp(size, mtime, ctime, inode)


def files_stamp(files: Iterable[str]) -> Stamp:
    """Return the stamp of those of some files that are there. Raises `OSError`."""
    stamps = []
    for file in files:
        with suppress(FileNotFoundError):
            stamps.append(stamp_of(os.stat(file)))  # noqa: PTH116
    return combined(stamps)


def folder_stamp(path: str) -> Stamp:
    """Return the stamp of a folder: of every file and folder in it. Raises `OSError`."""
    return combined(_stamps(path))


def _stamps(path: str) -> Iterator[Stamp]:
    status = os.stat(path)  # noqa: PTH116
    # Bytes of a folder itself mean nothing; its times tell that something was added or removed.
    yield Stamp(0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _stamps(entry.path)
            else:
                yield stamp_of(entry.stat())


def _open_nonblocking(path: str, flags: int) -> int:
    # A pipe that took a sample's place would otherwise be waited for without end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
