"""Torch datasets of (image, label) pairs, importable by the subprocesses of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

READS: list[int] = []
"""Every index that was read from a `Labels` in this process, in order."""


class Labels(torch.utils.data.Dataset[Any]):
    """A dataset of (image, label) pairs, as a trainer uses it."""

    def __init__(self, labels: list[Any], transform: Any = None) -> None:
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        READS.append(index)
        label = self.labels[index]
        return torch.zeros(3, 2, 2), label if self.transform is None else self.transform(label)


def street_labels(images: int = 40, classes: int = 5) -> list[NDArray[np.uint8]]:
    """Return label maps with void id 255, in which class c occurs in about 1/(c+1) of the images."""
    rng = np.random.default_rng(11)
    labels = []
    for _ in range(images):
        present = [c for c in range(classes) if rng.random() < 1 / (c + 1)] or [0]
        labels.append(rng.choice([*present, 255], size=(9, 13)).astype(np.uint8))
    return labels


def without_class_4(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a label map with class 4 replaced by class 0."""
    return np.where(label == 4, 0, label).astype(np.uint8)
