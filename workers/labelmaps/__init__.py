"""Label maps: bytes to arrays of raw ids, one module a format.

Every damaged, foreign or oversized file ends in `UnreadableSample`, whose text says what is wrong and
what to do; readers check the declared size before they decode, and hand out chunks of bounded size.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from workers.labelmaps import npy, png, tiff
from workers.labelmaps.base import COPY_AGAIN, LabelMap, Mode, Peek, looks_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from workers.labelmaps.base import Histogram

__all__ = ["FORMATS", "REVISION", "LabelMap", "Mode", "open_label_map", "peek"]

REVISION = 1
"""Rises whenever a file would be counted differently, so that rows of before are not reused."""

FORMATS: dict[str, ModuleType] = {".png": png, ".npy": npy, ".tif": tiff, ".tiff": tiff}
"""File extension in lower case → the module that reads it."""

HEAD_BYTES = 64


def open_label_map(name: str, file: BinaryIO, max_pixels: int) -> LabelMap:
    """Open the label map in `file` (seekable), whose format the extension of `name` tells.

    Reads the header; the pixels are decoded as `chunks` is iterated, so `file` stays open until then.

    Raises `UnreadableSample` here or while iterating. An `OSError` of the file system passes through.
    """
    try:
        label_map = _open(name, file, max_pixels)
    except Exception as error:
        raise _refusal(error) from error
    label_map.chunks = _guarded(label_map.chunks)
    if label_map.histogram is not None:
        label_map.histogram = partial(_guarded_call, label_map.histogram)
    return label_map


def peek(name: str, file: BinaryIO) -> Peek | None:
    """Return what the header of a file says, or None where it cannot be read."""
    try:
        module = _module(name)
        size, head = _head(file)
        found: Peek | None = module.peek(file, size) if head.startswith(module.MAGIC) else None
    except Exception:  # noqa: BLE001 - a file that cannot be read is reported when it is counted
        return None
    return found


def _open(name: str, file: BinaryIO, max_pixels: int) -> LabelMap:
    module = _module(name)
    size, head = _head(file)
    if not head.startswith(module.MAGIC):
        raise UnreadableSample(f"is no {module.NAME}: it {looks_like(head)}")
    label_map: LabelMap = module.open_label_map(file, size, max_pixels)
    return label_map


def _module(name: str) -> ModuleType:
    extension = PurePosixPath(name).suffix.lower()
    if extension not in FORMATS:
        lossy = "; JPEG is lossy, so it cannot hold labels" if extension in {".jpg", ".jpeg"} else ""
        known = ", ".join(sorted(FORMATS))
        raise UnreadableSample(
            f"has the extension {extension!r}, which is not read{lossy}; convert it to one of {known}, "
            "or leave it out with --pattern"
        )
    return FORMATS[extension]


def _head(file: BinaryIO) -> tuple[int, bytes]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return size, head


def _guarded(chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    try:
        yield from chunks
    except Exception as error:
        raise _refusal(error) from error


def _guarded_call(histogram: Callable[[], Histogram]) -> Histogram:
    try:
        return histogram()
    except Exception as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> Exception:
    """Return what a failure while decoding means: the one place where decoders' exceptions are read."""
    if isinstance(error, (UnreadableSample, MemoryError)):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return error  # the file system's, not a decoder's
    reason = " ".join(str(error).split())[:200]
    return UnreadableSample(f"cannot be decoded ({type(error).__name__}: {reason}); {COPY_AGAIN}")
