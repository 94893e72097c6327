"""What the tests of integrations train: four classes, weights of them, batches with an ignored id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

import statsvc

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("road", "sky", "person", "pole")
SHARES = (0.6, 0.25, 0.1, 0.05)


def weights_of(folder: Path, method: str = "sqrt_inv_freq") -> statsvc.ClassWeights:
    """Return the weights of a small folder of label maps, counted for real."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "a.npy", np.repeat(np.arange(4, dtype=np.uint8), (60, 25, 10, 5)).reshape(10, 10))
    return statsvc.scan(folder, class_names=NAMES, num_classes=4).weights(method=method)


def batch(seed: int, images: int = 2, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images float32 [N, 3, size, size] and labels int64 [N, size, size], some of them 255."""
    rng = np.random.default_rng(seed)
    label = rng.choice(4, (images, size, size), p=SHARES)
    label[:, 0, : 1 + seed % 3] = 255
    image = rng.normal(size=(images, 3, size, size))
    return torch.from_numpy(image).float(), torch.from_numpy(label)
