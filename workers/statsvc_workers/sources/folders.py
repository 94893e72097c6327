"""Walk a folder tree, and read the fingerprints of its files."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from statsvc.errors import SourceError
from statsvc_workers.samples import roots
from statsvc_workers.samples.kinds import MARKS
from statsvc_workers.samples.stamps import fingerprint_of
from statsvc_workers.sources.listing_errors import listing_failed, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from statsvc_workers.sources.listing import Fingerprint


class PathEntry(Struct, frozen=True):
    """A file or folder with the interface of `os.DirEntry`, of which only the path is known."""

    path: str

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return its current status. Raises `OSError`, and `OutsideRoots`."""
        return roots.status(self.path, follow_symlinks=follow_symlinks)

    def is_dir(self) -> bool:
        """Whether it is a folder, or a link to one. Raises `OSError`, and `OutsideRoots`."""
        return stat.S_ISDIR(self.stat().st_mode)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link. Raises `OSError`, and `OutsideRoots`."""
        return stat.S_ISLNK(self.stat(follow_symlinks=False).st_mode)


class OutsideEntry(PathEntry, frozen=True):
    """A link that leads outside the roots."""


class _PinnedEntry(PathEntry, frozen=True):
    """An entry of an open folder, whose path may have another meaning by now; valid until it is closed."""

    entry: os.DirEntry[str]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if follow_symlinks and self.entry.is_symlink():
            return roots.status(self.path)
        return self.entry.stat(follow_symlinks=False)

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.stat().st_mode) if self.entry.is_symlink() else self.entry.is_dir()


Entry: TypeAlias = "os.DirEntry[str] | PathEntry"


def walk(root: str, start: str = "", start_entry: Entry | None = None) -> Iterator[tuple[str, Entry]]:
    """Yield (relative path, entry) of every file below `root`.

    Symbolic links are followed, and names that begin with a dot are skipped. A Zarr folder is yielded as one
    path that ends in "/", without its contents; a link that leads outside the roots, as an `OutsideEntry`.
    With `start` and its entry, only that folder below `root` is walked. An entry is valid until the next one.

    Raises `SourceError` for any error.
    """
    # Each folder comes with the (device, inode) of all folders above it: a link to one of them is a loop, and
    # is skipped. A folder with two names is listed under both, so that the order of the walk does not matter.
    pending: list[tuple[str, frozenset[tuple[int, int]], Entry | None]] = [(start, frozenset(), start_entry)]
    while pending:
        folder, above, folder_entry = pending.pop()
        full = os.path.join(root, folder)  # noqa: PTH118 - pathlib is too slow for a million files
        try:
            with _open_folder(full) as (identity, entries):
                if identity in above:
                    continue
                if folder_entry is not None and any(entry.name in MARKS for entry in entries):
                    yield folder + "/", folder_entry
                    continue
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    try:
                        is_folder = _is_folder(entry)
                    except roots.OutsideRoots:
                        yield path, OutsideEntry(entry.path)
                        continue
                    if is_folder:
                        pending.append((path, above | {identity}, PathEntry(entry.path)))
                    else:
                        yield path, entry
        except roots.OutsideRoots as error:
            names = roots.leads_to_root(full)
            if names:
                paths = [f"{folder}/{name}" if folder else name for name in names]
                pending += [(path, above, PathEntry(os.path.join(root, path))) for path in paths]  # noqa: PTH118
            elif folder == start:
                raise SourceError(f"{full} {error}") from None
            else:
                yield folder, OutsideEntry(full)
        except SourceError:
            raise
        except OSError as error:
            raise listing_failed(root, error) from error


@contextmanager
def _open_folder(path: str) -> Iterator[tuple[tuple[int, int], Sequence[Entry]]]:
    """Yield the (device, inode) of a folder, and its entries.

    Raises `OSError`, and `OutsideRoots`.
    """
    if roots.current_roots() is None:
        status = os.stat(path)  # noqa: PTH116
        with os.scandir(path) as scanned:
            yield (status.st_dev, status.st_ino), list(scanned)
        return
    descriptor = roots.open_descriptor(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
        with os.scandir(descriptor) as scanned:
            entries = [_PinnedEntry(os.path.join(path, entry.name), entry) for entry in scanned]  # noqa: PTH118
        yield (status.st_dev, status.st_ino), entries
    finally:
        os.close(descriptor)


def is_zarr_folder(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group. Raises `OSError`, and `OutsideRoots`."""
    return any(_is_file(folder / mark) for mark in MARKS)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(roots.status(str(path)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def file_fingerprint(root: str, entry: Entry) -> tuple[Fingerprint, str]:
    """Return the fingerprint of a file, and why it cannot be opened, or "".

    Raises `SourceError` where the fingerprint cannot be read.
    """
    reason = ""
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            reason = "is a device or pipe, not a file; exclude it with --pattern"
    except roots.OutsideRoots as error:
        status, reason = entry.stat(follow_symlinks=False), str(error)
    except OSError as error:
        if not entry.is_symlink():
            raise listing_failed(root, error) from error
        status = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path)  # noqa: PTH115 - Path would normalize it
        reason = (
            f"is a symbolic link to {printable(target)}, which cannot be opened ({error.strerror}); fix or "
            "remove the link"
        )
    return fingerprint_of(status), reason


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():
            return False  # a link to itself; reported as an unreadable sample if it matches
        raise
