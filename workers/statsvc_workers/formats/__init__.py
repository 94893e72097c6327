"""File formats of label maps: from bytes to arrays of raw ids, one module per format.

Every corrupt, foreign or oversized file raises `UnreadableSample`, whose text says what is wrong and what to
do next. Readers check the declared size before they decode, and yield chunks of bounded size.

To add a format, write a module with a `FORMAT` (see `statsvc_workers.formats.base.Format`) and add it to
`_FORMATS`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TypedDict, TypeVar

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import ColorCoded, Format, LabelMap, Mode, Peek, as_unreadable
from statsvc_workers.formats.convert import advice
from statsvc_workers.formats.magic import describe_content
from statsvc_workers.formats.stacks import classes_advice, largest, one_channel, reject_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "FORMATS",
    "Format",
    "LabelMap",
    "Mode",
    "extension",
    "open_label_map",
    "peek",
    "pixel_rule",
]


_FORMATS = {
    ".png": "png.FORMAT",
    ".npy": "npy.FORMAT",
    ".npz": "npz.FORMAT",
    ".tif": "tiff.FORMAT",
    ".tiff": "tiff.FORMAT",
    ".nii": "nifti.FORMAT",
    ".nii.gz": "nifti.FORMAT",
    ".bmp": "images.FORMAT",
    ".gif": "images.FORMAT",
    ".webp": "images.FORMAT",
    ".h5": "hdf5.FORMAT",
    ".hdf5": "hdf5.FORMAT",
    ".mat": "matlab.FORMAT",
    ".pgm": "images.FORMAT",
    ".pbm": "images.FORMAT",
    ".tga": "images.TGA_FORMAT",
    ".jp2": "jpeg2000.FORMAT",
    ".j2k": "jpeg2000.FORMAT",
    ".nrrd": "nrrd.FORMAT",
    ".mha": "metaimage.FORMAT",
    ".dcm": "dicom.FORMAT",
    ".img": "grids.FORMAT",
    ".asc": "grids.ASCII_FORMAT",
    ".label": "point_labels.FORMAT",
    "_lidarseg.bin": "point_labels.LIDARSEG",
}
"""File extension in lower case → module and name of its format."""


class _Formats(Mapping[str, Format]):
    """Imports the module of a format when it is used: most scans read one format."""

    def __getitem__(self, extension: str) -> Format:
        module, name = _FORMATS[extension].split(".")
        found: Format = getattr(import_module(f"{__name__}.{module}"), name)
        return found

    def __contains__(self, extension: object) -> bool:
        return extension in _FORMATS

    def __iter__(self) -> Iterator[str]:
        return iter(_FORMATS)

    def __len__(self) -> int:
        return len(_FORMATS)


FORMATS = _Formats()
"""File extension in lower case → format."""

LONG_EXTENSIONS = {".gz": ".nii.gz", ".bin": "_lidarseg.bin"}
"""Suffix → longer ending that is the extension of a file whose name has it."""

HEAD_BYTES = 64
"""Bytes of a file that are compared with a format's magic."""

SMALL_BYTES = 1 << 20
"""A file of at most this size is read in one call."""


def extension(name: str) -> str:
    """Return the extension of a file name in lower case, also one of `LONG_EXTENSIONS`."""
    # Without pathlib: a path object for each of a million files takes longer than listing them.
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    suffix = base[dot:].lower() if 0 < dot < len(base) - 1 else ""
    longer = LONG_EXTENSIONS.get(suffix)
    return longer if longer is not None and base.lower().endswith(longer) else suffix


class PixelRule(TypedDict):
    """The arguments of `open_label_map` that follow from a counting rule."""

    colors: bool
    channel: int | None
    axis: int | None


def pixel_rule(counting: Counting) -> PixelRule:
    """Return how the pixels of a file are read."""
    return {"colors": counting.palette is not None, "channel": counting.channel, "axis": counting.axis}


