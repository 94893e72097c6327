"""Good and bad label map files for tests: a small PNG writer of its own, and ways to damage what it wrote."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows(array: NDArray[Any], depth: int) -> bytes:
    """Return the filtered (type None), packed rows of an image [H, W] or [H, W, channels]."""
    out = b""
    for row in array.reshape(len(array), -1):
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row.astype(np.uint8)[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            packed = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        out += b"\0" + packed
    return out


def png(
    array: NDArray[Any],
    depth: int = 8,
    colour: int = GREY,
    interlaced: bool = False,
    stream: Callable[[bytes], bytes] = zlib.compress,
    extra: bytes = b"",
    idat: int = 1 << 30,
) -> bytes:
    """Return a PNG of `array`; `stream` compresses its rows, `extra` comes before the data."""
    height, width = array.shape[:2]
    if interlaced:
        passes = [array[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        raw = b"".join(rows(part, depth) for part in passes if part.size)
    else:
        raw = rows(array, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(3 * (1 << min(depth, 8)))) if colour == PALETTE else b""
    data = stream(raw)
    parts = [chunk(b"IDAT", data[at : at + idat]) for at in range(0, len(data), idat)]
    return SIGNATURE + chunk(b"IHDR", header) + palette + extra + b"".join(parts) + chunk(b"IEND", b"")


def label_png(seed: int = 0, shape: tuple[int, int] = (24, 32), classes: int = 5) -> bytes:
    """Return an 8-bit gray PNG of random class ids."""
    return png(np.random.default_rng(seed).integers(0, classes, shape))


def write_label(path: Path, array: NDArray[Any]) -> Path:
    """Write an 8-bit gray PNG, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.asarray(array)))
    return path


def age(path: Path, seconds: float = 3600) -> None:
    """Set the modification time back. The change time cannot be set; it is now."""
    import os

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


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Return name → (content, a word of the message) of one bad file of every sort."""
    good = label_png(shape=(64, 64), classes=7)
    values = np.arange(5000).reshape(50, 100)
    return {
        "truncated.png": (truncated(good), "truncated"),
        "flipped.png": (flipped(good), "checksum"),
        "zero.png": (b"", "empty (0 bytes)"),
        "zeros.png": (bytes(4096), "zero bytes only"),
        "text.png": (b"see the other folder\nfor the labels\n", "text file"),
        "rgb.png": (png(np.zeros((8, 8, 3), np.uint8), colour=RGB), "colour-coded (RGB"),
        "float.tif": (tiff(np.zeros((8, 8), np.float32)), "float32"),
        "instances.png": (png(values, depth=16), "more than 4096"),
    }
