"""NPZ label maps: one array of a zip archive, streamed; `key` names it where there are several.

Format: https://numpy.org/doc/stable/reference/generated/numpy.savez.html.
"""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import npy
from statsvc_workers.formats.base import COPY_AGAIN, LabelMap, Peek

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

NAME = "NumPy archive"
MAGIC = b"PK"
KEYED = True


def open_label_map(file: BinaryIO, size: int, max_pixels: int, key: str | None) -> LabelMap:
    """Read the header of the array `key`, or of the only one; zip's checksum is checked at its end.

    Raises `UnreadableSample` as for NPY, and where it is not clear which array is meant.
    """
    del size
    stream, length = _member(file, key)
    label_map = npy.open_label_map(stream, length, max_pixels)
    label_map.chunks = _to_the_end(label_map.chunks, stream)  # type: ignore[arg-type]
    return label_map


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the header of the only array says."""
    del size
    stream, length = _member(file, None)
    found = npy.peek(stream, length)
    return Peek(f"{found.text} in an archive", found.colour)


def _member(file: BinaryIO, key: str | None) -> tuple[BinaryIO, int]:
    """Return the array as a stream with its length in bytes, at the start."""
    archive = zipfile.ZipFile(file)
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    if key is None and len(members) != 1:
        there = ", ".join(list(members)[:8]) or "none"
        raise UnreadableSample(f"holds {len(members)} arrays ({there}); choose one with --key")
    name = next(iter(members)) if key is None else key
    if name not in members:
        there = ", ".join(list(members)[:8]) or "none"
        raise UnreadableSample(f"holds no array {name!r}, only {there}; choose one with --key")
    info = members[name]
    stream: IO[bytes] = archive.open(info)
    if stream.read(len(npy.MAGIC)) != npy.MAGIC:
        raise UnreadableSample(f"holds no NumPy array under {name!r}; {COPY_AGAIN}")
    stream.seek(0)
    return cast("BinaryIO", stream), info.file_size


def _to_the_end(chunks: Iterator[NDArray[np.generic]], stream: BinaryIO) -> Iterator[NDArray[np.generic]]:
    """Yield the chunks, then read what is left: zipfile compares the checksum at the end of a member."""
    yield from chunks
    while stream.read(1 << 20):
        pass
