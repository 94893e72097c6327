"""Look at the pixels of a file: label maps are flat, whereas photographs and scans vary from pixel to pixel.

A file is a photograph if many of its neighboring pixels differ, if it has many different values, and if these
form a continuous range. A map of instance ids has many values, but flat regions; a noisy label map has few
values. Interpolated edges of a mask are a small share of its pixels.
"""

from __future__ import annotations

import io
import itertools
import math
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from msgspec import Struct

from statsvc.common.distinct import distinct
from statsvc.common.object_urls import is_url
from statsvc.common.sealed import Sealed
from statsvc.errors import UnreadableSample
from statsvc_workers.formats import extension, open_label_map, peek
from statsvc_workers.formats.base import as_unreadable, check_pixels, equal_channels, packed_colors
from statsvc_workers.formats.png_structure import GRAY, PALETTE, RGB, RGBA, read_header, read_image
from statsvc_workers.processes import isolated
from statsvc_workers.processes.stalls import stall_timeout
from statsvc_workers.processes.watched import Marks, Stuck, give_up, given_up, watched
from statsvc_workers.samples.open_sample import exists, open_bytes
from statsvc_workers.samples.roots import OutsideRoots, current_roots, restricted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.formats.base import Peek

T = TypeVar("T")

MAX_PIXELS = 1 << 31
"""Larger files are not inspected; counting rejects or streams them."""

MAX_DECODED = 1 << 28
"""The same for files that are decoded as a whole: pixels of an image, or bytes of a PNG file's pixels."""

DECODED = frozenset(
    {".png", ".bmp", ".gif", ".webp", ".pgm", ".pbm", ".tga", ".jp2", ".j2k", ".mat", ".mha", ".dcm"}
)
"""Extensions of files that are decoded as a whole."""

READ_HERE = frozenset({".png", ".npy", ".nii", ".nii.gz"})
"""Extensions of files that are read in this process, within limits of our own; others in a child process."""

CHUNKS = 8
"""Most chunks of a file that are inspected."""

BLOCK = 1 << 16
"""Neighboring pixels that are compared in one step; a chunk is inspected in up to `BLOCKS` of them."""

BLOCKS = 4

FEWEST_PIXELS = 64
"""Fewer pixels say nothing."""

FEWEST_VALUES = 32
"""A photograph has at least so many different values."""

MANY_VALUES = 192
"""So many values with differing neighbors are continuous, also without any correlation between neighbors."""

WIDE_RANGE = 190
"""The same for a range of values that hardly any set of classes has."""

CHANGES = 0.25
"""Least share of neighboring pixels that differ in a photograph."""

CHANGES_IN_FOREGROUND = 0.6
"""The same, among the pixels that do not belong to the most frequent value: a scan on a black background."""

SMOOTH = 0.6
"""Neighbors of a photograph that differ do so by less than this, relative to any two of its pixels."""

DENSE = 0.6
"""Noise takes at least this share of the values of its range; class ids such as 1001 to 2035 leave gaps."""

FRACTIONS = "is not an integer"
"""The part of a reader's message that means: the values are floating-point numbers with fractions."""


class Look(Enum):
    """What the pixels of a file look like."""

    LABELS = "labels"
    COLORS = "colors"
    PHOTO = "photograph"
    FRACTIONS = "fractions"
    UNKNOWN = "unknown"

    def __setstate__(self, state: object) -> None:
        """Refuse: a pickle of another process must not set attributes of this class or its members."""
        raise TypeError("a look has no state")


class Content(Sealed, frozen=True):
    """What a file contains, by its header and a part of its pixels.

    text    description of the header, such as "8-bit gray"
    values  number of different values in the inspected part; 0 if unknown
    lowest, highest  the smallest and largest of these values
    """

    text: str
    look: Look
    values: int = 0
    lowest: int = 0
    highest: int = 0

    @property
    def is_binary(self) -> bool:
        """Whether the values are those of a binary mask."""
        return 0 < self.values <= 2 and {self.lowest, self.highest} <= {0, 1, 255}


def inspect(root: str, path: str, key: str | None = None, *, colors: bool = False) -> Content | None:
    """Return what the file at `path` below `root` contains; None where its header cannot be read.

    key     name of the array with the labels, for files with several
    colors  whether colors are decoded by a palette, so that an image of few colors is a label map
    """
    # Only regular files: reading a pipe would block.
    if not is_url(root) and not exists(root, path):
        return None
    if extension(path) in READ_HERE:
        return read_here(root, path, lambda: _inspect(current_roots(), root, path, key, colors=colors))
    try:
        return isolated.call(_inspect, current_roots(), root, path, key, colors=colors)
    except UnreadableSample:
        return None  # reported when it is counted


