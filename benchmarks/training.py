"""Effect of class weights, Dice loss and samplers on each class of CamVid, over several seeds.

    python benchmarks/training.py run --images DIR --labels DIR [--only whole] [--minutes 9]
    python benchmarks/training.py report     # writes the tables of training-experiment.md, draws its figure

Both folders contain train/ and val/, with the same names of files. The first call computes the features of
the photographs (about 90 s of one core, 600 MB in .run/camvid). Each run adds a line to
docs/data/training.json; delete the file to repeat existing runs. No run starts after `--minutes`; the same
command continues later, seed by seed. All runs of a seed have the same initial network and the same number
of steps; runs without a sampler also have the same order of images, mirror images and crops. Each run uses
one thread, so that results do not depend on the number of parallel runs.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from training_report import FIGURE, PAGE, README, Results, draw, insert, readme, report
from training_runs import (
    GROUPS,
    NAMES,
    ROOT,
    RUNS,
    SETTINGS,
    TUNE,
    TUNE_SEED,
    Variant,
    key,
    read,
    sort_key,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from statsvc.local.scan import LocalTable

FEATURES = ROOT / ".run" / "camvid"

VOID = 11


@functools.cache
def scan(labels: Path) -> LocalTable:
    """Return the statistics of the label maps, once in each process."""
    import statsvc

    return statsvc.scan(
        labels,
        name="camvid",
        class_names=NAMES,
        num_classes=len(NAMES),
        ignore_index=VOID,
        grid="8x8",
        workers=1,
    )


def train(
    variant: Variant, seed: int, labels: Path, features: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Train once; return the run's line of the file, and the classes with their shares."""
    import frozen_encoder
    import torch

    from statsvc.losses import CombinedLoss

    torch.set_num_threads(1)
    table = scan(labels)
    start = time.process_time()
    crop = "x".join(map(str, settings["crop"])) if variant.crop_weights else None
    weights = table.weights(
        variant.method, split="train", ignore_index=VOID, strength=variant.strength, crop=crop
    )
    criterion = CombinedLoss(
        ce_weight=variant.ce, dice_weight=variant.dice, ignore_index=VOID, class_weights=weights
    )
    data = frozen_encoder.load(features, "train")
    torch.manual_seed(seed)
    model: Any = frozen_encoder.Decoder(len(NAMES))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), variant.lr)
    steps = settings["epochs"] * (len(data.labels) // settings["images_per_step"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, variant.lr, total_steps=steps, pct_start=0.15)
    losses = []
    for batch in batches(variant, seed, data, table, labels, settings):
        levels, label = data.batch(*batch)
        loss = criterion(model(levels), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    iou, recall = scores(confusion(model, frozen_encoder.load(features, "val")))
    epochs = np.array(losses).reshape(settings["epochs"], -1).mean(1)
    return {
        **variant._asdict(),
        "seed": seed,
        "iou": np.round(iou, 4).tolist(),
        "recall": np.round(recall, 4).tolist(),
        "loss": np.round(epochs, 4).tolist(),
        "classes": [{"name": row["name"], "share": round(row["frequency"], 6)} for row in weights.classes],
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def batches(
    variant: Variant, seed: int, data: Any, table: LocalTable, labels: Path, settings: dict[str, Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield items, mirrored and windows of each step of a run, for `Features.batch`."""
    from statsvc.samplers import PatchSampler, RareClassSampler

    crops = variant.seen == "crops"
    size = settings["crops_per_step" if crops else "images_per_step"]
    steps = len(data.labels) // settings["images_per_step"]
    height, width = data.labels.shape[1:]
    crop_height, crop_width = settings["crop"]
    options = {"split": "train", "ignore_index": VOID, "seed": seed, "num_samples": steps * size}
    paths = sorted((labels / "train").glob("*.png"))
    sampler: RareClassSampler | PatchSampler | None = None
    if variant.sampler == "rare_class":
        sampler = RareClassSampler(paths, table, **options)
    elif variant.sampler == "patches":
        sampler = PatchSampler(paths, table, crop=(crop_height, crop_width), **options)
    for epoch in range(settings["epochs"]):
        random = np.random.default_rng([seed, epoch])
        order = np.concatenate(
            [random.permutation(len(data.labels)) for _ in range(-(-steps * size // len(data.labels)))]
        )
        mirrored = random.random(steps * size) < 0.5
        top = random.integers(0, height - crop_height + 1, steps * size)
        left = random.integers(0, width - crop_width + 1, steps * size)
        items = order[: steps * size].tolist()
        windows = [
            (*corner, crop_height, crop_width) for corner in zip(top.tolist(), left.tolist(), strict=True)
        ]
        if sampler is not None:
            sampler.set_epoch(epoch)
            items = list(sampler)
            if variant.sampler == "patches":
                items, windows = map(list, zip(*items, strict=True))
        for step in range(steps):
            part = slice(step * size, (step + 1) * size)
            yield items[part], mirrored[part], windows[part] if crops else None


def confusion(model: Any, data: Any) -> NDArray[np.int64]:
    """Return the confusion matrix of whole images, int64 [C, C]: row is the class, column the prediction."""
    import torch

    matrix = np.zeros((len(NAMES), len(NAMES)), np.int64)
    model.eval()
    with torch.inference_mode():
        for item in range(len(data.labels)):
            levels, _ = data.batch([item], [False])
            label = data.labels[item]
            logits = torch.nn.functional.interpolate(model(levels), size=label.shape, mode="bilinear")
            valid = label != VOID
            pairs = label[valid].astype(np.int64) * len(NAMES) + logits.argmax(1)[0].numpy()[valid]
            matrix += np.bincount(pairs, minlength=matrix.size).reshape(matrix.shape)
    return matrix


def scores(matrix: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return IoU and recall of each class, float64 [C], from a confusion matrix."""
    correct, target, predicted = matrix.diagonal().astype(float), matrix.sum(1), matrix.sum(0)
    return correct / (target + predicted - correct), correct / target


def train_missing(
    wanted: Iterable[tuple[Variant, int]],
    labels: Path,
    *,
    features: Path = FEATURES,
    file: Path = RUNS,
    settings: dict[str, Any] = SETTINGS,
    jobs: int = 1,
    minutes: float = 9.0,
) -> int:
    """Train the missing runs until the time is over; return how many are left."""
    data = read(file, settings)
    finished = {key(line) for line in data["runs"]}
    missing = [run for run in wanted if run not in finished]
    waiting, deadline = iter(missing), time.monotonic() + 60 * minutes
    completed = 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:

        def submit(count: int) -> set[Any]:
            runs = itertools.islice(waiting, count)
            return {pool.submit(train, *run, labels, features, settings) for run in runs}

        running = submit(jobs)
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                line = future.result()
                data["classes"] = line.pop("classes")
                data["runs"] = sorted([*data["runs"], line], key=sort_key)
                write(data, file)
                completed += 1
                print(f"{completed} of {len(missing)}: {line}", flush=True)
                if time.monotonic() < deadline:
                    running |= submit(1)
    print(f"{len(missing) - completed} runs left")
    return len(missing) - completed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--images", type=Path, required=True, help="photographs of CamVid: train/ and val/")
    run.add_argument("--labels", type=Path, required=True, help="label maps of CamVid: train/ and val/")
    run.add_argument("--only", action="append", choices=list(GROUPS), help="runs to train; default: all")
    run.add_argument("--seeds", default="0,1,2,3,4")
    run.add_argument("--jobs", type=int, default=2)
    run.add_argument("--minutes", type=float, default=9.0, help="start no run after this time")
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        for split in ("train", "val"):
            if (FEATURES / f"{split}_labels.npy").exists():
                continue
            import frozen_encoder

            folders = options.images / split, options.labels / split
            frozen_encoder.store(FEATURES, split, *folders, mirrored=split == "train")
        groups = options.only or list(GROUPS)
        wanted = [(variant, TUNE_SEED) for variant in TUNE.values()] if "tune" in groups else []
        # Seed by seed, so that the result of an interrupted command is balanced.
        for seed in map(int, options.seeds.split(",")):
            wanted += [(v, seed) for name in groups if name != "tune" for v in GROUPS[name].values()]
        train_missing(wanted, options.labels, jobs=options.jobs, minutes=options.minutes)
    else:
        data = read()
        PAGE.write_text(insert(PAGE.read_text(), report(data)))
        README.write_text(insert(README.read_text(), {"experiment": readme(Results(data))}))
        draw(data, FIGURE)
        print("written:", *(file.relative_to(ROOT) for file in (PAGE, README, FIGURE)))


if __name__ == "__main__":
    main()
