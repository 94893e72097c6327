"""What every reader of label maps returns, and the refusals they share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Histogram = tuple[NDArray[np.int64], NDArray[np.int64]]

CHUNK_PIXELS = 1 << 22
"""Pixels of one chunk: enough to amortise a call, small beside a worker's memory."""

COPY_AGAIN = "copy or export it again from where it came"


class Mode(IntEnum):
    """Pixel type of a label map, as a version stores it."""

    UNKNOWN = 0
    GREY = 1
    PALETTE = 2
    ARRAY = 3


@dataclass(slots=True)
class LabelMap:
    """One label map, decoded as it is iterated.

    mode    pixel type
    height  rows; for a volume, depth times rows
    width   pixels of a row
    chunks  integer or bool arrays of about `CHUNK_PIXELS`, of any shape, which together hold every
            pixel once; iterating may raise `UnreadableSample`
    histogram  where the format is counted without making an array of it: counts the file and returns its
            ids, ascending, and their pixels, int64 [k] each; may raise `UnreadableSample`
    meaning  where the numbers in the file stand for others (a scale): returns what ids stand for, int64 [k]
            for int64 [k]; may raise `UnreadableSample`
    """

    mode: Mode
    height: int
    width: int
    chunks: Iterable[NDArray[Any]]
    histogram: Callable[[], Histogram] | None = None
    meaning: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None


@dataclass(frozen=True, slots=True)
class Peek:
    """What a file's header says: `text` for a person, `colour` where it cannot hold class ids."""

    text: str
    colour: bool


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Refuse an empty image, and one of more than `max_pixels`, before anything is decoded."""
    if height * width == 0:
        raise UnreadableSample(f"holds no pixels ({width} x {height}); {COPY_AGAIN}")
    if height * width > max_pixels:
        raise UnreadableSample(
            f"has {width} x {height} = {height * width} pixels, over the limit of {max_pixels} "
            "(max_pixels); raise the limit if the image is meant to be this large"
        )


def colour_coded(what: str) -> UnreadableSample:
    """Return the refusal of an image that shows classes as colours, or is a photograph."""
    return UnreadableSample(
        f"is colour-coded ({what}): statsvc counts class ids, one channel; give the dataset's colour table "
        "with --rule (a palette's name, or a CSV file r,g,b,id), choose files that hold ids with "
        "--pattern, or, of COCO panoptic pictures, scan their JSON"
    )


def packed_colours(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the colours of uint8 [..., 3 or more] (red, green, blue, then what is left out) as 0xRRGGBB."""
    colours = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        colours <<= 8
        colours |= pixels[..., channel]
    return colours


def grey_colours(depth: int) -> NDArray[np.int64]:
    """Return the colours 0xRRGGBB of the grey values of `depth` bits, 8 at most, int64 [2 ** depth]."""
    return np.arange(1 << depth, dtype=np.int64) * (255 // ((1 << depth) - 1)) * 0x010101


def colours_shown(colours: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what ascending palette indices stand for. Raises `UnreadableSample` for one beyond `colours`."""
    if len(ids) and ids[-1] >= len(colours):
        raise UnreadableSample(
            f"has the index {ids[-1]} in a palette of {len(colours)} colours; {COPY_AGAIN}"
        )
    return colours[ids]


def whole_numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return floating-point labels as integers. Raises `UnreadableSample` where one is none."""
    ids = np.rint(values)
    if not (ids == values).all():
        odd = values[ids != values].ravel()[0]
        raise UnreadableSample(
            f"holds the value {odd}, which is no class id: probabilities, an image, or labels resized with "
            "interpolation? Export the labels as integers"
        )
    if values.size and not (abs(values).max() < 2**53):
        raise UnreadableSample("holds values beyond 2**53, which are no class ids; export integers")
    whole: NDArray[np.int64] = ids.astype(np.int64)
    return whole


def looks_like(head: bytes) -> str:
    """Return what the first bytes of a file say that it is, with advice where there is some."""
    if not head:
        return f"is empty (0 bytes); {COPY_AGAIN}"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "is a WebP image by its content; rename it to .webp"
    if not any(head):
        return f"begins with zero bytes only, as after an interrupted copy; {COPY_AGAIN}"
    try:
        # A cut multi-byte character at the end of `head` is no reason to call text binary.
        text = head.decode("utf-8", "ignore" if head[-1] >= 0x80 else "strict")
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        line = text.splitlines()[0].strip()[:40]
        return f"is a text file by its content (it begins {line!r}); {COPY_AGAIN}"
    return f"begins with the bytes {head[:8].hex(' ')}, which is no known image; {COPY_AGAIN}"


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "is a PNG by its content; rename it to .png"),
    (b"\x93NUMPY", "is a NumPy array by its content; rename it to .npy"),
    (b"II*\0", "is a TIFF by its content; rename it to .tif"),
    (b"MM\0*", "is a TIFF by its content; rename it to .tif"),
    (b"II+\0", "is a BigTIFF by its content; rename it to .tif"),
    (b"MM\0+", "is a BigTIFF by its content; rename it to .tif"),
    (b"\xff\xd8\xff", "is a JPEG by its content; JPEG is lossy, so it cannot hold labels: export it as PNG"),
    (b"GIF8", "is a GIF by its content; rename it to .gif"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file by its content; rename it to .h5"),
    (b"PAR1", "is a Parquet file by its content; rename it to .parquet"),
    (b"BM", "is a BMP by its content; rename it to .bmp"),
    (
        b"PK\x03\x04",
        "is a zip archive by its content; rename it to .npz if it holds NumPy arrays",
    ),
    (b"\x1f\x8b", "is gzip-compressed by its content; unpack it"),
    (b"%PDF", "is a PDF by its content; choose the label maps with --pattern"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<!DOCTYPE", "is a web page by its content, as after a failed download; download it again"),
    (b"<html", "is a web page by its content, as after a failed download; download it again"),
)
