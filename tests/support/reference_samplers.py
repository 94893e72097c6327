"""Independent implementations of the samplers, and the counts and label maps that tests apply them to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

PIXELS = np.array(
    [
        [700, 200, 90, 10],
        [900, 100, 0, 0],
        [800, 150, 50, 0],
        [990, 10, 0, 0],
        [0, 0, 0, 0],
        [500, 0, 480, 20],
    ]
)
"""Pixels of 4 classes in 6 images."""

OTHER_PIXELS = np.array([[10, 20, 300, 0], [5, 0, 0, 60]])
"""Pixels of 4 classes in 2 other images."""

PATHS = [f"train/{k:04}.png" for k in range(len(PIXELS))]


def label_maps() -> dict[str, np.ndarray[Any, Any] | str]:
    """Return label maps of 20x50 with the pixels of `N`; the remaining pixels are 255."""
    maps: dict[str, np.ndarray[Any, Any] | str] = {}
    for path, row in zip(PATHS, PIXELS.tolist(), strict=True):
        ids = np.repeat([*range(4), 255], [*row, 1000 - sum(row)])
        maps[path] = ids.astype(np.uint8).reshape(20, 50)
    return maps


def daformer_probabilities(n: np.ndarray[Any, Any], temperature: float, min_pixels: int) -> list[float]:
    """Return the probability of each image under rare class sampling, transcribed from DAFormer."""
    images, classes = n.shape
    freq = [sum(n[i][c] for i in range(images)) / n.sum() for c in range(classes)]
    files = {c: [i for i in range(images) if n[i][c] >= min_pixels] for c in range(classes)}
    odds = {c: math.exp((1 - freq[c]) / temperature) for c in range(classes) if files[c]}
    probability = [0.0] * images
    for c, value in odds.items():
        for i in files[c]:
            probability[i] += value / sum(odds.values()) / len(files[c])
    return probability


def lvis_repeat_factors(n: np.ndarray[Any, Any], threshold: float) -> list[float]:
    """Return the repeat factor of each image, transcribed from LVIS."""
    images, classes = n.shape
    f = [sum(n[i][c] > 0 for i in range(images)) / images for c in range(classes)]
    r = [max(1.0, math.sqrt(threshold / f[c])) if f[c] else 1.0 for c in range(classes)]
    return [max([r[c] for c in range(classes) if n[i][c] > 0], default=1.0) for i in range(images)]
