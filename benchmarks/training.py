"""What weights, Dice and sampling do to each class: examples/train.py over variants, ratios and seeds.

    python benchmarks/training.py run [--only table|sweep|slow|long] [--seeds 0,1,2] [--jobs 2] [--minutes 9]
    python benchmarks/training.py report     # prints the tables of training-experiment.md; draws its picture

Each run ends as a line of docs/data/training.json, and runs that have one are not made again: delete the
file to start over. No run is begun after `--minutes`; the same command goes on. All runs of a seed have the
same initial network and, but for the long ones, the same number of steps; those that do not sample, also the
same order of images. Each run has one thread, so results do not depend on how many there are at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "data" / "training.json"
PICTURE = ROOT / "docs" / "images" / "training.png"
LABELS = ROOT / ".run" / "training"

SETTINGS: dict[str, Any] = {"images": 1000, "size": [128, 64], "noise": 0.3, "epochs": 2, "min_pixels": 1}
"""What all runs share."""

LR = 0.1
"""Of 0.01, 0.03 and 0.1 the best for plain cross-entropy, with a seed that is not among the results."""

RARE = 0.01
"""A class with a smaller share of the training pixels is called rare."""


class Variant(NamedTuple):
    """What differs between runs of one seed; `long` multiplies the epochs."""

    method: str
    ce: float
    dice: float
    sampled: bool = False
    long: int = 1
    lr: float = LR


TABLE = {
    "CE": Variant("uniform", 1.0, 0.0),
    "weighted CE": Variant("sqrt_inv_freq", 1.0, 0.0),
    "CE + Dice": Variant("uniform", 0.6, 0.4),
    "weighted CE + Dice": Variant("sqrt_inv_freq", 0.6, 0.4),
    "CE, sampled": Variant("uniform", 1.0, 0.0, sampled=True),
    "weighted CE + Dice, sampled": Variant("sqrt_inv_freq", 0.6, 0.4, sampled=True),
}
METHODS = ("uniform", "enet", "sqrt_inv_freq", "median_freq", "inverse_freq")
RATIOS = ((0.7, 0.3), (0.6, 0.4), (0.5, 0.5), (0.4, 0.6))
SWEEP = [Variant(method, *ratio) for method in METHODS for ratio in RATIOS]
BOTH_ENDS = ("CE", "weighted CE + Dice")
SLOW = {f"{name}, learning rate 0.03": TABLE[name]._replace(lr=0.03) for name in BOTH_ENDS}
LONG = {f"{name}, 4 times as long": TABLE[name]._replace(long=4) for name in BOTH_ENDS}
PARTS = {"table": [*TABLE.values()], "sweep": SWEEP, "slow": [*SLOW.values()], "long": [*LONG.values()]}


def train(variant: Variant, seed: int) -> dict[str, Any]:
    """Make one run; return its line."""
    import torch

    from statsvc.samplers import RareClassSampler

    sys.path.insert(0, str(ROOT / "examples"))
    import train as example

    torch.set_num_threads(1)
    began = time.process_time()
    split = {"split": "train", "ignore_index": example.IGNORE}
    stream = {"min_pixels": SETTINGS["min_pixels"]} if variant.sampled else {}
    table = counted()
    weights = table.weights(
        variant.method, sampler="rare_class" if variant.sampled else None, **split, **stream
    )
    train, val = (example.Streets(LABELS / part, noise=SETTINGS["noise"]) for part in ("train", "val"))
    sampler = RareClassSampler(train.files, table, seed=seed, **split, **stream) if variant.sampled else None
    epochs = SETTINGS["epochs"] * variant.long
    run = example.begin(
        train,
        weights,
        ce=variant.ce,
        dice=variant.dice,
        sampler=sampler,
        epochs=epochs,
        lr=variant.lr,
        seed=seed,
    )
    losses = [run.train_epoch() for _ in range(epochs)]
    iou, recall = example.scores(example.confusion(run.model, val, len(weights)))
    return {
        **variant._asdict(),
        "seed": seed,
        "iou": [round(one, 4) for one in iou.tolist()],
        "recall": [round(one, 4) for one in recall.tolist()],
        "loss": [round(loss, 4) for loss in losses],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def counted() -> Any:
    """Return the statistics of the label maps, which are drawn where they are missing."""
    import statsvc
    from statsvc.local.demo import CLASS_NAMES, make_demo

    LABELS.parent.mkdir(exist_ok=True)
    make_demo(LABELS, images=SETTINGS["images"], size=tuple(SETTINGS["size"]))
    return statsvc.scan(LABELS, class_names=CLASS_NAMES, num_classes=len(CLASS_NAMES), workers=1)


def read() -> dict[str, Any]:
    """Return the file of runs, empty ones where there is none."""
    if not RUNS.exists():
        rows = counted().weights(split="train", ignore_index=255).classes
        classes = [{"name": row["name"], "share": round(row["frequency"], 6)} for row in rows]
        return {"settings": SETTINGS, "classes": classes, "runs": []}
    found: dict[str, Any] = json.loads(RUNS.read_text())
    if found["settings"] != SETTINGS:
        raise SystemExit(f"{RUNS} was made with {found['settings']}, not {SETTINGS}: delete it")
    return found


def write(found: dict[str, Any]) -> None:
    """Write the file of runs, a line for each class and run."""
    RUNS.parent.mkdir(exist_ok=True)
    classes, runs = (
        ",\n".join("  " + json.dumps(line) for line in found[name]) for name in ("classes", "runs")
    )
    head = json.dumps(found["settings"])
    text = f'{{"settings": {head},\n "classes": [\n{classes}\n ],\n "runs": [\n{runs}\n ]}}\n'
    part = RUNS.with_name(RUNS.name + ".part")
    part.write_text(text)
    part.replace(RUNS)


def make_runs(only: list[str], seeds: list[int], jobs: int, minutes: float) -> None:
    """Make the runs that are missing, until the time is over."""
    counted()  # before there are several processes that would draw label maps
    found = read()
    done = {_key(line) for line in found["runs"]}
    wanted = dict.fromkeys((variant, seed) for part in only for seed in seeds for variant in PARTS[part])
    missing = [one for one in wanted if one not in done]
    todo, deadline = iter(missing), time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(train, *one) for one in itertools.islice(todo, jobs)}
        made = 0
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                line = future.result()
                found["runs"] = sorted([*found["runs"], line], key=_key)
                write(found)
                made += 1
                print(f"{made} of {len(missing)}: {line}", flush=True)
                if time.monotonic() < deadline:
                    running |= {pool.submit(train, *one) for one in itertools.islice(todo, 1)}
    print(f"{len(missing) - made} left")


def _key(line: dict[str, Any]) -> tuple[Variant, int]:
    return Variant(*(line[name] for name in Variant._fields)), line["seed"]


class Results:
    """The runs of a file; classes from frequent to rare."""

    def __init__(self, found: dict[str, Any]) -> None:
        shares = np.array([one["share"] for one in found["classes"]])
        self.order = np.argsort(-shares, kind="stable")
        self.names = [found["classes"][at]["name"] for at in self.order]
        self.shares = shares[self.order]
        self.rare = self.shares < RARE
        self.runs = {_key(line): line for line in found["runs"]}

    def seeds(self, variants: Iterable[Variant]) -> list[int]:
        """Return the seeds with which all of the variants were run."""
        return sorted(set.intersection(*({seed for one, seed in self.runs if one == v} for v in variants)))

    def score(self, variant: Variant, seeds: list[int], name: str = "iou") -> NDArray[np.float64]:
        """Return IoU, or recall, in percent, float64 [seeds, C]."""
        lines = [self.runs[variant, seed][name] for seed in seeds]
        return 100 * np.array(lines, float)[:, self.order]

    def mean(self, variant: Variant, seeds: list[int], group: str, name: str = "iou") -> NDArray[np.float64]:
        """Return the mean over classes, "frequent", "rare" or "all" of them, of each seed."""
        chosen = {"frequent": ~self.rare, "rare": self.rare, "all": self.shares > 0}[group]
        mean: NDArray[np.float64] = self.score(variant, seeds, name)[:, chosen].mean(1)
        return mean


def _spread(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def classes_table(results: Results, variants: dict[str, Variant]) -> str:
    """Return IoU of each class by variant as Markdown: mean ± standard deviation over seeds."""
    columns = [(one, results.seeds([one])) for one in variants.values()]
    lines = [
        f"| class | pixels | {' | '.join(variants)} |",
        f"|---|--:|{'--:|' * len(variants)}",
    ]
    for at, name in enumerate(results.names):
        cells = [_spread(results.score(one, seeds)[:, at]) for one, seeds in columns]
        lines.append(f"| {name} | {results.shares[at]:.3%} | {' | '.join(cells)} |")
    for name, kind in (("iou", "IoU"), ("recall", "recall")):
        for group in ("frequent", "rare", "all"):
            cells = [_spread(results.mean(one, seeds, group, name)) for one, seeds in columns]
            lines.append(f"| **mean {kind}, {group}** | | {' | '.join(cells)} |")
    lines.append(f"| seeds | | {' | '.join(str(len(seeds)) for _, seeds in columns)} |")
    return "\n".join(lines)


def sweep_table(results: Results, group: str) -> str:
    """Return the mean IoU of a group of classes by method and ratio as Markdown."""
    seeds = results.seeds(SWEEP)
    heads = [f"{ce:g} : {dice:g}" for ce, dice in RATIOS]
    lines = [f"| {group} classes, {len(seeds)} seeds | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for method in METHODS:
        cells = [_spread(results.mean(Variant(method, *ratio), seeds, group)) for ratio in RATIOS]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(found: dict[str, Any]) -> str:
    """Return the tables of docs/explanation/training-experiment.md."""
    results = Results(found)
    seconds = [line["cpu_seconds"] for line in found["runs"] if line["long"] == 1]
    parts = [
        classes_table(results, TABLE),
        *(sweep_table(results, group) for group in ("rare", "frequent", "all")),
        classes_table(results, SLOW | LONG),
        f"{len(found['runs'])} runs. A run of {SETTINGS['epochs']} epochs took {np.median(seconds):.0f} s of "
        "one core (median).",
    ]
    return "\n\n".join(parts)


COLOURS = ("#6b7280", "#9ec5e0", "#e8b26a", "#2a6f97", "#c9ccd1", "#b3432b")


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw IoU of each class by variant, and the sweep's mean of rare classes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    results = Results(found)
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=[1.5, 1])
        _draw_classes(figure.add_subplot(grid[0, :]), results)
        for column, group in enumerate(("rare", "frequent")):
            _draw_sweep(figure.add_subplot(grid[1, column]), results, group)
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=96, facecolor="white", pil_kwargs={"optimize": True})


def _draw_classes(axes: Axes, results: Results) -> None:
    wide = 0.8 / len(TABLE)
    seeds = results.seeds(TABLE.values())
    for number, ((name, variant), colour) in enumerate(zip(TABLE.items(), COLOURS, strict=True)):
        iou = results.score(variant, seeds)
        x = np.arange(len(results.names)) - 0.4 + (number + 0.5) * wide
        axes.bar(x, iou.mean(0), wide * 0.92, color=colour, label=name)
        axes.vlines(x, iou.min(0), iou.max(0), color="#1f2937", linewidth=1)
        axes.plot(np.tile(x, len(iou)), iou.ravel(), ".", color="#1f2937", markersize=2.5)
    labels = [
        f"{name}\n{100 * share:.2g} %"
        for name, share in zip(results.names, results.shares.tolist(), strict=True)
    ]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel("IoU, %")
    axes.set_ylim(0, 101)
    axes.axvline((~results.rare).sum() - 0.5, color="#6b7280", linewidth=0.8, linestyle=":")
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"IoU of each class (share of the pixels below its name): mean and each of {len(seeds)} seeds",
        loc="left",
    )
    axes.legend(ncols=len(TABLE), loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)


def _draw_sweep(axes: Axes, results: Results, group: str) -> None:
    seeds = results.seeds(SWEEP)
    mean = np.array(
        [
            [results.mean(Variant(method, *ratio), seeds, group).mean() for ratio in RATIOS]
            for method in METHODS
        ]
    )  # fmt: skip
    low, high = mean.min(), mean.max()
    axes.imshow(mean, aspect="auto", cmap="YlGnBu", vmin=low - 0.05, vmax=high + 0.05)
    for (y, x), value in np.ndenumerate(mean):
        dark = value > low + 0.55 * (high - low)
        axes.text(x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else "#1f2937")
    axes.set_xticks(range(len(RATIOS)), [f"{ce:g} : {dice:g}" for ce, dice in RATIOS])
    axes.set_yticks(range(len(METHODS)), METHODS)
    axes.set_xlabel("CE : Dice")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Mean IoU of the {group} classes, %, {len(seeds)} seeds", loc="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--only", action="append", choices=list(PARTS), help="by default all, in this order")
    run.add_argument("--seeds", default="0,1,2")
    run.add_argument("--jobs", type=int, default=2)
    run.add_argument("--minutes", type=float, default=9.0, help="no run is begun later")
    commands.add_parser("report")
    asked = parser.parse_args()
    if asked.command == "run":
        seeds = [int(seed) for seed in asked.seeds.split(",")]
        make_runs(asked.only or list(PARTS), seeds, asked.jobs, asked.minutes)
    else:
        found = read()
        print(report(found))
        draw(found, PICTURE)


if __name__ == "__main__":
    main()
