"""WebDataset shards: tar files whose members `000017.jpg`, `000017.seg.png` are parts of one sample.

Which part is the label map, `key` says (`seg.png`), or the only extension that can be one. Members are read
in place, so a shard must not be compressed as a whole. Format: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from typing import TYPE_CHECKING

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import FORMATS, extension
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import reading

if TYPE_CHECKING:
    from typing import BinaryIO

BLOCK = 512


def listed(root: str, path: str, key: str | None) -> tuple[list[Member], tuple[str, ...]]:
    """Return the label maps of a shard. Raises `UnreadableSample`."""
    with reading(root, path) as file:
        found = _index(file)
    parts = Counter(_part(name) for name in found)
    if key is None:
        readable = [part for part in parts if extension(f"x.{part}") in FORMATS]
        if not readable:
            there = ", ".join(list(parts)[:8]) or "nothing"
            raise UnreadableSample(f"holds no label maps, only {there}; leave it out with --pattern")
        if len(readable) > 1:
            raise UnreadableSample(
                f"holds several kinds of file ({', '.join(sorted(readable)[:8])}); choose one with --key"
            )
        key = readable[0]
    elif key not in parts:
        raise UnreadableSample(f"holds no .{key}, only {', '.join(list(parts)[:8])}; choose one with --key")
    members = [
        Member(f"{path}/{name}", path, "range", place, place[1])
        for name, place in found.items()
        if _part(name) == key
    ]
    return members, ()


def _part(name: str) -> str:
    """Return what follows the first dot of the file name, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _index(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return name → (offset, length) of the files in a tar."""
    found: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if not info.isreg() or info.issparse():
                    continue
                name = info.name.removeprefix("./").strip("/")
                hidden = any(part.startswith(".") for part in name.split("/"))
                if name and not hidden and name.isprintable():
                    found[name] = (info.offset_data, info.size)
    except tarfile.TarError as error:
        raise UnreadableSample(
            f"is no tar file, or is damaged ({error}); {COPY_AGAIN}, uncompressed as a whole"
        ) from None
    file.seek(end)
    # A tar ends with blocks of zeros; tarfile takes one that ends after some member for whole.
    if file.read(BLOCK) != bytes(BLOCK):
        raise UnreadableSample(f"is truncated after {len(found)} files; {COPY_AGAIN}")
    return found
