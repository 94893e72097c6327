"""Train a small U-Net on street scenes, with class weights, loss and sampler from statsvc.

Start the server with `make run`, which also draws the label maps. Then, with PyTorch and Pillow installed:

    python examples/train.py http://127.0.0.1:8000 .run/labels --checkpoint last.pt

The images are generated from the label maps: a color for each class, plus noise. Nothing is downloaded.
If the checkpoint exists, training continues from it with the class weights that it contains.
`--method uniform --dice 0 --shuffle` is plain cross-entropy, which hardly detects small objects.
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
from statsvc.samplers import RareClassSampler, StatisticsSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    Sampler = StatisticsSampler | RandomSampler

IGNORE = 255
MIN_PIXELS = 1
"""An image is eligible for a class from this many pixels on. No traffic light has the default, 0.6 %."""


class Streets(Dataset[tuple[Tensor, Tensor]]):
    """(image float32 [3, height, width], label int64 [height, width]) of each label map in a folder.

    An image depends only on its label map and its index, so it is the same in every epoch and run.
    """

    def __init__(self, folder: Path, step: int = 1, noise: float = 0.3) -> None:
        self.files = sorted(folder.glob("*.png"))
        if not self.files:
            raise SystemExit(
                f"{folder} contains no *.png label maps. Pass the folder that contains train/ and val/"
            )
        with Image.open(self.files[0]) as first:
            width, height = first.size
        reduced = (-(-width // step), -(-height // step))
        if any(size % 4 for size in reduced):
            raise SystemExit(
                f"--step {step} reduces {width}x{height} to {reduced[0]}x{reduced[1]}, but the network needs "
                "multiples of 4. Choose another --step"
            )
        self.step, self.noise = step, noise
        self.colors = np.random.default_rng(0).random((256, 3), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        label = np.asarray(Image.open(self.files[index]))[:: self.step, :: self.step]
        random = np.random.default_rng([index, label.size])
        brightness = random.uniform(0.7, 1.1)
        image = brightness * self.colors[label]
        image += self.noise * random.standard_normal(image.shape, dtype=np.float32)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label.astype(np.int64))


def convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """A U-Net with three resolutions. Height and width must be multiples of 4."""

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
    """The state of a training run, which its checkpoint stores."""

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
        if isinstance(self.loader.sampler, StatisticsSampler):
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
                    f"The loss is {loss.item():g} in epoch {self.epoch + 1}. Choose a smaller --lr. The "
                    "checkpoint, if any, is from the previous epoch"
                )
        self.epoch += 1
        return total / len(self.loader)

    def save(self, file: Path) -> None:
        """Write the checkpoint, including the class weights with their version and spec."""
        state: dict[str, Any] = {
            "class_weights": self.weights.to_dict(),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sampler": self._sampler_state(),
        }
        temporary = file.with_name(file.name + ".part")
        torch.save(state, temporary)
        temporary.replace(file)

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint. Raises `SystemExit` if this run would draw its images differently."""
        sampler = self.loader.sampler
        steps, saved_steps = self.schedule.total_steps, state["schedule"]["total_steps"]
        if steps != saved_steps:
            raise SystemExit(
                f"The checkpoint's learning rate schedule has {saved_steps} steps, but this run has {steps}. "
                "Resume with the same --epochs and the same images, or start without --checkpoint"
            )
        if (state["sampler"] is None) != (self._sampler_state() is None):
            raise SystemExit(
                "The checkpoint was saved with a different --shuffle setting. Resume with the same setting"
            )
        if isinstance(sampler, StatisticsSampler):
            sampler.load_state_dict(state["sampler"])
        self.epoch = state["epoch"]
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])

    def _sampler_state(self) -> dict[str, Any] | None:
        sampler = self.loader.sampler
        return sampler.state_dict() if isinstance(sampler, StatisticsSampler) else None


