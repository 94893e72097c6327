"""Train the U-Net of train.py on crops that contain a class, rare classes more often. No server is needed.

With PyTorch and `pip install '.[workers]'`, after `make run` or `statsvc demo`, which draw the label maps:

    python examples/patches.py .run/labels --crop 64x64

The label maps are counted on a grid, and `PatchSampler` draws windows from these counts, without reading a
label map. Validation uses whole images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset
from train import IGNORE, Streets, begin, confusion, scores

import statsvc
from statsvc.samplers import PatchSampler, crop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Crops(Dataset[tuple["Tensor", "Tensor"]]):
    """Crops of images and label maps; an item is what `PatchSampler` draws, (index, window)."""

    def __init__(self, images: Streets) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, tuple[int, int, int, int]]) -> tuple[Tensor, Tensor]:
        index, window = item
        image, label = self.images[index]
        return crop(image, window), crop(label, window)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "labels", nargs="?", type=Path, default=Path(".run/labels"), help="folder with train/ and val/"
    )
    parser.add_argument("--crop", default="64x64", help="height x width of the crops, multiples of 4")
    parser.add_argument("--draws", type=int, help="crops per epoch; default: one for each image")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    size = tuple(int(part) for part in arguments.crop.split("x"))
    if len(size) != 2 or any(part % 4 or part < 4 for part in size):
        raise SystemExit(
            f"--crop {arguments.crop} must be height x width, both multiples of 4, such as 64x64"
        )
    images, held_out = (Streets(arguments.labels / split) for split in ("train", "val"))
    table = statsvc.scan(arguments.labels, grid="8x8", ignore_index=IGNORE)
    # Equal weights: the sampler already corrects for rare classes.
    weights = table.weights("uniform", split="train", ignore_index=IGNORE)
    sampler = PatchSampler(
        images.files,
        table,
        crop=size,
        split="train",
        seed=arguments.seed,
        num_samples=arguments.draws,
    )
    run = begin(
        Crops(images),
        weights,
        ce=0.6,
        dice=0.4,
        sampler=sampler,
        epochs=arguments.epochs,
        lr=arguments.lr,
        seed=arguments.seed,
    )
    while run.epoch < arguments.epochs:
        print(f"epoch {run.epoch + 1}: loss {run.train_epoch():.4f}", flush=True)

    iou, recall = scores(confusion(run.model, held_out, len(weights)))
    for row, class_iou, class_recall in zip(weights.classes, iou, recall, strict=True):
        print(f"{row['name']:<16} IoU {class_iou:6.1%}   recall {class_recall:6.1%}")
    print(f"mean IoU {iou.nanmean():.1%}")


if __name__ == "__main__":
    main()
