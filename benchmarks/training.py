"""Effect of class weights, Dice loss and sampling on each class: examples/train.py with variants and seeds.

    python benchmarks/training.py run [--only table|sweep|slow|long] [--seeds 0,1,2] [--jobs 2] [--minutes 9]
    python benchmarks/training.py report     # prints the tables of training-experiment.md; draws its figure

Each run adds a line to docs/data/training.json. Delete the file to repeat existing runs. No run starts
after `--minutes`; the same command continues later. All runs with the same seed have the same
initial network and, except for the long ones, the same number of steps; runs without a sampler also have the
same order of images. Each run uses one thread, so that results do not depend on the number of parallel runs.
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
FIGURE = ROOT / "docs" / "images" / "training.png"
LABELS = ROOT / ".run" / "training"

SETTINGS: dict[str, Any] = {"images": 1000, "size": [128, 64], "noise": 0.3, "epochs": 2, "min_pixels": 1}
"""Settings of all runs."""

LR = 0.1
"""The best of 0.01, 0.03 and 0.1 for unweighted cross-entropy, chosen with a seed that no result uses."""

RARE = 0.01
"""Classes with a smaller share of the training pixels are called rare."""


class Variant(NamedTuple):
    """Differences between the runs of a seed; `long` multiplies the number of epochs."""

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
GROUPS = {"table": [*TABLE.values()], "sweep": SWEEP, "slow": [*SLOW.values()], "long": [*LONG.values()]}


def train(variant: Variant, seed: int) -> dict[str, Any]:
    """Train once; return the run's line of the file."""
    import torch

    from statsvc.samplers import RareClassSampler

    sys.path.insert(0, str(ROOT / "examples"))
    import train as example

    torch.set_num_threads(1)
    start = time.process_time()
    split = {"split": "train", "ignore_index": example.IGNORE}
    stream = {"min_pixels": SETTINGS["min_pixels"]} if variant.sampled else {}
    table = scan_labels()
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
        "iou": [round(value, 4) for value in iou.tolist()],
        "recall": [round(value, 4) for value in recall.tolist()],
        "loss": [round(loss, 4) for loss in losses],
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def scan_labels() -> Any:
    """Return the statistics of the label maps, which are generated if they do not exist."""
    import statsvc
    from statsvc.local.demo import CLASS_NAMES, make_demo

    LABELS.parent.mkdir(exist_ok=True)
    make_demo(LABELS, images=SETTINGS["images"], size=tuple(SETTINGS["size"]))
    return statsvc.scan(LABELS, class_names=CLASS_NAMES, num_classes=len(CLASS_NAMES), workers=1)


def read() -> dict[str, Any]:
    """Return the content of the file of runs; without runs if the file does not exist."""
    if not RUNS.exists():
        rows = scan_labels().weights(split="train", ignore_index=255).classes
        classes = [{"name": row["name"], "share": round(row["frequency"], 6)} for row in rows]
        return {"settings": SETTINGS, "classes": classes, "runs": []}
    data: dict[str, Any] = json.loads(RUNS.read_text())
    if data["settings"] != SETTINGS:
        raise SystemExit(
            f"{RUNS} was created with {data['settings']}, not {SETTINGS}. Delete the file to start over."
        )
    return data


def write(data: dict[str, Any]) -> None:
    """Write the file of runs, with one line for each class and each run."""
    RUNS.parent.mkdir(exist_ok=True)
    classes, runs = (
        ",\n".join("  " + json.dumps(line) for line in data[name]) for name in ("classes", "runs")
    )
    head = json.dumps(data["settings"])
    text = f'{{"settings": {head},\n "classes": [\n{classes}\n ],\n "runs": [\n{runs}\n ]}}\n'
    temporary = RUNS.with_name(RUNS.name + ".part")
    temporary.write_text(text)
    temporary.replace(RUNS)


def train_missing(only: list[str], seeds: list[int], jobs: int, minutes: float) -> None:
    """Train the missing runs until the time is over."""
    scan_labels()  # generates the label maps before several processes need them
    data = read()
    finished = {_key(line) for line in data["runs"]}
    wanted = dict.fromkeys((variant, seed) for group in only for seed in seeds for variant in GROUPS[group])
    missing = [run for run in wanted if run not in finished]
    waiting, deadline = iter(missing), time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(train, *run) for run in itertools.islice(waiting, jobs)}
        completed = 0
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                line = future.result()
                data["runs"] = sorted([*data["runs"], line], key=_key)
                write(data)
                completed += 1
                print(f"{completed} of {len(missing)}: {line}", flush=True)
                if time.monotonic() < deadline:
                    running |= {pool.submit(train, *run) for run in itertools.islice(waiting, 1)}
    print(f"{len(missing) - completed} runs left")


def _key(line: dict[str, Any]) -> tuple[Variant, int]:
    return Variant(*(line[name] for name in Variant._fields)), line["seed"]


