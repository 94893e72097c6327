"""Windows in images and volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


def crop(image: Any, window: tuple[int, ...]) -> Any:
    """Return the part of an image in a window (top, left, height, width), or that of a volume.

    image   a PyTorch tensor [..., H, W], a NumPy array [H, W] or [H, W, channels], or a PIL image; for a
            volume, a tensor [..., D, H, W] or an array [D, H, W] or [D, H, W, channels]
    window  for a volume (front, top, left, depth, height, width)
    """
    axes = len(window) // 2
    starts, lengths = window[:axes], window[axes:]
    if hasattr(image, "crop"):
        (top, left), (height, width) = starts[-2:], lengths[-2:]
        return image.crop((left, top, left + width, top + height))
    part = tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
    return image[part] if isinstance(image, np.ndarray) else image[(..., *part)]


def windows(
    start: Int64, length: Int64, size: Int64, crop_length: int, quantiles: NDArray[np.float64]
) -> tuple[Int64, Int64]:
    """Return start and length of windows along one axis, given those of tiles and the sizes of the images.

    A window is uniform among those inside the image that contain the tile, or that lie in it.
    """
    window = np.minimum(crop_length, size)
    low, high = np.maximum(0, start + length - window), np.minimum(start, size - window)
    # A window that is smaller than its tile lies inside it.
    low, high = np.minimum(low, high), np.maximum(low, high)
    return low + (quantiles * (high - low + 1)).astype(np.int64), window
