"""Containers: one file that holds many label maps, listed into `Member`s when a source is listed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from workers.containers import coco, parquet, tar
from workers.opened import combined, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.members import Member

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
    return PurePosixPath(path).suffix.lower() in extensions


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
        raise UnreadableSample(
            f"needs {error.name}, which is not installed: pip install 'statsvc[formats]', then scan again"
        ) from error
    if not members:
        raise UnreadableSample("lists no label maps; name another file, or leave it out with --pattern")
    return Contents(members, names)


def fingerprint(root: str, member: Member) -> tuple[int, int, int]:
    """Return size, mtime and ctime of the files that a member depends on. Raises `OSError`."""
    files = [member.file, member.sidecar] if member.sidecar else [member.file]
    stamps = [stamp_of(os.stat(os.path.join(root, file))) for file in files]  # noqa: PTH116, PTH118
    return combined(stamps).fingerprint
