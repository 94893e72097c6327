"""Volumes whose voxels are stored from one byte on, x first: what NIfTI, NRRD and MetaImage share.

zlib-ng decompresses gzip piece by piece, many times as fast as zlib.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import COPY_AGAIN, LabelMap, Mode, long_axes, volume_of, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

PIECE_BYTES = 1 << 19
"""Bytes that are decompressed and counted in one step.

They fit into the second-level cache, and the allocator reuses their memory. With 4 MB, page faults took half
as long as decompressing.
"""

MARGIN = 1 << 27
"""Largest number of bytes decompressed before, and after, the voxels of a volume: 128 MB."""

TOLERANCE = 1e-3
"""Largest distance of a voxel from an integer that is rounded.

nibabel stores floats in an integer type with a scale, which makes 1.0000153 of 1; tools that read such labels
round them.
"""


def volume_map(
    shape: Sequence[int],
    chunks: Iterator[NDArray[Any]],
    meaning: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> LabelMap:
    """Return the label map of a volume (x, y, z, …) in storage order: width x, and height y·z·….

    chunks, meaning  as in `LabelMap`
    """
    layout: Literal["rows"] | None = None if long_axes(shape) is None else "rows"
    height, width = math.prod(shape[1:]), shape[0]
    volume = volume_of(shape[::-1])  # x is the last axis in storage order
    return LabelMap(
        Mode.ARRAY, height, width, chunks, None, meaning, axes=len(shape), layout=layout, volume=volume
    )


def check_stored(size: int, start: int, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise `UnreadableSample` if a file of `size` bytes lacks voxels, which begin at the byte `start`."""
    needed = start + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise UnreadableSample(
            f"is truncated: {size} of {needed} bytes for {tuple(shape)} {dtype.name}; {COPY_AGAIN}"
        )


def inflated(file: BinaryIO) -> BinaryIO:
    """Return the decompressed stream of a gzip file; reading it verifies the checksums."""
    from zlib_ng import gzip_ng

    return cast("BinaryIO", gzip_ng.GzipNGFile(fileobj=file))


def stored_voxels(
    stream: BinaryIO, start: int, voxels: int, dtype: np.dtype[Any], *, packed: bool, whole: bool
) -> Iterator[NDArray[Any]]:
    """Yield `voxels` values of a stream from the byte `start` on; with `whole`, as integers.

    packed  whether the stream is decompressed, so that reading it to its end verifies a checksum

    Raises `UnreadableSample` for a stream that is too short or damaged.
    """
    import gzip

    from zlib_ng import zlib_ng

    damaged: tuple[Any, ...] = (EOFError, zlib_ng.error, gzip.BadGzipFile)
    remaining = voxels
    try:
        stream.seek(start)
        while remaining:
            count = min(remaining, max(1, PIECE_BYTES // dtype.itemsize))
            data = stream.read(count * dtype.itemsize)
            if len(data) < count * dtype.itemsize:
                complete = voxels - remaining + len(data) // dtype.itemsize
                raise UnreadableSample(f"is truncated: {complete} of {voxels} voxels; {COPY_AGAIN}")
            chunk = np.frombuffer(data, dtype)
            yield whole_numbers(chunk, TOLERANCE) if whole and dtype.kind == "f" else chunk
            remaining -= count
        # Bytes after the voxels do not matter, but gzip's checksum is at their end.
        trailing = 0
        while packed and trailing <= MARGIN and (data := stream.read(1 << 20)):
            trailing += len(data)
    except damaged as error:
        raise UnreadableSample(
            f"is damaged: its compressed data ends early or is invalid ({error}); {COPY_AGAIN}"
        ) from None
