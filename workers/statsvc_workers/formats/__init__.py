"""Label maps: bytes to arrays of raw ids, one module a format.

Every damaged, foreign or oversized file ends in `UnreadableSample`, whose text says what is wrong and
what to do; readers check the declared size before they decode, and hand out chunks of bounded size.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import hdf5, images, nifti, npy, npz, png, tiff
from statsvc_workers.formats.base import COPY_AGAIN, LabelMap, Mode, Peek, looks_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from statsvc_workers.formats.base import Histogram

__all__ = ["FORMATS", "REVISION", "LabelMap", "Mode", "extension", "open_label_map", "peek"]

REVISION = 2
"""Rises whenever a file would be counted differently, so that rows of before are not reused."""

FORMATS: dict[str, ModuleType] = {
    ".png": png,
    ".npy": npy,
    ".npz": npz,
    ".tif": tiff,
    ".tiff": tiff,
    ".nii": nifti,
    ".nii.gz": nifti,
    ".bmp": images,
    ".gif": images,
    ".webp": images,
    ".h5": hdf5,
    ".hdf5": hdf5,
}
"""File extension in lower case → the module that reads it.

A module has NAME, MAGIC (first bytes), `open_label_map(file, size, max_pixels)` and `peek(file, size)`. Where
it can read colours, it has also `open_colours`, like the first but with chunks of colours 0xRRGGBB; where one
file may hold several arrays, KEYED, and then `open_label_map` takes a key as well.
"""

HEAD_BYTES = 64


def extension(name: str) -> str:
    """Return the extension of a name in lower case, `.nii.gz` as one."""
    # By hand: a path object for each of a million files takes longer than listing them.
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    suffix = base[dot:].lower() if 0 < dot < len(base) - 1 else ""
    return ".nii.gz" if suffix == ".gz" and base.lower().endswith(".nii.gz") else suffix


def open_label_map(
    name: str, file: BinaryIO, max_pixels: int, *, key: str | None = None, colours: bool = False
) -> LabelMap:
    """Open the label map in `file` (seekable), whose format the extension of `name` tells.

    Reads the header; the pixels are decoded as `chunks` is iterated, so `file` stays open until then.
    `key` names an array of a file that may hold several; with `colours`, ids are colours 0xRRGGBB.

    Raises `UnreadableSample` here or while iterating. An `OSError` of the file system passes through.
    """
    try:
        label_map = _open(name, file, max_pixels, key, colours)
    except Exception as error:
        raise refusal(error) from error
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


def _open(name: str, file: BinaryIO, max_pixels: int, key: str | None, colours: bool) -> LabelMap:
    module = _module(name)
    size, head = _head(file)
    if not head.startswith(module.MAGIC):
        raise UnreadableSample(f"is no {module.NAME}: it {looks_like(head)}")
    if colours:
        if not hasattr(module, "open_colours"):
            raise UnreadableSample(
                f"is a {module.NAME}, which is not read as colours; leave --rule out if it holds class ids"
            )
        coloured: LabelMap = module.open_colours(file, size, max_pixels)
        return coloured
    more = (key,) if getattr(module, "KEYED", False) else ()
    label_map: LabelMap = module.open_label_map(file, size, max_pixels, *more)
    return label_map


def _module(name: str) -> ModuleType:
    suffix = extension(name)
    if suffix not in FORMATS:
        lossy = "; JPEG is lossy, so it cannot hold labels" if suffix in {".jpg", ".jpeg"} else ""
        known = ", ".join(sorted(FORMATS))
        raise UnreadableSample(
            f"has the extension {suffix!r}, which is not read{lossy}; convert it to one of {known}, "
            "or leave it out with --pattern"
        )
    return FORMATS[suffix]


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
        raise refusal(error) from error


def _guarded_call(histogram: Callable[[], Histogram]) -> Histogram:
    try:
        return histogram()
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception) -> Exception:
    """Return what a failure while decoding means: the one place where decoders' exceptions are read."""
    if isinstance(error, (UnreadableSample, MemoryError)):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return error  # the file system's, not a decoder's
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return UnreadableSample(
            f"needs {package}, which is not installed: pip install 'statsvc[formats]', then scan again"
        )
    reason = " ".join(str(error).split())[:200]
    return UnreadableSample(f"cannot be decoded ({type(error).__name__}: {reason}); {COPY_AGAIN}")
