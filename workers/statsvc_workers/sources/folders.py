"""Walk a folder tree, and read the fingerprints of its files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from statsvc.errors import SourceError
from statsvc_workers.formats.zarr_arrays import MARKS
from statsvc_workers.samples.stamps import stamp_of
from statsvc_workers.sources.errors import listing_failed, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc_workers.sources.listing import Fingerprint


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A file or folder with the interface of `os.DirEntry`, of which only the path is known."""

    path: str

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return its current status. Raises `OSError`."""
        return os.stat(self.path, follow_symlinks=follow_symlinks)  # noqa: PTH116

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return os.path.islink(self.path)  # noqa: PTH114


Entry: TypeAlias = "os.DirEntry[str] | PathEntry"


def walk(root: str, start: str = "", start_entry: Entry | None = None) -> Iterator[tuple[str, Entry]]:
    """Yield (relative path, entry) of every file below `root`.

    Symbolic links are followed, and names that begin with a dot are skipped. A Zarr folder is yielded as one
    path that ends in "/", without its contents. With `start` and its entry, only that folder below `root` is
    walked. Raises `SourceError` for any error.
    """
    # Each folder comes with the (device, inode) of all folders above it: a link to one of them is a loop, and
    # is skipped. A folder with two names is listed under both, so that the order of the walk does not matter.
    pending: list[tuple[str, frozenset[tuple[int, int]], Entry | None]] = [(start, frozenset(), start_entry)]
    while pending:
        folder, above, folder_entry = pending.pop()
        full = os.path.join(root, folder)  # noqa: PTH118 - pathlib is too slow for a million files
        try:
            status = os.stat(full)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(full) as scanned:
                entries = list(scanned)
            if folder_entry is not None and any(entry.name in MARKS for entry in entries):
                yield folder + "/", folder_entry
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_folder(entry):
                    pending.append((path, above | {identity}, entry))
                else:
                    yield path, entry
        except SourceError:
            raise
        except OSError as error:
            raise listing_failed(root, error) from error


def is_zarr_folder(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group. Raises `OSError`."""
    return any((folder / mark).is_file() for mark in MARKS)


def file_fingerprint(root: str, entry: Entry) -> tuple[Fingerprint, str]:
    """Return the fingerprint of a file, and why it cannot be opened, or "".

    Raises `SourceError` where the fingerprint cannot be read.
    """
    reason = ""
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            reason = "is a device or pipe, not a file; exclude it with --pattern"
    except OSError as error:
        if not entry.is_symlink():
            raise listing_failed(root, error) from error
        status = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path)  # noqa: PTH115 - Path would normalize it
        reason = (
            f"is a symbolic link to {printable(target)}, which cannot be opened ({error.strerror}); fix or "
            "remove the link"
        )
    return stamp_of(status).fingerprint, reason


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():
            return False  # a link to itself; reported as an unreadable sample if it matches
        raise
