"""PNG files of any color type, bit depth and row filter, written byte by byte."""

from __future__ import annotations

import zlib

import numpy as np

GRAY, PALETTE = 0, 3
"""Color types of PNG."""
MIXED = 5
"""Pseudo filter type: each row has a random filter type 0 … 4."""


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(color_type: int, depth: int, width: int, rows: bytes, height: int) -> bytes:
    """Return a PNG file.

    rows  for each row a filter type and the filtered bytes
    """
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, color_type, 0, 0, 0))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", bytes(3 << depth)) if color_type == PALETTE else b"",
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


def filtered_rows(rng: np.random.Generator, height: int, row: int, kind: int, zeros: float) -> bytes:
    """Return filtered rows. Most bytes are zero, as in label maps; any bytes are a valid image.

    row    bytes per row
    kind   filter type 0 … 4, or `MIXED`
    zeros  share of bytes that are zero
    """
    rows = rng.integers(0, 256, (height, 1 + row), dtype=np.uint8)
    rows[rng.random(rows.shape) < zeros] = 0
    rows[rng.random(height) < zeros / 2, 1:] = 0
    rows[:, 0] = rng.integers(0, 5, height) if kind == MIXED else kind
    return rows.tobytes()
