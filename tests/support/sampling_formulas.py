"""Samplers' published formulas, written out plainly, and the pixel counts of a few small images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

N = np.array(
    [
        [700, 200, 90, 10],
        [900, 100, 0, 0],
        [800, 150, 50, 0],
        [990, 10, 0, 0],
        [0, 0, 0, 0],
        [500, 0, 480, 20],
    ]
)
"""Pixels [image, class] of six images; the fifth has none of the classes."""

OTHER = np.array([[10, 20, 300, 0], [5, 0, 0, 60]])
"""Pixels [image, class] of another dataset."""

PATHS = [f"train/{k:04}.png" for k in range(len(N))]
"""Paths of the images in `N`."""


def label_maps() -> dict[str, np.ndarray[Any, Any] | str]:
    """Return label maps of 20 × 50 pixels with the counts of `N`; the remaining pixels have id 255."""
    maps: dict[str, np.ndarray[Any, Any] | str] = {}
    for path, row in zip(PATHS, N.tolist(), strict=True):
        ids = np.repeat([*range(4), 255], [*row, 1000 - sum(row)])
        maps[path] = ids.astype(np.uint8).reshape(20, 50)
    return maps


def daformer(n: np.ndarray[Any, Any], temperature: float, min_pixels: int) -> list[float]:
    """Return the probability of each image in rare class sampling (DAFormer), written out without NumPy.

    n  pixels [image, class]
    """
    images, classes = n.shape
    freq = [sum(n[i][c] for i in range(images)) / n.sum() for c in range(classes)]
    files = {c: [i for i in range(images) if n[i][c] >= min_pixels] for c in range(classes)}
    odds = {c: math.exp((1 - freq[c]) / temperature) for c in range(classes) if files[c]}
    probability = [0.0] * images
    for c, value in odds.items():
        for i in files[c]:
            probability[i] += value / sum(odds.values()) / len(files[c])
    return probability


def lvis(n: np.ndarray[Any, Any], threshold: float) -> list[float]:
    """Return the repeat factor of each image (LVIS), written out without NumPy.

    n  pixels [image, class]
    """
    images, classes = n.shape
    f = [sum(n[i][c] > 0 for i in range(images)) / images for c in range(classes)]
    r = [max(1.0, math.sqrt(threshold / f[c])) if f[c] else 1.0 for c in range(classes)]
    return [max([r[c] for c in range(classes) if n[i][c] > 0], default=1.0) for i in range(images)]
