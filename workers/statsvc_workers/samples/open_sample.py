"""Open samples by path or URL: files through `open_file`, objects through `read_ahead`."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, BinaryIO

from statsvc.common.object_urls import is_listable, is_url, join
from statsvc_workers.samples import roots
from statsvc_workers.samples.open_file import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from statsvc_workers.samples.members import Member
    from statsvc_workers.samples.read_ahead import ReadAhead


def read_ahead(root: str, samples: Sequence[str | Member]) -> AbstractContextManager[ReadAhead | None]:
    """Return a `ReadAhead` for samples of an object store; None for files, which `open_file` opens."""
    if not is_url(root):
        return nullcontext()
    from statsvc_workers.samples.read_ahead import ReadAhead

    return ReadAhead(root, samples)


@contextmanager
def open_bytes(root: str, path: str) -> Iterator[BinaryIO]:
    """Open a file or object for reading.

    Raises `OSError`, and `OutsideRoots`. A failed request raises its own error, not the decoder's error about
    missing bytes.
    """
    with read_ahead(root, [path]) as ahead, ahead.open(path) if ahead else open_file(root, path) as sample:
        assert sample.file is not None
        try:
            yield sample.file
        finally:
            sample.stamp()


def located(root: str, path: str) -> str:
    """Return the path or URL of `path` below `root`."""
    return join(root, path) if is_url(root) else os.path.join(root, path)  # noqa: PTH118


def exists(root: str, path: str) -> bool:
    """Whether the file or object exists; one outside the roots does not. Raises `OSError`."""
    if is_url(root):
        return bool(existing(root, [path]))
    return stat.S_ISREG(_mode(root, path))


def existing(root: str, paths: Sequence[str]) -> list[str]:
    """Return those of `paths` that exist as files or objects, in this order. Raises `OSError`."""
    if is_url(root):
        from statsvc_workers.samples.object_store import bucket

        allowed = [path for path in paths if roots.is_allowed_url(join(root, path))]
        return [path for path, _ in bucket(root).heads(allowed)] if allowed else []
    return [path for path in paths if exists(root, path)]


def is_folder(root: str, path: str, containing: str) -> bool:
    """Whether a folder exists; where objects cannot be listed, whether the file `containing` exists in it.

    Raises `OSError`, and `OutsideRoots`.
    """
    if is_url(root):
        from statsvc_workers.samples.object_store import bucket

        if not is_listable(root):
            return exists(root, f"{path}/{containing}")
        return next(bucket(root).list(path), None) is not None
    return stat.S_ISDIR(_mode(root, path))


def _mode(root: str, path: str) -> int:
    """Return the mode of a file or folder; 0 if there is none, or if it is outside the roots."""
    try:
        return roots.status(os.path.join(root, path)).st_mode  # noqa: PTH118
    except (OSError, roots.OutsideRoots):
        return 0
