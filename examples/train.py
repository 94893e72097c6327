"""Train a small U-Net on street scenes, with class weights, loss and sampler from statsvc.

Start the server with `make run`, which also draws the label maps, then, with PyTorch and Pillow installed:

    python examples/train.py http://127.0.0.1:8000 .run/labels --checkpoint last.pt

The images are made from the label maps, a colour for each class under noise, so that nothing has to be
downloaded. Run again with a checkpoint, it goes on from there, with the weights that the checkpoint holds.
`--method uniform --dice 0 --shuffle` is plain cross-entropy: small things drown in the noise.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

import statsvc
from statsvc.losses import CombinedLoss
from statsvc.samplers import RareClassSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    Sampler = RareClassSampler | RandomSampler

IGNORE = 255
MIN_PIXELS = 1
"""Of a class, for an image to count for it. By default 0.6 % of an image, which no traffic light has."""


class Streets(Dataset[tuple[Tensor, Tensor]]):
    """(image float32 [3, height, width], label int64 [height, width]) of each label map in a folder.

    An image depends on its label map and its place in the folder alone: the same in every epoch and run.
    """

    def __init__(self, folder: Path, step: int = 1, noise: float = 0.3) -> None:
        self.files = sorted(folder.glob("*.png"))
        if not self.files:
            raise SystemExit(f"{folder} has no *.png label maps; give the folder that has train/ and val/")
        with Image.open(self.files[0]) as first:
            width, height = first.size
        if -(-width // step) % 4 or -(-height // step) % 4:
            raise SystemExit(
                f"--step {step} makes {-(-width // step)}x{-(-height // step)} of {width}x{height}, and the "
                "network needs multiples of 4: choose another step"
            )
        self.step, self.noise = step, noise
        self.colours = np.random.default_rng(0).random((256, 3), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        label = np.asarray(Image.open(self.files[index]))[:: self.step, :: self.step]
        random = np.random.default_rng([index, label.size])
        light = random.uniform(0.7, 1.1)
        image = light * self.colours[label]
        image += self.noise * random.standard_normal(image.shape, dtype=np.float32)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label.astype(np.int64))


def convolution(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class UNet(nn.Module):
    """Three resolutions, joined on the way back up; height and width are to be multiples of 4."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.fine = convolution(3, width)
        self.middle = convolution(width, 2 * width)
        self.coarse = convolution(2 * width, 4 * width)
        self.to_middle = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join_middle = convolution(4 * width, 2 * width)
        self.to_fine = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join_fine = convolution(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        middle = self.middle(self.pool(fine))
        coarse = self.coarse(self.pool(middle))
        middle = self.join_middle(torch.cat([self.to_middle(coarse), middle], 1))
        logits: Tensor = self.head(self.join_fine(torch.cat([self.to_fine(middle), fine], 1)))
        return logits


@dataclass
class Run:
    """A training run: what changes while it goes on, and what its checkpoint holds."""

    model: nn.Module
    criterion: CombinedLoss
    loader: DataLoader[tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR
    weights: statsvc.ClassWeights
    seed: int
    epoch: int = 0

    def train_epoch(self) -> float:
        """Train on one epoch; return the mean loss."""
        if isinstance(self.loader.sampler, RareClassSampler):
            self.loader.sampler.set_epoch(self.epoch)
        else:
            self.loader.sampler.generator.manual_seed(1000 * self.seed + self.epoch)
        self.model.train()
        total = 0.0
        for image, label in self.loader:
            loss = self.criterion(self.model(image), label)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
            if not math.isfinite(total):
                raise SystemExit(
                    f"the loss is {loss.item():g} in epoch {self.epoch + 1}: choose a smaller --lr; the "
                    "checkpoint, if there is one, is of the epoch before"
                )
        self.epoch += 1
        return total / len(self.loader)

    def save(self, file: Path) -> None:
        """Write the checkpoint; the weights go in with their version and spec."""
        state: dict[str, Any] = {
            "class_weights": self.weights.to_dict(),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sampler": self._sampler_state(),
        }
        part = file.with_name(file.name + ".part")
        torch.save(state, part)
        part.replace(file)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises `SystemExit` where this run draws its images otherwise."""
        sampler = self.loader.sampler
        steps, planned = self.schedule.total_steps, state["schedule"]["total_steps"]
        if steps != planned:
            raise SystemExit(
                f"the checkpoint's learning rate falls over {planned} steps, and this run has {steps}: "
                "resume with the same --epochs and the same images, or begin without --checkpoint"
            )
        if (state["sampler"] is None) != (self._sampler_state() is None):
            raise SystemExit("the checkpoint is of a run with the other choice of --shuffle")
        if isinstance(sampler, RareClassSampler):
            sampler.load_state_dict(state["sampler"])
        self.epoch = state["epoch"]
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])

    def _sampler_state(self) -> dict[str, Any] | None:
        sampler = self.loader.sampler
        return sampler.state_dict() if isinstance(sampler, RareClassSampler) else None


def begin(
    data: Streets,
    weights: statsvc.ClassWeights,
    *,
    ce: float,
    dice: float,
    sampler: Sampler | None,
    epochs: int,
    lr: float,
    seed: int = 0,
) -> Run:
    """Return a run at its start. The seed decides the network's initial weights and the order of images."""
    torch.manual_seed(seed)
    model = UNet(len(weights)).to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    criterion = CombinedLoss(ce_weight=ce, dice_weight=dice, ignore_index=IGNORE, class_weights=weights)
    if sampler is None:
        sampler = RandomSampler(data, generator=torch.Generator())
    loader = DataLoader(data, batch_size=4, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    return Run(model, criterion, loader, optimizer, schedule, weights, seed)


def confusion(model: nn.Module, data: Streets, classes: int) -> Tensor:
    """Return pixels of class (row) that were predicted as class (column), int64 [classes, classes]."""
    found = torch.zeros(classes, classes, dtype=torch.int64)
    model.eval()
    with torch.inference_mode():
        for image, label in DataLoader(data, batch_size=16):
            valid = label != IGNORE
            pairs = label[valid] * classes + model(image).argmax(1)[valid]
            found += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return found


def scores(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection over union and recall of each class, float64 [C]; NaN where there is nothing."""
    hit, there, said = found.diagonal().double(), found.sum(1), found.sum(0)
    return hit / (there + said - found.diagonal()), hit / there


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument(
        "labels", nargs="?", type=Path, default=Path(".run/labels"), help="has train/ and val/"
    )
    parser.add_argument("--dataset", help="of the server's; may be left out where there is one only")
    parser.add_argument("--method", default="sqrt_inv_freq", help="of class weights; uniform: none")
    parser.add_argument("--ce", type=float, default=0.6, help="part of cross-entropy in the loss")
    parser.add_argument("--dice", type=float, default=0.4, help="part of Dice in the loss")
    parser.add_argument("--shuffle", action="store_true", help="instead of drawing rare classes more often")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--step", type=int, default=4, help="take every n-th row and column")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="go on from it where it exists, and write it")
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)

    resumed: dict[str, Any] = {}
    if asked.checkpoint is not None and asked.checkpoint.exists():
        resumed = torch.load(asked.checkpoint, weights_only=True)
    data, held_out = (Streets(asked.labels / split, asked.step) for split in ("train", "val"))

    # Weights of what the trainer sees: the training split, as the sampler draws it. A resumed run has those
    # of its checkpoint, also where the dataset has grown since.
    client = statsvc.Client(asked.url)
    weights = client.weights(
        asked.dataset,
        method=asked.method,
        split="train",
        ignore_index=IGNORE,
        sampler=None if asked.shuffle else "rare_class",
        min_pixels=None if asked.shuffle else MIN_PIXELS,
        pinned=resumed.get("class_weights"),
    )
    sampler = None
    if not asked.shuffle:
        sampler = RareClassSampler(
            data.files,
            client,
            dataset=weights.dataset,
            version=weights.version,
            split="train",
            ignore_index=IGNORE,
            min_pixels=MIN_PIXELS,
            seed=asked.seed,
        )
    print(weights, weights.spec)
    run = begin(
        data,
        weights,
        ce=asked.ce,
        dice=asked.dice,
        sampler=sampler,
        epochs=asked.epochs,
        lr=asked.lr,
        seed=asked.seed,
    )
    if resumed:
        run.resume(resumed)
        print(f"resumed after epoch {run.epoch}")
    while run.epoch < asked.epochs:
        loss = run.train_epoch()
        if asked.checkpoint is not None:
            run.save(asked.checkpoint)
        print(f"epoch {run.epoch}: loss {loss:.4f}", flush=True)

    iou, recall = scores(confusion(run.model, held_out, len(weights)))
    for row, one, part, weight in zip(weights.classes, iou, recall, weights.to_list(), strict=True):
        print(f"{row['name']:<16} weight {weight:7.4f}   IoU {one:6.1%}   recall {part:6.1%}")
    print(f"mean IoU {iou.nanmean():.1%}")


if __name__ == "__main__":
    main()
