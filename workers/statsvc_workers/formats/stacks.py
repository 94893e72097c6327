"""Arrays with an axis of channels or of classes: one channel, or the class with the largest value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec.structs import replace

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import LabelMap, Mode, long_axes, size_without_unit_axes, volume_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MAX_CLASSES = 4096
"""Longest axis of classes; a longer one is more likely an axis of the image."""

SUGGESTED_CLASSES = 256
"""Longest axis that is suggested as the axis of classes."""

SAMPLED = 1 << 16
"""Pixels along which an axis is checked for classes."""

SUM_TOLERANCE = 1e-2
"""Largest difference from 1 of the sum of probabilities, which may have been stored with 16 bits."""


def one_channel(label_map: LabelMap, channel: int) -> LabelMap:
    """Return the label map of one channel, given one whose chunks are [..., channel]."""
    chunks = label_map.chunks

    def values() -> Iterator[NDArray[Any]]:
        for chunk in chunks:
            if channel >= chunk.shape[-1]:
                raise UnreadableSample(
                    f"has {chunk.shape[-1]} channels, from channel:0, so there is no channel:{channel}"
                )
            yield chunk[..., channel]

    return replace(label_map, chunks=values(), histogram=None, tiles=None)


def largest(array: NDArray[Any], axis: int) -> LabelMap:
    """Return the label map of the positions of the largest values along an axis; the first of equal ones.

    Raises `UnreadableSample` for an axis that the array lacks, and for NaN.
    """
    if not -array.ndim <= axis < array.ndim or array.ndim < 2:
        raise UnreadableSample(
            f"has the shape {array.shape}, without an axis {axis}; choose one from {-array.ndim} to "
            f"{array.ndim - 1} with --rule argmax:AXIS"
        )
    if not 2 <= array.shape[axis] <= MAX_CLASSES:
        raise UnreadableSample(
            f"has {array.shape[axis]} values along axis {axis} of {array.shape}, which are not classes; "
            "choose another axis with --rule argmax:AXIS"
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UnreadableSample("contains NaN, which has no largest value; export the probabilities again")
    ids = array.argmax(axis=axis)
    layout: Literal["rows"] | None = None if long_axes(ids.shape) is None else "rows"
    volume = volume_of(ids.shape)
    return LabelMap(Mode.ARRAY, *size_without_unit_axes(ids.shape), [ids], layout=layout, volume=volume)


def reject_classes(
    chunks: Iterable[NDArray[Any]], read_array: Callable[[], NDArray[Any]], ends: Sequence[int] | None = None
) -> Iterator[NDArray[Any]]:
    """Yield the chunks of an array of three or more axes; reject one-hot classes and probabilities.

    Counted as a volume, they would be two classes. Raises `UnreadableSample` with the rule that counts them.

    ends  lengths of the first and of the last axis, if known
    """
    in_range = True  # whether every value so far is from 0 to 1
    total = ones = 0
    try:
        for chunk in chunks:
            if in_range and chunk.size:
                in_range = bool(chunk.max() <= 1 and (chunk.dtype.kind in "bu" or chunk.min() >= 0))
                total, ones = total + chunk.size, ones + int(np.count_nonzero(chunk))
            yield chunk
    except UnreadableSample as error:
        if in_range and (advice := classes_advice(read_array)):
            raise UnreadableSample(advice) from error
        raise
    # Of one-hot classes, one in `length` values is 1. This spares reading a binary mask twice.
    likely = ends is None or any(abs(length * ones - total) <= total / 20 for length in ends)
    if in_range and likely and (advice := classes_advice(read_array)):
        raise UnreadableSample(advice)


def classes_advice(read_array: Callable[[], NDArray[Any]]) -> str:
    """Return what to do with an array of classes; "" for any other, and one too large to check."""
    try:
        array = read_array()
    except UnreadableSample:
        return ""
    axis = classes_axis(array)
    if axis is None:
        return ""
    return (
        f"has the shape {array.shape}, and its values along axis {axis} have the sum 1, as one-hot classes "
        f"or probabilities have; count the largest with --rule argmax:{axis}"
    )


def classes_axis(array: NDArray[Any]) -> int | None:
    """Return the first or last axis of an array if its values look like one-hot classes or probabilities.

    They do if they are 0 to 1, and their sum along the axis is 1 everywhere.
    """
    for axis in (0, array.ndim - 1):
        others = [length for k, length in enumerate(array.shape) if k != axis]
        if array.ndim < 3 or not 2 <= array.shape[axis] <= min(SUGGESTED_CLASSES, max(others)):
            continue
        flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        sample = flat[:, :: max(1, flat.shape[1] // SAMPLED)].astype(np.float64)
        if sample.min() < 0 or sample.max() > 1 or (sample > 0).any(axis=1).sum() < 2:
            continue
        if (abs(sample.sum(axis=0) - 1) <= SUM_TOLERANCE).all():
            return axis
    return None
