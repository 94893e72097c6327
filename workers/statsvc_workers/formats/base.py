"""What every reader of label maps returns, and the checks and errors that readers share."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from msgspec import Struct

from statsvc.common.sealed import Sealed
from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid
    from statsvc_workers.kernels.tiles import Entries, Layout

    Histogram = tuple[NDArray[np.int64], NDArray[np.int64]]

CHUNK_PIXELS = 1 << 22
"""Pixels of one chunk: enough to amortize a call, small compared with a worker's memory."""

MAX_EXACT_FLOAT = 2**53
"""Every integer below this is exact as a float64."""

COPY_AGAIN = "copy or export it again from the original"

EXTRAS = {"rasterio": "geo"}
"""Package → extra that installs it, where this is not `formats`."""

READER_BUGS = (AttributeError, NameError, TypeError)
"""Exceptions that a mistake in a reader causes; a damaged file causes them only in a careless decoder."""


class Mode(IntEnum):
    """Pixel type of a label map, as a version stores it."""

    UNKNOWN = 0
    GRAY = 1
    PALETTE = 2
    ARRAY = 3


class LabelMap(Struct):
    """One label map, decoded while it is iterated.

    mode       pixel type
    height     rows; for a volume, depth times rows
    width      pixels of a row
    chunks     integer or bool arrays of any shape, about `CHUNK_PIXELS` pixels each, that together contain
               every pixel once; iterating may raise `UnreadableSample`
    histogram  for a format that is counted without building an array: a function that counts the file and
               returns its ids, ascending, and the pixels of each, int64 [k] each; may raise
               `UnreadableSample`
    meaning    for a file whose numbers represent other numbers (a scale, a palette): a function that maps
               int64 [k] ids of the file to int64 [k] ids; may raise `UnreadableSample`
    axes       number of axes of an array; 2 for an image
    layout     for a label map of at most three axes, where the pixels of `chunks` are; None for any other
    volume     depth, height and width of an array with three axes; None for an image
    tiles      as `histogram`, but a function that returns the histogram of each tile of a grid
    objects    for a file of separate objects: a function that returns, after `chunks` was iterated, the id
               and the pixels of each object, int64 [k] each; an object may be covered by others
    """

    mode: Mode
    height: int
    width: int
    chunks: Iterable[NDArray[Any]]
    histogram: Callable[[], Histogram] | None = None
    meaning: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    axes: int = 2
    layout: Layout | None = None
    volume: tuple[int, int, int] | None = None
    tiles: Callable[[Grid], Entries] | None = None
    objects: Callable[[], Histogram] | None = None


class Peek(Sealed, frozen=True):
    """What the header of a file says.

    text   description for a person
    color  True for an image that cannot contain class ids
    """

    text: str
    color: bool


class Format(Struct, frozen=True):
    """One file format: an entry of the table `statsvc_workers.formats.FORMATS`.

    name         the format in error messages, such as "NPY array"
    magic        the first bytes of a file, any of them
    open         opens a label map, given the file, its size in bytes, the limit of pixels, and the name of
                 an array (None for the only one); a format whose files contain one array ignores the name
    peek         reads the header, given the file and its size in bytes
    open_colors  opens a label map whose ids are colors 0xRRGGBB, given the file, its size in bytes and the
                 limit of pixels; None for a format without colors
    open_channels  opens a label map whose chunks are [..., channel], given the same arguments as `open`; a
                 gray image has its value in the channels red, green and blue. None without channels
    open_array   returns a whole array with fractions, as it is stored, given the same arguments as `open`;
                 None for a format without arrays

    The file is seekable and open for reading, with the methods of `io.BufferedIOBase`. Its `fileno` raises an
    error, and nothing can be written to it.

    `open` and `open_colors` read the header and raise `UnreadableSample` before they decode pixels.
    """

    name: str
    magic: tuple[bytes, ...]
    open: Callable[[BinaryIO, int, int, str | None], LabelMap]
    peek: Callable[[BinaryIO, int], Peek]
    open_colors: Callable[[BinaryIO, int, int], LabelMap] | None = None
    open_channels: Callable[[BinaryIO, int, int, str | None], LabelMap] | None = None
    open_array: Callable[[BinaryIO, int, int, str | None], NDArray[Any]] | None = None


def size_without_unit_axes(shape: Iterable[int]) -> tuple[int, int]:
    """Return (height, width) of an array: the last axis is the width, the product of the others the height.

    Axes of length 1 are ignored, so that (1, H, W) and (H, W, 1) are label maps of H x W pixels.
    """
    axes = [length for length in shape if length != 1] or [1]
    height = 1
    for length in axes[:-1]:
        height *= length
    return height, axes[-1]


def long_axes(shape: Sequence[int]) -> list[int] | None:
    """Return the axes of an array that are longer than 1; None if there are more than three."""
    axes = [axis for axis, length in enumerate(shape) if length != 1]
    return axes if len(axes) <= 3 else None


