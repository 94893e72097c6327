"""Open a sample that is a file or folder on this machine."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.samples import roots
from statsvc_workers.samples.stamps import Stamp, combined, files_stamp, folder_stamp, stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class OpenSample:
    """An open sample; a context manager that closes it.

    path   path or URL of the file or folder
    file   the bytes of the file; None for a folder
    files  for a file, further files that belong to its fingerprint; for a folder, the files in it that store
           the sample, as far as they exist, or () for the whole folder
    """

    __slots__ = ("file", "files", "path")

    def __init__(self, path: str, file: BinaryIO | None, files: tuple[str, ...]) -> None:
        self.path, self.file, self.files = path, file, files

    def __enter__(self) -> OpenSample:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.file is not None:
            self.file.close()

    def stamp(self) -> Stamp:
        """Return the current stamp.

        Raises `OSError`, and `UnreadableSample` for a device or pipe, or a file outside the roots.
        """
        if self.file is None:
            return folder_stamp(self.path) if not self.files else files_stamp(self.files)
        status = os.fstat(self.file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableSample("is a device or pipe, not a file; exclude it with --pattern")
        own_stamp = stamp_of(status)
        if not self.files:
            return own_stamp
        return combined([own_stamp, *(stamp_of(roots.status(file)) for file in self.files)])


def open_file(root: str, path: str, files: Sequence[str] = (), *, folder: bool = False) -> OpenSample:
    """Open a file, or a folder, by its path relative to `root`; so are `files`.

    Raises `OSError`, and `OutsideRoots`.
    """
    full = os.path.join(root, path)  # noqa: PTH118 - pathlib is too slow for a million files
    others = tuple(os.path.join(root, file) for file in files) if files else ()  # noqa: PTH118
    if folder:
        roots.status(full)
        return OpenSample(full, None, others)
    # `open` also asks whether the file is a terminal.
    return OpenSample(full, io.BufferedReader(io.FileIO(full, opener=roots.open_descriptor)), others)
