"""Train a small segmentation network with class weights from a statsvc server.

Start the server with `make run`, which also draws the label maps, then, with PyTorch and Pillow installed:

    python examples/train.py http://127.0.0.1:8000 .run/labels

The images are made from the label maps, a colour for each class under noise, so that nothing has to be
downloaded. Small things drown in the noise: with `--method uniform` the network gives most of them up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import statsvc

IGNORE = 255


class Streets(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """(image float32 [3, height, width], label int64 [height, width]) of every label map in a folder."""

    def __init__(self, folder: Path, classes: int, step: int) -> None:
        self.files = sorted(folder.glob("*.png"))
        self.step = step
        rng = np.random.default_rng(0)
        self.colours = rng.random((256, 3), dtype=np.float32)
        self.noise = torch.Generator().manual_seed(classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = np.asarray(Image.open(self.files[index]))[:: self.step, :: self.step]
        image = torch.from_numpy(self.colours[label]).permute(2, 0, 1)
        noisy = image + 0.3 * torch.randn(image.shape, generator=self.noise)
        return noisy, torch.from_numpy(label.astype(np.int64))


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(32, classes, 1),
    )


def recall(
    model: nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], classes: int
) -> torch.Tensor:
    """Return the share of each class's pixels that the model finds, float64 [classes]."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    with torch.no_grad():
        for image, label in loader:
            valid = label != IGNORE
            pairs = label[valid] * classes + model(image).argmax(1)[valid]
            confusion += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return confusion.diagonal().double() / confusion.sum(1).clamp(min=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument(
        "labels", nargs="?", type=Path, default=Path(".run/labels"), help="has train/ and val/"
    )
    parser.add_argument("--method", default="sqrt_inv_freq")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--step", type=int, default=4, help="take every n-th row and column")
    arguments = parser.parse_args()

    # What the trainer sees is what is counted: the training split. The weights are data of the run, so
    # their origin is printed, to be logged.
    answer = statsvc.Client(arguments.url).weights(
        method=arguments.method, split="train", ignore_index=IGNORE
    )
    print(answer, answer.spec)
    weights = answer.tensor()
    criterion = nn.CrossEntropyLoss(weight=weights, ignore_index=IGNORE)

    torch.manual_seed(0)
    classes = len(weights)
    train, val = (
        DataLoader(
            Streets(arguments.labels / part, classes, arguments.step), batch_size=8, shuffle=part == "train"
        )
        for part in ("train", "val")
    )
    model = network(classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(arguments.epochs):
        total = 0.0
        for image, label in train:
            loss = criterion(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(train):.4f}")

    found = recall(model, val, classes)
    for row, weight, share in zip(answer.classes, weights.tolist(), found.tolist(), strict=True):
        print(f"{row['name']:<16} weight {weight:7.4f}   recall {share:6.1%}")
    print(f"mean recall {found.mean():.1%}")


if __name__ == "__main__":
    main()