def header(root: str, path: str) -> Peek | None:
    """Return what the header of the file at `path` below `root` says; None where it cannot be read."""
    if not is_url(root) and not exists(root, path):
        return None
    if extension(path) in READ_HERE:
        return read_here(root, path, lambda: _header(current_roots(), root, path))
    try:
        return isolated.call(_header, current_roots(), root, path)
    except UnreadableSample:
        return None


def read_here(root: str, path: str, read: Callable[[], T | None]) -> T | None:
    """Return the result of a function that reads a file; None where the file cannot be read in time.

    The scan reports the file when it is counted.
    """
    if given_up(root, path) is not None:
        return None
    try:
        return watched(read, Marks(), stall_timeout())
    except Stuck as stuck:
        give_up(root, path, stuck)
        return None


def _header(allowed: Sequence[str] | None, root: str, path: str) -> Peek | None:
    with restricted(allowed), suppress(OSError, OutsideRoots), open_bytes(root, path) as file:
        return peek(path, file)
    return None


def _inspect(
    allowed: Sequence[str] | None, root: str, path: str, key: str | None, *, colors: bool
) -> Content | None:
    with (
        restricted(allowed),
        suppress(OSError, MemoryError, OutsideRoots),
        open_bytes(root, path) as file,
    ):
        header = peek(path, file)
        if header is None:
            return None
        for as_colors in (True,) if colors else (False, True) if header.color else (False,):
            try:
                measure = _measure(*_chunks(path, file, key, colors=as_colors))
                return _content(header, measure, as_colors=as_colors, palette=colors)
            except UnreadableSample as error:
                if FRACTIONS in str(error):
                    return Content(header.text, Look.FRACTIONS)
        return Content(header.text, Look.COLORS if header.color else Look.UNKNOWN)
    return None


def sample(root: str, path: str, key: str | None = None) -> NDArray[np.int64] | None:
    """Return ids [n] at positions that are the same in each file of this size; None if it cannot be read."""
    if not is_url(root) and not exists(root, path):
        return None
    if extension(path) in READ_HERE:
        values = read_here(root, path, lambda: _sample(current_roots(), root, path, key))
    else:
        try:
            values = isolated.call(_sample, current_roots(), root, path, key)
        except UnreadableSample:
            return None
    return None if values is None else np.frombuffer(values, np.int64)


def _sample(allowed: Sequence[str] | None, root: str, path: str, key: str | None) -> bytes | None:
    with (
        restricted(allowed),
        suppress(OSError, MemoryError, OutsideRoots, UnreadableSample),
        open_bytes(root, path) as file,
    ):
        chunks, _ = _chunks(path, file, key, colors=False)
        parts = [chunk.reshape(-1) for chunk in itertools.islice(chunks, CHUNKS)]
        step = 1 + sum(map(len, parts)) // BLOCK
        return np.concatenate([part[::step] for part in parts]).astype(np.int64).tobytes()
    return None


