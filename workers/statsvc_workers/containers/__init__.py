"""Containers: one file that holds many label maps, listed into `Member`s when a source is listed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from statsvc_workers.containers import arrays, coco, parquet, tar
from statsvc_workers.formats import refusal
from statsvc_workers.samples.open_sample import combined, files_stamp, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.samples.members import Member

EXTENSIONS = (".tar", ".parquet", ".json")
"""Extensions of containers. JSON is looked into only where it is named, for most of it is something else."""

DETECTED = (".tar", ".parquet")


@dataclass(slots=True)
class Contents:
    """What a container lists.

    members      its samples
    class_names  names of the ids 0 … n−1 that it gives, empty where none
    """

    members: list[Member]
    class_names: tuple[str, ...] = field(default=())


def is_container(path: str, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    """Whether a path's extension is that of a container."""
    return path.lower().endswith(extensions)


def listed(root: str, path: str, key: str | None) -> Contents:
    """Return the samples of the container at `path` below `root`.

    `key` chooses among several members or columns. Raises `UnreadableSample`, whose text is about the
    container, and `OSError`.
    """
    read: dict[str, Callable[[str, str, str | None], tuple[list[Member], tuple[str, ...]]]] = {
        ".tar": tar.listed,
        ".parquet": parquet.listed,
        ".json": coco.listed,
    }
    try:
        members, names = read[PurePosixPath(path).suffix.lower()](root, path, key)
    except ModuleNotFoundError as error:
        raise refusal(error) from error
    if not members:
        raise UnreadableSample("lists no label maps; name another file, or leave it out with --pattern")
    return Contents(members, names)


def parts(root: str, path: str, counting: Counting) -> list[Member]:
    """Return the rows of the array at `path`: its indices along the first axis, or its chunks.

    Raises `UnreadableSample` for what is no array of NPY, HDF5 or Zarr, and `OSError`.
    """
    try:
        return arrays.listed(root, path, counting)
    except Exception as error:
        raise refusal(error) from error


def fingerprint(root: str, member: Member) -> tuple[int, int, int]:
    """Return size, mtime and ctime of the files that a member depends on. Raises `OSError`."""
    files = [os.path.join(root, file) for file in member.files]  # noqa: PTH118
    if member.in_folder:
        return files_stamp(files).fingerprint
    own = os.path.join(root, member.file)  # noqa: PTH118
    return combined(stamp_of(os.stat(file)) for file in (own, *files)).fingerprint  # noqa: PTH116