def open_label_map(
    name: str,
    file: BinaryIO,
    max_pixels: int,
    *,
    key: str | None = None,
    colors: bool = False,
    channel: int | None = None,
    axis: int | None = None,
) -> LabelMap:
    """Open the label map in the seekable `file`, whose format is that of the extension of `name`.

    Reads the header. The pixels are decoded while `chunks` is iterated, so `file` must stay open until then.
    key      name of an array in a file that contains several
    colors   ids are colors 0xRRGGBB
    channel  ids are the values of this channel
    axis     ids are the positions of the largest values along this axis of an array

    Raises `UnreadableSample`, here or during iteration. An `OSError` of the file system passes through.
    """
    try:
        label_map = _open(name, file, max_pixels, key, colors=colors, channel=channel, axis=axis)
    except Exception as error:
        raise as_unreadable(error) from error
    label_map.chunks = _guarded(label_map.chunks)
    if label_map.histogram is not None:
        label_map.histogram = _guarded_function(label_map.histogram)
    if label_map.tiles is not None:
        label_map.tiles = _guarded_function(label_map.tiles)
    return label_map


def peek(name: str, file: BinaryIO) -> Peek | None:
    """Return what the header of a file says, or None where it cannot be read."""
    try:
        file_format = _format(name)
        size = _size(file)
        return file_format.peek(file, size) if _head(file).startswith(file_format.magic) else None
    except Exception:  # noqa: BLE001 - an unreadable file is reported when it is counted
        return None


def _open(
    name: str,
    file: BinaryIO,
    max_pixels: int,
    key: str | None,
    *,
    colors: bool,
    channel: int | None,
    axis: int | None,
) -> LabelMap:
    file_format = _format(name)
    size = _size(file)
    if size <= SMALL_BYTES:  # many reads of memory are cheap
        content = file.read(size)
        file, size = io.BytesIO(content), len(content)
    head = _head(file)
    if not head.startswith(file_format.magic):
        raise UnreadableSample(f"is not a valid {file_format.name}: it {describe_content(head)}")
    if axis is not None:
        if file_format.open_array is None:
            raise UnreadableSample(f"has no axis of classes (format: {file_format.name}); omit --rule argmax")
        return largest(file_format.open_array(file, size, max_pixels, key), axis)
    if channel is not None:
        if file_format.open_channels is None:
            raise UnreadableSample(f"has no channels (format: {file_format.name}); omit --rule channel")
        return one_channel(file_format.open_channels(file, size, max_pixels, key), channel)
    if not colors:
        read_array = partial(_read_array, file_format, file, size, max_pixels, key)
        try:
            label_map = file_format.open(file, size, max_pixels, key)
        except ColorCoded as error:
            if file_format.open_array is not None and (advice := classes_advice(read_array)):
                raise UnreadableSample(advice) from error
            raise
        if file_format.open_array is not None and label_map.axes > 2:
            ends = None if label_map.volume is None else label_map.volume[::2]
            label_map.chunks = reject_classes(label_map.chunks, read_array, ends)
        return label_map
    if file_format.open_colors is None:
        raise UnreadableSample(
            f"cannot be read as colors (format: {file_format.name}); omit --rule if it contains class ids"
        )
    return file_format.open_colors(file, size, max_pixels)


def _read_array(
    file_format: Format, file: BinaryIO, size: int, max_pixels: int, key: str | None
) -> NDArray[Any]:
    assert file_format.open_array is not None
    file.seek(0)
    return file_format.open_array(file, size, max_pixels, key)


def _format(name: str) -> Format:
    suffix = extension(name)
    if suffix not in FORMATS:
        supported = ", ".join(sorted(FORMATS))
        raise UnreadableSample(
            f"has the extension {suffix!r}, which is not supported; {advice(name)}, or exclude it with "
            f"--pattern. Supported are {supported}"
        )
    return FORMATS[suffix]


def _size(file: BinaryIO) -> int:
    """Return the size of a file, and move to its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _head(file: BinaryIO) -> bytes:
    """Return the first bytes of a file, and move back to its start."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _guarded(chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    try:
        yield from chunks
    except Exception as error:
        raise as_unreadable(error) from error


def _guarded_function(function: Callable[P, T]) -> Callable[P, T]:
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise as_unreadable(error) from error

    return guarded
