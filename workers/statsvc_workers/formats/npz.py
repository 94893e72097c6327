"""NPZ label maps: one array of a zip archive, streamed; `key` names it where the archive contains several.

Format: https://numpy.org/doc/stable/reference/generated/numpy.savez.html.
"""

from __future__ import annotations

import io
import zipfile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import npy
from statsvc_workers.formats.base import COPY_AGAIN, Format, LabelMap, Peek

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

NAME = "NumPy archive"
MAGIC = b"PK"

MAX_READ_BYTES = 1 << 26
"""Most bytes that are read in one step."""

LISTED_NAMES = 8
"""Arrays that an error message lists."""


def open_label_map(file: BinaryIO, _size: int, max_pixels: int, key: str | None = None) -> LabelMap:
    """Open the array `key`, or the only one; its zip checksum is verified at its end.

    Raises `UnreadableSample` as for NPY, and where the archive contains several arrays and `key` is None.
    """
    stream, length = _member(file, key)
    label_map = npy.open_label_map(stream, length, max_pixels)
    label_map.chunks = _read_to_the_end(label_map.chunks, stream)
    return label_map


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header of the only array says."""
    stream, length = _member(file, None)
    header = npy.peek(stream, length)
    return Peek(f"{header.text} in an archive", header.color)


def open_channels(file: BinaryIO, _size: int, max_pixels: int, key: str | None = None) -> LabelMap:
    """Open the channels of an array as `npy.open_channels` does."""
    stream, length = _member(file, key)
    label_map = npy.open_channels(stream, length, max_pixels)
    label_map.chunks = _read_to_the_end(label_map.chunks, stream)
    return label_map


def open_array(file: BinaryIO, _size: int, max_pixels: int, key: str | None = None) -> NDArray[Any]:
    """Read a whole array of numbers; its zip checksum is verified."""
    stream, length = _member(file, key)
    array = npy.open_array(stream, length, max_pixels)
    for _ in _read_to_the_end((), stream):
        pass
    return array


FORMAT = Format(NAME, (MAGIC,), open_label_map, peek, None, open_channels, open_array)


class _Bounded:
    """A zip file of which no part that is read in one step, such as the directory, is larger than a limit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        remaining = max(0, self._size - self._file.tell())
        length = remaining if count < 0 else min(count, remaining)
        if length > MAX_READ_BYTES:
            raise UnreadableSample(f"has a directory of {length} bytes; {COPY_AGAIN}")
        return self._file.read(length)


def _member(file: BinaryIO, key: str | None) -> tuple[BinaryIO, int]:
    """Return an array as a stream at its start, and its length in bytes."""
    archive = zipfile.ZipFile(cast("BinaryIO", _Bounded(file)))
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    names = ", ".join(list(members)[:LISTED_NAMES]) or "none"
    if key is None and len(members) != 1:
        raise UnreadableSample(f"contains {len(members)} arrays ({names}); choose one with --key")
    name = next(iter(members)) if key is None else key
    if name not in members:
        raise UnreadableSample(f"contains no array {name!r}, only {names}; choose one with --key")
    info = members[name]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # NumPy never writes them, and zipfile would expand a block of any size in one step.
        raise UnreadableSample(f"is compressed with method {info.compress_type}; save it with numpy.savez")
    stream: IO[bytes] = archive.open(info)
    if stream.read(len(npy.MAGIC)) != npy.MAGIC:
        raise UnreadableSample(f"stores something other than a NumPy array as {name!r}; {COPY_AGAIN}")
    stream.seek(0)
    return cast("BinaryIO", stream), info.file_size


def _read_to_the_end(chunks: Iterable[NDArray[Any]], stream: BinaryIO) -> Iterator[NDArray[Any]]:
    """Yield the chunks, then read the rest: zipfile verifies the checksum at the end of a member."""
    yield from chunks
    while stream.read(1 << 20):
        pass
