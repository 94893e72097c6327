"""Containers: one file that contains many label maps, listed as `Member`s when a source is listed.

To add a container format, write a module with a `list_members` function and add it to `READERS`, and its
extension to `statsvc_workers.samples.kinds`.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import as_unreadable
from statsvc_workers.processes import isolated
from statsvc_workers.samples import roots
from statsvc_workers.samples.stamps import combined, files_stamp, stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.containers.contents import Contents
    from statsvc_workers.samples.members import Member

READERS = {".tar": "tar", ".parquet": "parquet", ".json": "coco", ".mhd": "metaimage"}
"""File extension → module whose `list_members` lists a container; it is imported when it is used.

The arguments of the function are the source's root, the path of the container below it, and the name of the
member or column that contains the labels (None for the only one).
"""


def list_container(root: str, path: str, key: str | None) -> Contents:
    """Return the samples of the container at `path` below `root`, listed in a child process.

    `key` chooses among several members or columns. Raises `OSError`, and `UnreadableSample`, whose text is
    about the container.
    """
    return isolated.call(_list_container, roots.current_roots(), root, path, key)


def _list_container(allowed: Sequence[str] | None, root: str, path: str, key: str | None) -> Contents:
    try:
        with roots.restricted(allowed):
            reader = import_module(f"{__name__}.{READERS[PurePosixPath(path).suffix.lower()]}")
            contents: Contents = reader.list_members(root, path, key)
    except Exception as error:
        raise as_unreadable(error) from error
    if not contents.members:
        raise UnreadableSample("contains no label maps; choose another file, or exclude it with --pattern")
    return contents


def list_array_rows(root: str, path: str, counting: Counting) -> list[Member]:
    """Return the rows of the array at `path`, listed in a child process.

    Rows are its indices along the first axis, or its chunks.

    Raises `OSError`, and `UnreadableSample` for a file that is not an NPY, HDF5 or Zarr array.
    """
    return isolated.call(_list_array_rows, roots.current_roots(), root, path, counting)


def _list_array_rows(allowed: Sequence[str] | None, root: str, path: str, counting: Counting) -> list[Member]:
    from statsvc_workers.containers import arrays

    try:
        with roots.restricted(allowed):
            return arrays.list_rows(root, path, counting)
    except Exception as error:
        raise as_unreadable(error) from error


def fingerprint(root: str, member: Member) -> tuple[int, int, int]:
    """Return (size, mtime_ns, ctime_ns) of all files that a member depends on.

    Raises `OSError`, and `OutsideRoots`.
    """
    files = [os.path.join(root, file) for file in member.files]  # noqa: PTH118
    if member.in_folder:
        return files_stamp(files).fingerprint
    own_file = os.path.join(root, member.file)  # noqa: PTH118
    return combined(stamp_of(roots.status(file)) for file in (own_file, *files)).fingerprint
