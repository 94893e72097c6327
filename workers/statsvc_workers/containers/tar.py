"""WebDataset shards: tar files whose members `000017.jpg` and `000017.seg.png` belong to one sample.

The label maps have the extension `key` (such as `seg.png`), or else the only extension of a label map format.
Members are read in place, so a shard must not be compressed as a whole.
Format: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from typing import BinaryIO, cast

from statsvc.common.plurals import plural
from statsvc.errors import UnreadableSample
from statsvc_workers.containers.contents import Contents
from statsvc_workers.formats import FORMATS, extension
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import open_bytes

BLOCK = 512
"""Bytes of a tar block."""

MAX_HEADER_BYTES = 1 << 20
"""Largest header; an extended header contains a path and attributes."""

MAX_FILES = 1 << 22
"""Most files of a shard."""

LISTED_EXTENSIONS = 8
"""Extensions that an error message lists."""


def list_members(root: str, path: str, key: str | None) -> Contents:
    """Return the label maps of a shard. Raises `UnreadableSample`."""
    with open_bytes(root, path) as file:
        ranges = _index(file)
    if key is None or key not in map(_full_extension, ranges):
        key = _only_extension(Counter(map(_full_extension, ranges)), key)
    members = [
        Member(f"{path}/{name}", path, "range", (offset, length), length)
        for name, (offset, length) in ranges.items()
        if _full_extension(name) == key
    ]
    return Contents(members)


def _only_extension(extensions: Counter[str], key: str | None) -> str:
    """Return the only extension of a label map format. Raises `UnreadableSample`, also for a missing key."""
    listed = ", ".join(list(extensions)[:LISTED_EXTENSIONS]) or "nothing"
    if key is not None:
        raise UnreadableSample(f"contains no .{key} files, only {listed}; choose one with --key")
    readable = [name for name in extensions if extension(f"x.{name}") in FORMATS]
    if not readable:
        raise UnreadableSample(f"contains no label maps, only {listed}; exclude it with --pattern")
    if len(readable) > 1:
        listed = ", ".join(sorted(readable)[:LISTED_EXTENSIONS])
        raise UnreadableSample(f"contains several kinds of file ({listed}); choose one with --key")
    return readable[0]


def _full_extension(name: str) -> str:
    """Return the part of a file name after its first dot, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


class _Headers:
    """A tar file of which only headers are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_HEADER_BYTES:
            raise UnreadableSample(f"has a header of {count} bytes; {COPY_AGAIN}")
        return self._file.read(count)


def _index(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return name → (offset, length) of the files in a tar."""
    ranges: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Headers(file)), mode="r:") as archive:
            position = -1
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # they need more memory than ranges
                # A negative size leads back to an earlier header, again and again.
                if info.size < 0 or info.offset <= position or len(ranges) > MAX_FILES:
                    raise UnreadableSample(f"is damaged after {plural(len(ranges), 'file')}; {COPY_AGAIN}")
                position = info.offset
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if not info.isreg() or info.issparse():
                    continue
                name = info.name.removeprefix("./").strip("/")
                hidden = any(part.startswith(".") for part in name.split("/"))
                if name and not hidden and name.isprintable():
                    ranges[name] = (info.offset_data, info.size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if isinstance(error, UnreadableSample):
            raise
        raise UnreadableSample(
            f"is not a valid tar file ({error}); {COPY_AGAIN}, without compressing the tar file as a whole"
        ) from None
    file.seek(end)
    # A tar file ends with blocks of zeros; tarfile accepts a file that was cut off between two members.
    if file.read(BLOCK) != bytes(BLOCK):
        raise UnreadableSample(f"is truncated after {plural(len(ranges), 'file')}; {COPY_AGAIN}")
    return ranges
