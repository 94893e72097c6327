"""Label map files byte by byte, valid and damaged: an independent PNG writer, and ways to damage a file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows(array: NDArray[Any], depth: int) -> bytes:
    """Return the filtered (type None), packed rows of an image [H, W] or [H, W, channels]."""
    filtered = b""
    for row in array.reshape(len(array), -1):
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row.astype(np.uint8)[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            packed = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        filtered += b"\0" + packed
    return filtered


def png(
    array: NDArray[Any],
    depth: int = 8,
    color_type: int = GRAY,
    interlaced: bool = False,
    stream: Callable[[bytes], bytes] = zlib.compress,
    extra: bytes = b"",
    idat: int = 1 << 30,
) -> bytes:
    """Return a PNG of an array [H, W] or [H, W, channels].

    stream  compresses the filtered rows
    extra   chunks before the image data
    idat    maximum number of bytes of an IDAT chunk
    """
    height, width = array.shape[:2]
    if interlaced:
        passes = [array[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        raw = b"".join(rows(image, depth) for image in passes if image.size)
    else:
        raw = rows(array, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(3 * (1 << min(depth, 8)))) if color_type == PALETTE else b""
    data = stream(raw)
    chunks = [chunk(b"IDAT", data[start : start + idat]) for start in range(0, len(data), idat)]
    return SIGNATURE + chunk(b"IHDR", header) + palette + extra + b"".join(chunks) + chunk(b"IEND", b"")


def label_png(seed: int = 0, shape: tuple[int, int] = (24, 32), classes: int = 5) -> bytes:
    """Return an 8-bit gray PNG of random class ids."""
    return png(np.random.default_rng(seed).integers(0, classes, shape))


def write_label(path: Path, array: NDArray[Any]) -> Path:
    """Write an 8-bit gray PNG, and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.asarray(array)))
    return path


def age(path: Path, seconds: float = 3600) -> None:
    """Set the modification time back. The change time cannot be set: it becomes the current time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


def truncated(data: bytes, keep: float = 0.6) -> bytes:
    """Return the beginning of a file."""
    return data[: int(len(data) * keep)]


def flipped(data: bytes, bit: int | None = None) -> bytes:
    """Return the file with one bit changed, by default in the middle."""
    bit = len(data) * 4 if bit is None else bit
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def npy(array: NDArray[Any]) -> bytes:
    """Return the array as NPY."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    """Return the array as TIFF, written by tifffile with `options`."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def damaged_files() -> dict[str, tuple[bytes, str]]:
    """Return {name: (content, part of the error message)} with one damaged file of each kind."""
    valid = label_png(shape=(64, 64), classes=7)
    values = np.arange(5000).reshape(50, 100)
    return {
        "truncated.png": (truncated(valid), "truncated"),
        "flipped.png": (flipped(valid), "checksum"),
        "zero.png": (b"", "empty (0 bytes)"),
        "zeros.png": (bytes(4096), "zero bytes only"),
        "text.png": (b"see the other folder\nfor the labels\n", "text file"),
        "rgb.png": (
            png(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), color_type=RGB),
            "color-coded (RGB",
        ),
        "float.tif": (tiff(np.full((8, 8), 0.5, np.float32)), "0.5, which is not an integer"),
        "instances.png": (png(values, depth=16), "more than 4096"),
    }
