"""Zarr label maps, version 2 and 3: an array, or the only one of a group; of OME-Zarr labels level 0.

Read chunk by chunk with zarr-python; a chunk that is missing is the fill value. Formats:
https://zarr-specs.readthedocs.io/, https://ngff.openmicroscopy.org/.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from statsvc.errors import UnreadableSample
from workers.labelmaps.base import (
    COPY_AGAIN,
    LabelMap,
    Mode,
    check_pixels,
    colour_coded,
    whole_numbers,
)
from workers.labelmaps.blocks import blocks, check_block, is_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MARKS = frozenset({".zarray", ".zgroup", "zarr.json"})
"""Files that make a folder a Zarr array or group."""


def open_folder(path: str, max_pixels: int, key: str | None) -> LabelMap:
    """Open the array `key` of the Zarr folder at `path`, or the one that it means.

    Raises `UnreadableSample` for other than whole numbers, and where several arrays could be meant.
    """
    from workers.labelmaps import refusal

    try:
        array = _array(_node(path), key)
        return _label_map(array, max_pixels)
    except Exception as error:
        raise refusal(error) from error


def _label_map(array: Any, max_pixels: int) -> LabelMap:
    shape, dtype = array.shape, array.dtype
    if getattr(dtype, "kind", "?") not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"holds {dtype} in {array.name}, not class ids; choose an array with --key")
    if is_colour(shape, dtype):
        raise colour_coded(f"{array.name} of shape {shape}, uint8")
    axes = [length for length in shape if length != 1] or [1]
    width, height = axes[-1], math.prod(axes[:-1])
    check_pixels(height, width, max_pixels)
    check_block(array.chunks, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _chunks(array))


def _node(path: str) -> Any:
    import zarr

    # Read-only, and never by consolidated metadata, which may be older than the arrays.
    return zarr.open(zarr.storage.LocalStore(path, read_only=True), mode="r")


def _array(node: Any, key: str | None) -> Any:
    import zarr

    if key is not None:
        try:
            node = node[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UnreadableSample(f"holds no {key!r}; {_there(node)}: choose one with --key") from None
    for _ in range(8):
        if isinstance(node, zarr.Array):
            return node
        inner = _meant(node)
        if inner is None:
            raise UnreadableSample(f"holds several arrays or none; {_there(node)}: choose one with --key")
        try:
            node = node[inner]
        except KeyError:
            raise UnreadableSample(f"lacks the array {inner!r} that it names; {COPY_AGAIN}") from None
    raise UnreadableSample("holds groups in groups in groups; choose an array with --key")


def _meant(group: Any) -> str | None:
    """Return the member of a group that holds the labels: by OME's metadata, or the only one."""
    attributes = dict(group.attrs)
    attributes |= attributes.get("ome") or {}
    # An image with labels beside it: the labels are meant, not the image.
    members = list(group.keys())
    if "labels" in members:
        return "labels"
    if scales := attributes.get("multiscales"):
        return str(scales[0]["datasets"][0]["path"])
    labels = attributes.get("labels")
    if isinstance(labels, list) and len(labels) == 1:
        return str(labels[0])
    return members[0] if len(members) == 1 else None


def _there(node: Any) -> str:
    names = ", ".join(sorted(node.keys())[:8]) if hasattr(node, "keys") else ""
    return f"there are {names}" if names else "it is an array by itself"


def _chunks(array: Any) -> Iterator[NDArray[Any]]:
    from workers.labelmaps import refusal

    try:
        for place in blocks(array.shape, array.chunks):
            part = array[place]
            yield whole_numbers(part) if part.dtype.kind == "f" else part
    except Exception as error:
        raise refusal(error) from error