def begin(
    data: Dataset[tuple[Tensor, Tensor]],
    weights: statsvc.ClassWeights,
    *,
    ce: float,
    dice: float,
    sampler: Sampler | None,
    epochs: int,
    lr: float,
    seed: int = 0,
) -> Run:
    """Return a new run. The seed determines the initial network and the order of images."""
    torch.manual_seed(seed)
    model = UNet(len(weights)).to(memory_format=torch.channels_last)  # 25 % faster on a CPU
    criterion = CombinedLoss(ce_weight=ce, dice_weight=dice, ignore_index=IGNORE, class_weights=weights)
    if sampler is None:
        sampler = RandomSampler(data, generator=torch.Generator())
    loader = DataLoader(data, batch_size=4, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    return Run(model, criterion, loader, optimizer, schedule, weights, seed)


def confusion(model: nn.Module, data: Streets, classes: int) -> Tensor:
    """Return the confusion matrix, int64 [classes, classes]: row is the class, column the prediction."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    model.eval()
    with torch.inference_mode():
        for image, label in DataLoader(data, batch_size=16):
            valid = label != IGNORE
            pairs = label[valid] * classes + model(image).argmax(1)[valid]
            matrix += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return matrix


def scores(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and recall of each class, float64 [C], from a confusion matrix; NaN for absent classes."""
    correct, target, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    return correct / (target + predicted - matrix.diagonal()), correct / target


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument(
        "labels", nargs="?", type=Path, default=Path(".run/labels"), help="folder with train/ and val/"
    )
    parser.add_argument("--dataset", help="name on the server; optional if it has one dataset")
    parser.add_argument(
        "--method", default="sqrt_inv_freq", help="weighting method; uniform means no weights"
    )
    parser.add_argument("--ce", type=float, default=0.6, help="factor of cross-entropy in the loss")
    parser.add_argument("--dice", type=float, default=0.4, help="factor of Dice in the loss")
    parser.add_argument(
        "--shuffle", action="store_true", help="shuffle instead of sampling rare classes more often"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--step", type=int, default=4, help="use every n-th row and column")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--checkpoint", type=Path, help="continue from it if it exists; write it after each epoch"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    resumed: dict[str, Any] = {}
    if arguments.checkpoint is not None and arguments.checkpoint.exists():
        resumed = torch.load(arguments.checkpoint, weights_only=True)
    data, held_out = (Streets(arguments.labels / split, arguments.step) for split in ("train", "val"))

    # Weights for the stream that the sampler draws from the training split. A resumed run uses those of its
    # checkpoint, even if the dataset has grown since.
    client = statsvc.Client(arguments.url)
    weights = client.weights(
        arguments.dataset,
        method=arguments.method,
        split="train",
        ignore_index=IGNORE,
        sampler=None if arguments.shuffle else "rare_class",
        min_pixels=None if arguments.shuffle else MIN_PIXELS,
        pinned=resumed.get("class_weights"),
    )
    sampler = None
    if not arguments.shuffle:
        sampler = RareClassSampler(
            data.files,
            client,
            dataset=weights.dataset,
            version=weights.version,
            split="train",
            ignore_index=IGNORE,
            min_pixels=MIN_PIXELS,
            seed=arguments.seed,
        )
    print(weights, weights.spec)
    run = begin(
        data,
        weights,
        ce=arguments.ce,
        dice=arguments.dice,
        sampler=sampler,
        epochs=arguments.epochs,
        lr=arguments.lr,
        seed=arguments.seed,
    )
    if resumed:
        run.resume(resumed)
        print(f"resumed after epoch {run.epoch}")
    while run.epoch < arguments.epochs:
        loss = run.train_epoch()
        if arguments.checkpoint is not None:
            run.save(arguments.checkpoint)
        print(f"epoch {run.epoch}: loss {loss:.4f}", flush=True)

    iou, recall = scores(confusion(run.model, held_out, len(weights)))
    for row, class_iou, class_recall, weight in zip(
        weights.classes, iou, recall, weights.to_list(), strict=True
    ):
        print(f"{row['name']:<16} weight {weight:7.4f}   IoU {class_iou:6.1%}   recall {class_recall:6.1%}")
    print(f"mean IoU {iou.nanmean():.1%}")


if __name__ == "__main__":
    main()