def volume_of(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Return depth, height and width of an array with three axes longer than 1; None for any other."""
    axes = [length for length in shape if length != 1]
    return (axes[0], axes[1], axes[2]) if len(axes) == 3 else None


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise `UnreadableSample` for an empty image, and for one of more than `max_pixels` pixels."""
    if height * width == 0:
        raise UnreadableSample(f"contains no pixels ({width} x {height}); {COPY_AGAIN}")
    if height * width > max_pixels:
        raise UnreadableSample(
            f"has {width} x {height} = {height * width} pixels, over the limit of {max_pixels} "
            "(max_pixels); raise the limit if the image is really this large"
        )


class ColorCoded(UnreadableSample):
    """An image that shows classes as colors, or is a photograph."""


def color_coded(description: str) -> ColorCoded:
    """Return the error for an image that shows classes as colors, or is a photograph.

    The doctor recognizes the error by its first words, also in versions written earlier.
    """
    return ColorCoded(
        f"is color-coded ({description}), but statsvc counts class ids in one channel. Pass the dataset's "
        "color table with --rule (the name of a palette, or a file such as labelmap.txt), choose files that "
        "contain ids with --pattern, scan the JSON file of a COCO panoptic dataset or, if one channel has "
        "the ids, count it with --rule channel:r"
    )


def packed_colors(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return uint8 [..., channel] colors as int32 [...] of the form 0xRRGGBB.

    The channels are red, green and blue; further channels are ignored.
    """
    colors = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        colors <<= 8
        colors |= pixels[..., channel]
    return colors


def equal_channels(pixels: NDArray[Any], description: str) -> NDArray[Any]:
    """Return the common value of the channels red, green and blue: [...] of [..., channel].

    Raises `UnreadableSample` for colors, and where the transparency varies.
    """
    value = pixels[..., 0]
    if not all((pixels[..., channel] == value).all() for channel in (1, 2)):
        raise color_coded(description)
    if pixels.shape[-1] > 3 and value.size and pixels[..., 3].min() != pixels[..., 3].max():
        raise color_coded(f"{description}, with varying transparency")
    return value


def gray_colors(depth: int) -> NDArray[np.int64]:
    """Return the colors 0xRRGGBB of the gray values of `depth` bits (at most 8), int64 [2 ** depth]."""
    return np.arange(1 << depth, dtype=np.int64) * (255 // ((1 << depth) - 1)) * 0x010101


def colors_shown(colors: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the colors of ascending palette indices. Raises `UnreadableSample` for an index outside."""
    if len(ids) and ids[-1] >= len(colors):
        raise UnreadableSample(
            f"uses the index {ids[-1]}, but its palette has {len(colors)} colors; {COPY_AGAIN}"
        )
    return colors[ids]


def whole_numbers(values: NDArray[Any], tolerance: float = 0.0) -> NDArray[np.int64]:
    """Return floating-point labels as int64; values within `tolerance` of an integer are rounded.

    Raises `UnreadableSample` for a value that is not an integer.
    """
    if values.dtype.itemsize < 4:
        values = values.astype(np.float32)  # 16 bits cannot hold the limit below
    ids = np.rint(values)
    differ = ids != values  # true for NaN, false for infinity
    if tolerance and differ.any():
        differ &= ~(abs(values - ids) <= tolerance)
    if differ.any():
        value = values[differ].ravel()[0]
        raise UnreadableSample(
            f"contains the value {value}, which is not an integer, so it cannot be a class id. Does the file "
            "contain probabilities, an image, or labels resized with interpolation? Export labels as integers"
        )
    if values.size and not (abs(values).max() < MAX_EXACT_FLOAT):
        raise UnreadableSample(
            "contains floating-point values of 2**53 or more, which cannot be class ids; export labels as "
            "integers"
        )
    whole: NDArray[np.int64] = ids.astype(np.int64)
    return whole


def as_unreadable(error: Exception) -> Exception:
    """Return the exception to raise for a failure while decoding.

    Turns every exception of a decoder into `UnreadableSample`; errors of the file system and `MemoryError`
    stay as they are.
    """
    if isinstance(error, (UnreadableSample, MemoryError)):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return error  # raised by the file system, not by a decoder
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(package, "formats")
        return UnreadableSample(
            f"cannot be read because {package} is not installed. Run: pip install 'statsvc[{extra}]', "
            "then scan again"
        )
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, READER_BUGS):
        return UnreadableSample(
            f"cannot be decoded, probably because of a bug in its reader ({type(error).__name__}: {reason}). "
            f"If other programs can open the file, report this message; otherwise {COPY_AGAIN}"
        )
    return UnreadableSample(f"cannot be decoded ({type(error).__name__}: {reason}); {COPY_AGAIN}")