class Results:
    """The runs of a file, with the classes in descending order of frequency."""

    def __init__(self, data: dict[str, Any]) -> None:
        shares = np.array([row["share"] for row in data["classes"]])
        self.order = np.argsort(-shares, kind="stable")
        self.names = [data["classes"][c]["name"] for c in self.order]
        self.shares = shares[self.order]
        self.rare = self.shares < RARE
        self.runs = {_key(line): line for line in data["runs"]}

    def seeds(self, variants: Iterable[Variant]) -> list[int]:
        """Return the seeds for which all of these variants were trained."""
        return sorted(
            set.intersection(*({seed for variant, seed in self.runs if variant == v} for v in variants))
        )

    def score(self, variant: Variant, seeds: list[int], name: str = "iou") -> NDArray[np.float64]:
        """Return the IoU or recall of each class in percent, float64 [seeds, C]."""
        lines = [self.runs[variant, seed][name] for seed in seeds]
        return 100 * np.array(lines, float)[:, self.order]

    def mean(self, variant: Variant, seeds: list[int], group: str, name: str = "iou") -> NDArray[np.float64]:
        """Return the mean over the "frequent", "rare" or "all" classes for each seed, float64 [seeds]."""
        chosen = {"frequent": ~self.rare, "rare": self.rare, "all": self.shares > 0}[group]
        mean: NDArray[np.float64] = self.score(variant, seeds, name)[:, chosen].mean(1)
        return mean


def _spread(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def classes_table(results: Results, variants: dict[str, Variant]) -> str:
    """Return a Markdown table of the IoU of each class and variant: mean ± standard deviation over seeds."""
    columns = [(variant, results.seeds([variant])) for variant in variants.values()]
    lines = [
        f"| class | pixels | {' | '.join(variants)} |",
        f"|---|--:|{'--:|' * len(variants)}",
    ]
    for c, name in enumerate(results.names):
        cells = [_spread(results.score(variant, seeds)[:, c]) for variant, seeds in columns]
        lines.append(f"| {name} | {results.shares[c]:.3%} | {' | '.join(cells)} |")
    for name, kind in (("iou", "IoU"), ("recall", "recall")):
        for group in ("frequent", "rare", "all"):
            cells = [_spread(results.mean(variant, seeds, group, name)) for variant, seeds in columns]
            lines.append(f"| **mean {kind}, {group}** | | {' | '.join(cells)} |")
    lines.append(f"| seeds | | {' | '.join(str(len(seeds)) for _, seeds in columns)} |")
    return "\n".join(lines)


def sweep_table(results: Results, group: str) -> str:
    """Return a Markdown table of the mean IoU of a group of classes for each method and ratio."""
    seeds = results.seeds(SWEEP)
    heads = [f"{ce:g} : {dice:g}" for ce, dice in RATIOS]
    lines = [f"| {group} classes, {len(seeds)} seeds | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for method in METHODS:
        cells = [_spread(results.mean(Variant(method, *ratio), seeds, group)) for ratio in RATIOS]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(data: dict[str, Any]) -> str:
    """Return the tables of docs/explanation/training-experiment.md."""
    results = Results(data)
    seconds = [line["cpu_seconds"] for line in data["runs"] if line["long"] == 1]
    sections = [
        classes_table(results, TABLE),
        *(sweep_table(results, group) for group in ("rare", "frequent", "all")),
        classes_table(results, SLOW | LONG),
        f"{len(data['runs'])} runs. A run of {SETTINGS['epochs']} epochs took {np.median(seconds):.0f} s of "
        "one core (median).",
    ]
    return "\n\n".join(sections)


COLORS = ("#6b7280", "#9ec5e0", "#e8b26a", "#2a6f97", "#c9ccd1", "#b3432b")


def draw(data: dict[str, Any], file: Path) -> None:
    """Plot the IoU of each class and variant, and the mean IoU of the sweep."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    results = Results(data)
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=[1.5, 1])
        _draw_classes(figure.add_subplot(grid[0, :]), results)
        for column, group in enumerate(("rare", "frequent")):
            _draw_sweep(figure.add_subplot(grid[1, column]), results, group)
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=96, facecolor="white", pil_kwargs={"optimize": True})


def _draw_classes(axes: Axes, results: Results) -> None:
    width = 0.8 / len(TABLE)
    seeds = results.seeds(TABLE.values())
    for number, ((name, variant), color) in enumerate(zip(TABLE.items(), COLORS, strict=True)):
        iou = results.score(variant, seeds)
        x = np.arange(len(results.names)) - 0.4 + (number + 0.5) * width
        axes.bar(x, iou.mean(0), width * 0.92, color=color, label=name)
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
    run.add_argument(
        "--only", action="append", choices=list(GROUPS), help="runs to train; default: all, in this order"
    )
    run.add_argument("--seeds", default="0,1,2")
    run.add_argument("--jobs", type=int, default=2)
    run.add_argument("--minutes", type=float, default=9.0, help="start no run after this time")
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        seeds = [int(seed) for seed in options.seeds.split(",")]
        train_missing(options.only or list(GROUPS), seeds, options.jobs, options.minutes)
    else:
        data = read()
        print(report(data))
        draw(data, FIGURE)


if __name__ == "__main__":
    main()
