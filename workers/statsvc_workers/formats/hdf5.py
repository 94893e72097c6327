"""HDF5 label maps: one dataset of a file, read chunk by chunk with h5py; `key` names it among several.

Format: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    Format,
    LabelMap,
    Mode,
    Peek,
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
from statsvc_workers.kernels.tiles import Corner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc_workers.formats.blocks import Region

NAME = "HDF5 file"
MAGIC = b"\x89HDF\r\n\x1a\n"

MAX_LINKS = 16
"""Soft links that are followed to a dataset."""

LISTED_DATASETS = 8
"""Datasets that an error message lists."""


def open_label_map(file: BinaryIO, size: int, max_pixels: int, key: str | None = None) -> LabelMap:
    """Open the dataset `key`, or the only one of two or more axes; it is read in blocks of whole chunks.

    Raises `UnreadableSample` for values that are not whole numbers, and for data stored in other files.
    """
    dataset = _checked(_dataset(file, key))
    height, width = size_without_unit_axes(dataset.shape)
    check_pixels(height, width, max_pixels)
    check_chunk_size(dataset.chunks, max_pixels)
    if dataset.chunks is None and dataset.id.get_storage_size() > size:
        raise UnreadableSample(f"is truncated: {dataset.name} is larger than the file; copy it again")
    whole = tuple(slice(0, length) for length in dataset.shape)
    label_map = _label_map(dataset, whole, height, width)
    label_map.axes, label_map.volume = len(dataset.shape), volume_of(dataset.shape)
    return label_map


def layout(file: BinaryIO, key: str | None) -> tuple[tuple[int, ...], tuple[int, ...] | None, int]:
    """Return (shape, shape of a chunk or None, bytes of an element) of a dataset."""
    dataset = _checked(_dataset(file, key))
    return dataset.shape, dataset.chunks, dataset.dtype.itemsize


def open_part(file: BinaryIO, max_pixels: int, key: str | None, region: Region) -> LabelMap:
    """Open a region of a dataset."""
    try:
        dataset = _checked(_dataset(file, key))
    except Exception as error:
        raise as_unreadable(error) from error
    height, width = size_without_unit_axes(region_shape(region))
    check_pixels(height, width, max_pixels)
    check_chunk_size(dataset.chunks, max_pixels)
    return _label_map(dataset, region, height, width)


def _label_map(dataset: Any, region: Region, height: int, width: int) -> LabelMap:
    corner = None if long_axes(dataset.shape) is None else Corner()
    return LabelMap(Mode.ARRAY, height, width, _chunks(dataset, region, corner), layout=corner)


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the only dataset is."""
    dataset = _dataset(file, None)
    return Peek(
        f"HDF5 dataset {dataset.name} of {dataset.dtype.name}", is_color(dataset.shape, dataset.dtype)
    )


def open_array(file: BinaryIO, _size: int, max_pixels: int, key: str | None = None) -> NDArray[Any]:
    """Read a whole dataset of numbers."""
    dataset = _checked(_dataset(file, key), allow_color=True)
    check_pixels(dataset.size, 1, max_pixels)
    check_chunk_size(dataset.chunks, max_pixels)
    values: NDArray[Any] = dataset[()]
    return values


FORMAT = Format(NAME, (MAGIC,), open_label_map, peek, open_array=open_array)


def _checked(dataset: Any, *, allow_color: bool = False) -> Any:
    """Return a dataset whose type and storage suit labels. Raises `UnreadableSample` for any other."""
    shape, dtype = dataset.shape or (), dataset.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(
            f"stores {dtype} in {dataset.name}, not class ids; choose a dataset with --key"
        )
    if is_color(shape, dtype) and not allow_color:
        raise color_coded(f"{dataset.name} of shape {shape}, uint8")
    if dataset.external or dataset.is_virtual:
        raise UnreadableSample(f"stores {dataset.name} in other files; copy the dataset into this file")
    return dataset


def _dataset(file: BinaryIO, key: str | None) -> Any:
    """Return the dataset `key`, or the only one of at least two axes. Raises `UnreadableSample`."""
    import h5py

    opened = h5py.File(file, "r")
    datasets: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            datasets[name] = item

    if key is not None:
        item = _item(opened, key)
        if isinstance(item, h5py.Dataset):
            return item
    opened.visititems(visit)  # does not follow links to other files
    listed = list(datasets.items())[:LISTED_DATASETS]
    names = ", ".join(f"{name} ({item.dtype} {item.shape})" for name, item in listed) or "none"
    if key is not None:
        raise UnreadableSample(f"contains no dataset {key!r}; choose one of {names} with --key")
    if len(datasets) != 1:
        raise UnreadableSample(f"contains {len(datasets)} datasets ({names}); choose one with --key")
    return next(iter(datasets.values()))


def _item(opened: Any, key: str) -> Any:
    """Return the object at a path; None if there is none.

    Raises `UnreadableSample` for a path through a link to another file, which is not opened.
    """
    import h5py

    item = opened
    parts = [part for part in key.split("/") if part not in ("", ".")]
    links = 0
    while parts:
        name = parts.pop(0)
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UnreadableSample(f"has {key!r} in another file; copy the dataset into this file")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > MAX_LINKS:
                raise UnreadableSample(f"has {key!r} as a loop of links; choose another dataset with --key")
            parts = [part for part in link.path.split("/") if part not in ("", ".")] + parts
            item = opened if link.path.startswith("/") else item
        else:
            item = None if link is None else item.get(name)
    return item


def _chunks(dataset: Any, region: Region, corner: Corner | None) -> Iterator[NDArray[Any]]:
    axes = long_axes(dataset.shape)
    try:
        for block in blocks_of(region, dataset.chunks):
            values = dataset[block]
            if corner is not None and axes is not None:
                move_corner(corner, block, region, axes)
                values = as_volume(values, axes)
            yield whole_numbers(values) if values.dtype.kind == "f" else values
    except Exception as error:
        raise as_unreadable(error) from error
