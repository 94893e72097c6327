"""Zarr label maps, version 2 and 3: an array, or the only one of a group; of OME-Zarr labels level 0.

Read chunk by chunk with zarr-python; a chunk that is missing is the fill value. Formats:
https://zarr-specs.readthedocs.io/, https://ngff.openmicroscopy.org/.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.object_urls import is_url
from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import COPY_AGAIN, LabelMap, Mode, check_pixels, colour_coded, whole_numbers
from statsvc_workers.formats.blocks import blocks_of, check_block, is_colour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

MARKS = frozenset({".zarray", ".zgroup", "zarr.json"})
"""Files that make a folder a Zarr array or group."""


def open_folder(path: str, max_pixels: int, key: str | None) -> LabelMap:
    """Open the array `key` of the Zarr folder at `path`, or the one that it means.

    Raises `UnreadableSample` for other than whole numbers, and where several arrays could be meant.
    """
    from statsvc_workers.formats import refusal

    try:
        array = _array(_node(path), key)
        return _label_map(array, max_pixels)
    except Exception as error:
        raise refusal(error) from error


def _label_map(array: Any, max_pixels: int | None) -> LabelMap:
    """Return an array as a label map; without `max_pixels`, its size does not matter."""
    shape, dtype = array.shape, array.dtype
    if getattr(dtype, "kind", "?") not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"holds {dtype} in {array.name}, not class ids; choose an array with --key")
    if is_colour(shape, dtype):
        raise colour_coded(f"{array.name} of shape {shape}, uint8")
    axes = [length for length in shape if length != 1] or [1]
    width, height = axes[-1], math.prod(axes[:-1])
    if max_pixels is not None:
        check_pixels(height, width, max_pixels)
        check_block(array.chunks, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _chunks(array, tuple(slice(0, length) for length in shape)))


def layout(
    path: str, key: str | None
) -> tuple[tuple[int, ...], tuple[int, ...], int, str, Callable[..., str]]:
    """Return an array's shape, its chunks as they are stored, bytes of an element, and where it is.

    The last two are its path below `path`, and a function from a chunk's place in the grid to its file's.
    Of a sharded array a chunk is a shard: a file.
    """
    array = _array(_node(path), key)
    grid = array.shards or array.chunks
    return array.shape, grid, array.dtype.itemsize, array.path, array.metadata.encode_chunk_key


def open_part(
    path: str, max_pixels: int, key: str | None, region: tuple[slice, ...], files: Sequence[str]
) -> LabelMap:
    """Open a region of an array, which lies in these chunk files; where none is there, it is not decoded."""
    from statsvc_workers.formats import refusal

    try:
        array = _array(_node(path), key)
        whole = _label_map(array, None)
        shape = [place.stop - place.start for place in region]
        width = ([length for length in shape if length != 1] or [1])[-1]
        height = math.prod(shape) // max(1, width)
        check_pixels(height, width, max_pixels)
        check_block(array.chunks, max_pixels)
        if array.dtype.kind in "biu" and not any(is_url(path) or Path(file).exists() for file in files):
            histogram = partial(_filled, array.fill_value, height * width)
            return LabelMap(whole.mode, height, width, _chunks(array, region), histogram)
        return LabelMap(whole.mode, height, width, _chunks(array, region))
    except Exception as error:
        raise refusal(error) from error


def _filled(value: Any, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Version 2 may have no fill value; zarr-python then takes zero.
    return np.array([0 if value is None else int(value)], np.int64), np.array([pixels], np.int64)


def _node(path: str) -> Any:
    import zarr

    # Read-only, and never by consolidated metadata, which may be older than the arrays.
    store: Any = zarr.storage.LocalStore(path, read_only=True)
    if is_url(path):
        from statsvc_workers.samples.object_store import bucket

        store = zarr.storage.ObjectStore(bucket(path).store, read_only=True)
    return zarr.open(store, mode="r")


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


def _chunks(array: Any, region: tuple[slice, ...]) -> Iterator[NDArray[Any]]:
    from statsvc_workers.formats import refusal

    try:
        for place in blocks_of(region, array.chunks):
            part = array[place]
            yield whole_numbers(part) if part.dtype.kind == "f" else part
    except Exception as error:
        raise refusal(error) from error
