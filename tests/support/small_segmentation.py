"""Weights and random batches of four classes, for the tests of the integrations."""

from __future__ import annotations

import numpy as np
import torch

from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import table_of

NAMES = ("road", "sky", "person", "pole")
SHARES = (0.6, 0.25, 0.1, 0.05)


def weights_of(method: str = "sqrt_inv_freq") -> ClassWeights:
    """Return weights of four classes with the shares `SHARES` of 10 000 pixels."""
    counts = {class_id: round(10_000 * share) for class_id, share in enumerate(SHARES)}
    table = table_of([counts], num_classes=4, class_names=NAMES)
    return ClassWeights(weights_response(table, WeightSpec.from_params({"method": method})))


def batch(seed: int, images: int = 2, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 images [N, 3, size, size] and int64 labels [N, size, size] with ignored pixels (255)."""
    rng = np.random.default_rng(seed)
    label = rng.choice(4, (images, size, size), p=SHARES)
    label[:, 0, : 1 + seed % 3] = 255
    image = rng.normal(size=(images, 3, size, size))
    return torch.from_numpy(image).float(), torch.from_numpy(label)
