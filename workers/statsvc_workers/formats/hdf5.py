"""HDF5 label maps: one dataset of a file, read chunk by chunk with h5py; `key` names it among several.

Format: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import LabelMap, Mode, Peek, check_pixels, colour_coded, whole_numbers
from statsvc_workers.formats.blocks import blocks_of, check_block, is_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAME = "HDF5 file"
MAGIC = b"\x89HDF\r\n\x1a\n"
KEYED = True


def open_label_map(file: BinaryIO, size: int, max_pixels: int, key: str | None) -> LabelMap:
    """Open the dataset `key`, or the only one that can be labels; it is read in blocks of whole chunks.

    Raises `UnreadableSample` for other than whole numbers, and for data that lies in other files.
    """
    dataset = _checked(_dataset(file, key))
    axes = [length for length in dataset.shape if length != 1] or [1]
    width, height = axes[-1], math.prod(axes[:-1])
    check_pixels(height, width, max_pixels)
    check_block(dataset.chunks, max_pixels)
    if dataset.chunks is None and dataset.id.get_storage_size() > size:
        raise UnreadableSample(f"is truncated: {dataset.name} is larger than the file; copy it again")
    return LabelMap(Mode.ARRAY, height, width, _chunks(dataset, _whole(dataset)))


def layout(file: BinaryIO, key: str | None) -> tuple[tuple[int, ...], tuple[int, ...] | None, int]:
    """Return a dataset's shape, its chunks if it has any, and the bytes of an element."""
    dataset = _checked(_dataset(file, key))
    return dataset.shape, dataset.chunks, dataset.dtype.itemsize


def open_part(file: BinaryIO, max_pixels: int, key: str | None, region: tuple[slice, ...]) -> LabelMap:
    """Open a region of a dataset."""
    from statsvc_workers.formats import refusal

    try:
        dataset = _checked(_dataset(file, key))
    except Exception as error:
        raise refusal(error) from error
    shape = [place.stop - place.start for place in region]
    width = ([length for length in shape if length != 1] or [1])[-1]
    height = math.prod(shape) // max(1, width)
    check_pixels(height, width, max_pixels)
    check_block(dataset.chunks, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _chunks(dataset, region))


def _whole(dataset: Any) -> tuple[slice, ...]:
    return tuple(slice(0, length) for length in dataset.shape)


def _checked(dataset: Any) -> Any:
    """Return a dataset that can hold labels. Raises `UnreadableSample`."""
    shape, dtype = dataset.shape or (), dataset.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnreadableSample(f"holds {dtype} in {dataset.name}, not class ids; choose a dataset with --key")
    if is_colour(shape, dtype):
        raise colour_coded(f"{dataset.name} of shape {shape}, uint8")
    if dataset.external or dataset.is_virtual:
        raise UnreadableSample(f"keeps {dataset.name} in other files; copy the dataset into this one")
    return dataset


def peek(file: BinaryIO, size: int) -> Peek:
    """Return what the only dataset is."""
    del size
    dataset = _dataset(file, None)
    return Peek(
        f"HDF5 dataset {dataset.name} of {dataset.dtype.name}", is_colour(dataset.shape, dataset.dtype)
    )


def _dataset(file: BinaryIO, key: str | None) -> Any:
    import h5py

    opened = h5py.File(file, "r")
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        # Links to other files are not followed by `visititems`.
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            found[name] = item

    if key is not None:
        link = opened.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UnreadableSample(f"has {key!r} as a link to another file; copy the dataset into this one")
        item = opened.get(key)
        if isinstance(item, h5py.Dataset):
            if item.file.id != opened.id:
                raise UnreadableSample(f"has {key!r} in another file; copy the dataset into this one")
            return item
    opened.visititems(visit)
    there = ", ".join(f"{name} ({item.dtype} {item.shape})" for name, item in list(found.items())[:8])
    if key is not None:
        raise UnreadableSample(
            f"holds no dataset {key!r}; there are {there or 'none'}: choose one with --key"
        )
    if len(found) != 1:
        raise UnreadableSample(f"holds {len(found)} datasets ({there or 'none'}); choose one with --key")
    return next(iter(found.values()))


def _chunks(dataset: Any, region: tuple[slice, ...]) -> Iterator[NDArray[Any]]:
    from statsvc_workers.formats import refusal

    try:
        for place in blocks_of(region, dataset.chunks):
            part = dataset[place]
            yield whole_numbers(part) if part.dtype.kind == "f" else part
    except Exception as error:
        raise refusal(error) from error