def _chunks(
    path: str, file: BinaryIO, key: str | None, *, colors: bool
) -> tuple[Iterable[NDArray[Any]], int]:
    """Return the chunks of a file, and the width of its rows. Raises `UnreadableSample`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if extension(path) == ".png":
        # Pillow, because the reader of PNG compiles its loops on its first call, which takes seconds.
        header, start = read_header(file, size)
        check_pixels(1, header.stream_bytes(), MAX_DECODED)
        gray16 = header.color_type == GRAY and header.depth == 16
        if header.depth == 8 or (not colors and (gray16 or header.color_type == PALETTE)):
            from PIL.PngImagePlugin import PngImageFile

            with decoding_errors(), PngImageFile(read_image(file, size, header, start).file()) as image:
                if colors:
                    return [packed_colors(np.asarray(image.convert("RGB")))], header.width
                pixels = np.asarray(image)
                if pixels.ndim == 3:
                    pixels = (
                        equal_channels(pixels, "PNG") if header.color_type in (RGB, RGBA) else pixels[..., 0]
                    )
                return [pixels], header.width
    file.seek(0)
    max_pixels = MAX_DECODED if extension(path) in DECODED else MAX_PIXELS
    label_map = open_label_map(path, file, max_pixels, key=key, colors=colors)
    return label_map.chunks, label_map.width


@contextmanager
def decoding_errors() -> Iterator[None]:
    """Turn the exceptions of a decoder into `UnreadableSample`."""
    try:
        yield
    except Exception as error:
        raise as_unreadable(error) from error


class _Measure(Struct):
    """Statistics of the inspected pixels.

    changes     share of neighboring pixels that differ, along the axis in which more of them do
    foreground  the same, without pairs in which both have the most frequent value
    smooth      mean difference of neighbors that differ, relative to that of any two pixels that differ
    spread      range of the values, without the lowest and the highest 5 %
    """

    pixels: int
    values: NDArray[Any]
    changes: float
    foreground: float
    smooth: float
    spread: float

    def continuous(self) -> bool:
        """Whether neighboring pixels differ as those of a photograph."""
        return self.pixels >= FEWEST_PIXELS and (
            self.changes >= CHANGES or self.foreground >= CHANGES_IN_FOREGROUND
        )

    def is_noise(self) -> bool:
        """Whether the values are as many, or fill as wide a range, as those of noise."""
        count = len(self.values)
        dense = count >= DENSE * self.spread or 4 * count >= self.pixels
        return count >= MANY_VALUES or (self.spread >= WIDE_RANGE and dense)


def _content(header: Peek, measure: _Measure, *, as_colors: bool, palette: bool) -> Content:
    count = len(measure.values)
    if not count:
        return Content(header.text, Look.UNKNOWN)
    if as_colors:
        photo = measure.continuous() and (
            count >= MANY_VALUES or (count >= 1.5 * FEWEST_VALUES and 4 * count >= measure.pixels)
        )
        flat = Look.LABELS if palette or not header.color else Look.COLORS
        return Content(header.text, Look.PHOTO if photo else flat, count)
    photo = (
        measure.continuous() and count >= FEWEST_VALUES and (measure.is_noise() or measure.smooth <= SMOOTH)
    )
    lowest, highest = int(measure.values[0]), int(measure.values[-1])
    return Content(header.text, Look.PHOTO if photo else Look.LABELS, count, lowest, highest)


def _measure(chunks: Iterable[NDArray[Any]], width: int) -> _Measure:
    """Return the statistics of the first chunks of rows of this width. Raises `UnreadableSample`."""
    values: NDArray[Any] = np.zeros(0, np.uint8)
    pixels, near, far = 0, 0.0, 0.0
    differing = np.zeros((2, 2))  # [axis, all or foreground]
    pairs = np.zeros((2, 2))
    low, high = np.inf, -np.inf
    for chunk in itertools.islice(chunks, CHUNKS):
        row = chunk.shape[-1] if chunk.ndim > 1 else width
        for block in _blocks(chunk):
            found, counts = _counts(block)
            values = distinct(values, found)
            common = found[counts.argmax()]
            pixels += len(block)
            for axis, lag in enumerate((1, row)):
                if 0 < lag < len(block):
                    first, second = block[:-lag], block[lag:]
                    differs = first != second
                    foreground = int(np.count_nonzero((first != common) | (second != common)))
                    differing[axis] += differs.sum()
                    pairs[axis] += len(first), foreground
            if len(block) > 1:
                near += _mean_difference(block)
                far += _mean_difference_of_any(found, counts)
            ids = found != 255
            if ids.any():
                low = min(low, _percentile(found[ids], counts[ids], 5))
                high = max(high, _percentile(found[ids], counts[ids], 95))
    shares = np.divide(differing, pairs, out=np.zeros((2, 2)), where=pairs > 0).max(axis=0)
    smooth = near / far if far else 1.0
    return _Measure(pixels, values, float(shares[0]), float(shares[1]), smooth, float(max(0.0, high - low)))


def _counts(block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of pixels [n], ascending, and how often each occurs."""
    if block.dtype != np.uint8:
        return np.unique(block, return_counts=True)
    counts = np.bincount(block)
    found = np.flatnonzero(counts)
    return found.astype(np.uint8), counts[found]


def _mean_difference(block: NDArray[Any]) -> float:
    """Return the mean difference of neighbors in pixels [n] that differ; 0 if none does.

    Without the equal ones, because flat regions of ids without any order are not smooth.
    """
    wide = np.int16 if block.dtype == np.uint8 else np.float64
    differences = np.abs(np.subtract(block[1:], block[:-1], dtype=wide))
    differing = np.count_nonzero(differences)
    return float(differences.sum(dtype=np.float64)) / differing if differing else 0.0


def _mean_difference_of_any(values: NDArray[Any], counts: NDArray[np.int64]) -> float:
    """Return the mean difference of any two pixels that differ, from the count of each ascending value."""
    numbers, n = values.astype(np.float64), counts.astype(np.float64)
    smaller = np.cumsum(n) - n
    total = float((n * (numbers * smaller - (np.cumsum(n * numbers) - n * numbers))).sum())
    pairs = float((n * smaller).sum())
    return total / pairs if pairs else 0.0


def _percentile(values: NDArray[Any], counts: NDArray[np.int64], percent: float) -> float:
    """Return `np.percentile` of pixels from the count of each ascending value."""
    ends = np.cumsum(counts)
    at = (int(ends[-1]) - 1) * percent / 100
    below, above = (float(values[np.searchsorted(ends, k, side="right")]) for k in (int(at), math.ceil(at)))
    return below + (above - below) * (at - int(at))


def _blocks(chunk: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield neighboring pixels of a chunk in blocks [n] that are spread over it."""
    flat = chunk.reshape(-1)
    if len(flat) > BLOCK * BLOCKS:
        for k in range(BLOCKS):
            start = k * (len(flat) - BLOCK) // (BLOCKS - 1)
            yield flat[start : start + BLOCK]
    elif len(flat):
        yield flat
