"""Verify the arrays of a small version without NumPy, whose import takes longer than that."""

from __future__ import annotations

import math
import sys
from array import array
from typing import TYPE_CHECKING

import xxhash

from statsvc.errors import StoreError
from statsvc.store.versions.stored_bytes import TEXT, StoredBytes, check_group, open_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.versions.location import Location

MAX_VALUES = 1 << 20
"""Most values of `counts` that are added up here; NumPy is faster for more."""

SAMPLE_TYPES: dict[str, tuple[str, str | int]] = {
    "path": (TEXT, "\0"),
    "size": ("int64", -1),
    "mtime_ns": ("int64", -1),
    "ctime_ns": ("int64", -1),
    "etag": (TEXT, "\0"),
    "content": ("uint64", 0),
    "height": ("int64", -1),
    "width": ("int64", -1),
    "pixels": ("int64", -1),
    "mode": ("uint8", 255),
    "status": ("uint8", 255),
    "error": (TEXT, "\0"),
}
"""Per-sample arrays: data type and fill value. A lost chunk reads as the fill value, which is never valid."""

_CLASS_TYPES = dict.fromkeys(("class_id", "class_pixels", "class_images", "cooccurrence"), "int64")
_TYPES = {name: data_type for name, (data_type, _) in SAMPLE_TYPES.items()} | _CLASS_TYPES


def is_intact(group: Location, digests: Mapping[str, str]) -> bool:
    """Whether a version's arrays are as they were written; False if only `Version.verify` can say it.

    That is the case if something is damaged or cannot be read, and for versions that have more than
    `MAX_VALUES` counts, are imported totals, or contain objects or histograms on a grid.

    group    location of the group that contains the arrays
    digests  digest of each array except `counts`, from the catalog
    """
    if digests.keys() != _TYPES.keys():
        return False
    try:
        check_group(group)
        counts = open_array(group, "counts", StoredBytes)
        if counts.data_type != "int64" or math.prod(counts.shape) > MAX_VALUES:
            return False
        values: dict[str, bytes] = {}
        for name, data_type in _TYPES.items():
            stored = open_array(group, name, StoredBytes)
            values[name] = stored.read_bytes()
            if stored.data_type != data_type or xxhash.xxh3_128_hexdigest(values[name]) != digests[name]:
                return False
        class_pixels, pixels = int64(values["class_pixels"]), int64(values["pixels"])
        shape = (len(pixels), len(class_pixels))
        return counts.shape == shape and _adds_up(counts.read_bytes(), pixels, class_pixels)
    except (OSError, StoreError, ValueError, TypeError, AttributeError):
        return False


def _adds_up(data: bytes, pixels: array[int], class_pixels: array[int]) -> bool:
    """Whether counts, encoded row by row, are not negative and have these sums of rows and columns."""
    columns = len(class_pixels)
    counts = int64(data)
    rows = zip(*[iter(counts)] * columns, strict=True)
    return (
        data[7::8].isascii()  # the first bit of the last byte is the sign
        and list(map(sum, rows)) == pixels.tolist()
        and [sum(counts[column::columns]) for column in range(columns)] == class_pixels.tolist()
    )


def int64(data: bytes) -> array[int]:
    """Return little-endian numbers of 8 bytes."""
    values = array("q", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
