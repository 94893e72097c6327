"""Zarr label maps, versions 2 and 3: an array, the only array of a group, or level 0 of OME-Zarr labels.

Arrays are read chunk by chunk with zarr-python; a missing chunk has the fill value. Formats:
https://zarr-specs.readthedocs.io/, https://ngff.openmicroscopy.org/.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.object_urls import is_url
from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    COPY_AGAIN,
    ColorCoded,
    LabelMap,
    Mode,
    as_unreadable,
    check_pixels,
    color_coded,
    long_axes,
    size_without_unit_axes,
    volume_of,
    whole_numbers,
)
from statsvc_workers.formats.blocks import (
    as_volume,
    blocks_of,
    check_chunk_size,
    is_color,
    move_corner,
    region_shape,
)
from statsvc_workers.formats.stacks import classes_advice, reject_classes
from statsvc_workers.kernels.tiles import Corner
from statsvc_workers.samples import roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.formats.blocks import Region

MAX_NESTED_GROUPS = 8
"""Groups that are followed down to an array."""

LISTED_NAMES = 8
"""Arrays and groups that an error message lists."""


def open_folder(path: str, max_pixels: int, key: str | None) -> LabelMap:
    """Open the array `key` of the Zarr folder at `path`, or the only array that can contain the labels.

    Raises `UnreadableSample` for values that are not whole numbers, and where several arrays are possible.
    """
    read = partial(read_array, path, max_pixels, key)
    try:
        array = _checked(_array(_node(path), key))
        height, width = size_without_unit_axes(array.shape)
        check_pixels(height, width, max_pixels)
        check_chunk_size(array.chunks, max_pixels)
        whole = tuple(slice(0, length) for length in array.shape)
        corner = None if long_axes(array.shape) is None else Corner()
        chunks = _chunks(array, whole, corner)
        if len(array.shape) > 2:
            chunks = reject_classes(chunks, read)
        return LabelMap(Mode.ARRAY, height, width, chunks, layout=corner, volume=volume_of(array.shape))
    except ColorCoded as error:
        if advice := classes_advice(read):
            raise UnreadableSample(advice) from error
        raise
    except Exception as error:
        raise as_unreadable(error) from error


def read_array(path: str, max_pixels: int, key: str | None) -> NDArray[Any]:
    """Return the values of the array that `open_folder` opens, with fractions."""
    try:
        array = _checked(_array(_node(path), key), allow_color=True)
        check_pixels(array.size, 1, max_pixels)
        check_chunk_size(array.chunks, max_pixels)
        values: NDArray[Any] = array[...]
    except Exception as error:
        raise as_unreadable(error) from error
    return values


def layout(
    path: str, key: str | None
) -> tuple[tuple[int, ...], tuple[int, ...], int, str, Callable[..., str]]:
    """Return how an array is stored.

    The values are its shape; the shape of a chunk file (of a sharded array, a shard); the bytes of an
    element; its path below `path`; and a function from the grid position of a chunk to the path of its file.
    """
    array = _array(_node(path), key)
    grid = array.shards or array.chunks
    return array.shape, grid, array.dtype.itemsize, array.path, array.metadata.encode_chunk_key


def open_part(path: str, max_pixels: int, key: str | None, region: Region, files: Sequence[str]) -> LabelMap:
    """Open a region of an array, stored in the chunk `files`; without any of them it is not decoded."""
    try:
        array = _checked(_array(_node(path), key))
        height, width = size_without_unit_axes(region_shape(region))
        check_pixels(height, width, max_pixels)
        check_chunk_size(array.chunks, max_pixels)
        histogram = None
        if array.dtype.kind in "biu" and not any(is_url(path) or _exists(file) for file in files):
            histogram = partial(_fill_value_histogram, array.fill_value, height * width)
        corner = None if long_axes(array.shape) is None else Corner()
        chunks = _chunks(array, region, corner)
        return LabelMap(Mode.ARRAY, height, width, chunks, histogram, layout=corner)
    except Exception as error:
        raise as_unreadable(error) from error


def _checked(array: Any, *, allow_color: bool = False) -> Any:
    """Return an array whose type suits labels. Raises `UnreadableSample` for any other."""
    dtype = array.dtype
    if getattr(dtype, "kind", "?") not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"stores {dtype} in {array.name}, not class ids; choose an array with --key")
    if is_color(array.shape, dtype) and not allow_color:
        raise color_coded(f"{array.name} of shape {array.shape}, uint8")
    return array


def _fill_value_histogram(value: Any, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # An array of version 2 may have no fill value; zarr-python then uses zero.
    return np.array([0 if value is None else int(value)], np.int64), np.array([pixels], np.int64)


def _node(path: str) -> Any:
    """Open the array or group at a path or URL, without consolidated metadata, which may be out of date."""
    import zarr

    from statsvc_workers.samples.zarr_store import open_store

    return zarr.open(open_store(path), mode="r")


def _exists(file: str) -> bool:
    try:
        roots.status(file)
    except OSError:
        return False
    return True


def _array(node: Any, key: str | None) -> Any:
    """Return the array `key` below a node, or the only one that can contain the labels."""
    import zarr

    if key is not None:
        try:
            node = node[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UnreadableSample(
                f"contains no array {key!r}; {_contents(node)}. Choose one with --key"
            ) from None
    for _ in range(MAX_NESTED_GROUPS):
        if isinstance(node, zarr.Array):
            return node
        inner = _labels_member(node)
        if inner is None:
            raise UnreadableSample(
                f"contains several arrays or none; {_contents(node)}. Choose one with --key"
            )
        try:
            node = node[inner]
        except KeyError:
            raise UnreadableSample(
                f"refers to the array {inner!r}, which does not exist; {COPY_AGAIN}"
            ) from None
    raise UnreadableSample(
        f"contains groups nested more than {MAX_NESTED_GROUPS} levels deep; choose an array with --key"
    )


def _labels_member(group: Any) -> str | None:
    """Return the member of a group that contains the labels, by OME's metadata or as the only member."""
    attributes = dict(group.attrs)
    attributes |= attributes.get("ome") or {}
    members = list(group.keys())
    # An OME-Zarr image stores its labels in a group next to its own levels.
    if "labels" in members:
        return "labels"
    if scales := attributes.get("multiscales"):
        return str(scales[0]["datasets"][0]["path"])
    labels = attributes.get("labels")
    if isinstance(labels, list) and len(labels) == 1:
        return str(labels[0])
    return members[0] if len(members) == 1 else None


def _contents(node: Any) -> str:
    names = ", ".join(sorted(node.keys())[:LISTED_NAMES]) if hasattr(node, "keys") else ""
    return f"it contains {names}" if names else "it is a single array"


def _chunks(array: Any, region: Region, corner: Corner | None) -> Iterator[NDArray[Any]]:
    axes = long_axes(array.shape)
    try:
        for block in blocks_of(region, array.chunks):
            values = array[block]
            if corner is not None and axes is not None:
                move_corner(corner, block, region, axes)
                values = as_volume(values, axes)
            yield whole_numbers(values) if values.dtype.kind == "f" else values
    except Exception as error:
        raise as_unreadable(error) from error
