"""Shares under random crops, and windows of `PatchSampler`, compared with the pixels of label maps.

    python benchmarks/crops.py FOLDER [--grid 8x8] [--crop 128x128] [--ignore ID] [--windows 2000]
        [--simulated 6000]

For images, prints the largest relative error of a class's share: under uniform crops, against the inclusion
of every pixel; with images resized by 0.5 to 2 before, against the same for resized label maps; and with
`cat_max_ratio=0.75`, against simulated crops and their standard error. Then draws windows for each class
alone on two ranks, both resumed in the middle of the epoch, and compares each window with the pixels, next to
the share of uniformly random crops that contain the class. With a grid and a crop of three parts, the label
maps are NIfTI volumes.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import statsvc
from statsvc.samplers import PatchSampler, crop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SCALES = np.linspace(0.5, 2, 17)[:-1] + 1.5 / 32
"""The middles of 16 equal parts of the range."""

MAX_RATIO, TRIES, BATCHES = 0.75, 10, 20


def load(path: str) -> np.ndarray:
    """Return the labels, [H, W] or [D, H, W]."""
    if ".nii" in path:
        import nibabel

        return np.asarray(nibabel.load(path).dataobj).T
    with Image.open(path) as image:
        return np.asarray(image)


def drawn_on_two_ranks(sampler: type[PatchSampler], *arguments: Any, **options: Any) -> list[Any]:
    """Return the windows of two ranks, each from a sampler that was resumed after a third of its draws."""
    parts = []
    for rank in (0, 1):
        first = sampler(*arguments, **options, rank=rank, num_replicas=2)
        iterator = iter(first)
        part = [next(iterator) for _ in range(len(first) // 3)]
        resumed = sampler(*arguments, **options, rank=rank, num_replicas=2)
        resumed.load_state_dict(first.state_dict())
        parts.append(part + list(resumed))
    return list(chain.from_iterable(zip(*parts, strict=True)))


def counted(weights: statsvc.ClassWeights) -> list[dict[str, object]]:
    """Return the classes that occur and are not ignored."""
    return [row for row in weights.classes if not row.get("ignored") and not row.get("absent")]


def inclusion(length: int, size: int) -> NDArray[np.float64]:
    """Return the share of crops that contain each pixel of an axis, by adding up all crops."""
    size = min(size, length)
    ends = np.zeros(length + 1)
    ends[: length - size + 1] += 1
    ends[size:] -= 1
    share: NDArray[np.float64] = np.cumsum(ends)[:-1] / (length - size + 1)
    return share


def exact_shares(
    images: Iterable[NDArray[np.uint8]], size: tuple[int, int], ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of each id in one crop of each image, from every pixel."""
    total = np.zeros(len(ids))
    for image in images:
        weight = np.outer(inclusion(image.shape[0], size[0]), inclusion(image.shape[1], size[1]))
        total += np.bincount(image.reshape(-1), weight.reshape(-1), 256)[ids]
    share: NDArray[np.float64] = total / total.sum()
    return share


def resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    height, width = (int(length * scale + 0.5) for length in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))


def simulated(
    images: list[NDArray[np.uint8]], size: tuple[int, int], ids: NDArray[np.int64], crops: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shares under crops that are drawn again as by MMSegmentation, and relative standard errors."""
    random = np.random.default_rng(0)
    batches = np.zeros((BATCHES, len(ids)))
    for number in range(crops):
        image = images[random.integers(len(images))]
        lengths = np.minimum(size, image.shape)
        for _ in range(TRIES + 1):
            start = random.integers(0, np.array(image.shape) - lengths + 1)
            counts = np.bincount(crop(image, (*start, *lengths)).reshape(-1), minlength=256)[ids]
            if counts.max() < MAX_RATIO * counts.sum():
                break
        batches[number % BATCHES] += counts
    total = batches.sum(axis=0)
    of_batches = batches / batches.sum(axis=1, keepdims=True)
    return total / total.sum(), of_batches.std(axis=0, ddof=1) / BATCHES**0.5 / (total / total.sum())


def check_shares(
    table: statsvc.local.scan.LocalTable, images: list[NDArray[np.uint8]], size: tuple[int, int], crops: int
) -> None:
    """Print the largest relative errors of the shares under crops."""
    ids = np.array([row["id"] for row in counted(table.weights("uniform"))])

    def worst(expected: NDArray[np.float64], **params: Any) -> NDArray[np.float64]:
        rows = counted(table.weights(crop="x".join(map(str, size)), **params))
        pixels = np.array([row["pixels"] for row in rows], float)
        return abs(pixels / pixels.sum() / expected - 1)

    exact = worst(exact_shares(images, size, ids))
    print(f"  uniform crops: at most {exact.max():.2%}, class {ids[exact.argmax()]}")
    scaled = worst(exact_shares((resized(i, s) for i in images for s in SCALES), size, ids), scale="0.5:2")
    print(f"  scale 0.5:2: at most {scaled.max():.2%}, class {ids[scaled.argmax()]}")
    shares, errors = simulated(images, size, ids, crops)
    difference = worst(shares, cat_max_ratio=MAX_RATIO)
    k = int(difference.argmax())
    print(f"  cat_max_ratio {MAX_RATIO}, {crops} crops: at most {difference.max():.1%}, class {ids[k]},")
    print(f"    whose standard error is {errors[k]:.1%}; {np.mean(difference <= 2 * errors):.0%} within two")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grid", default="8x8")
    parser.add_argument("--crop", default="128x128", metavar="[Dx]HxW")
    parser.add_argument("--ignore", type=int, metavar="ID")
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--simulated", type=int, default=6000)
    options = parser.parse_args()
    size = tuple(map(int, options.crop.split("x")))
    table = statsvc.scan(options.folder, grid=options.grid, ignore_index=options.ignore)
    paths = [str(options.folder / path) for path in table.rows.path]
    labels = [load(path) for path in paths]
    if len(size) == 2:
        check_shares(table, labels, size, options.simulated)
    random = np.random.default_rng(0)
    wrong = 0
    for row in counted(table.weights("uniform")) if options.windows else ():
        arguments = {"crop": size, "probabilities": {row["id"]: 1.0}, "num_samples": options.windows}
        whole = list(PatchSampler(paths, table, **arguments))
        windows = drawn_on_two_ranks(PatchSampler, paths, table, **arguments)
        assert windows == whole, "two ranks and a resumed run draw other windows"
        hits = sum((crop(labels[index], window) == row["id"]).any() for index, window in windows)
        uniform = 0
        for _ in range(options.windows):
            image = labels[random.integers(len(labels))]
            lengths = np.minimum(size, image.shape)
            start = random.integers(0, np.array(image.shape) - lengths + 1)
            uniform += (crop(image, (*start.tolist(), *lengths.tolist())) == row["id"]).any()
        wrong += len(windows) - hits
        share, by_chance = hits / len(windows), uniform / options.windows
        print(f"{row['name']:>12}  {len(windows)} windows  {share:7.2%}  uniform crops {by_chance:7.2%}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
