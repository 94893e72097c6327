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
import json
import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from statsvc.local.scan import LocalTable

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "data" / "training.json"
FIGURE = ROOT / "docs" / "images" / "training.png"
PAGE = ROOT / "docs" / "explanation" / "training-experiment.md"
README = ROOT / "README.md"
FEATURES = ROOT / ".run" / "camvid"

NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11

SETTINGS: dict[str, Any] = {"epochs": 6, "images_per_step": 4, "crop": [160, 160], "crops_per_step": 16}
"""Settings of all runs. An epoch has as many steps with crops as with whole images."""

LR = 0.01
"""Chosen for unweighted cross-entropy among `TUNE`, with a seed that no result uses."""

CLAIM = {"road": "+1", "car": "+6", "pedestrian": "+33", "**mean, all**": "+7.1"}
"""What weighted cross-entropy with Dice was said to gain when this project began, in points of IoU."""

RARE = 0.02
"""Classes with a smaller share of the training pixels are called rare."""


class Variant(NamedTuple):
    """Differences between the runs of a seed.

    `seen` is "images" or "crops"; `sampler` None, "rare_class" or "patches"; `crop_weights` says whether the
    weights are those of the crops instead of whole images.
    """

    method: str
    ce: float
    dice: float
    strength: float = 1.0
    sampler: str | None = None
    seen: str = "images"
    crop_weights: bool = False
    lr: float = LR


CE = Variant("uniform", 1.0, 0.0)
WEIGHTED = CE._replace(method="sqrt_inv_freq")
WHOLE = {
    "CE": CE,
    "weighted CE": WEIGHTED,
    "Dice": CE._replace(ce=0.0, dice=1.0),
    "CE + Dice": CE._replace(ce=0.6, dice=0.4),
    "weighted CE + Dice": WEIGHTED._replace(ce=0.6, dice=0.4),
    "CE with rare-class sampler": CE._replace(sampler="rare_class"),
    "weighted CE at strength ½": WEIGHTED._replace(strength=0.5),
}
CROPS = {
    "CE": CE._replace(seen="crops"),
    "weights of images": WEIGHTED._replace(seen="crops"),
    "weights of crops": WEIGHTED._replace(seen="crops", crop_weights=True),
    "rare-class sampler": CE._replace(seen="crops", sampler="rare_class"),
    "patch sampler": CE._replace(seen="crops", sampler="patches"),
}
TUNE = {f"{lr:g}": CE._replace(lr=lr) for lr in (0.003, 0.01, 0.03)}
TUNE_SEED = 100
GROUPS = {"tune": TUNE, "whole": WHOLE, "crops": CROPS}


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
    model = frozen_encoder.Decoder(len(NAMES)).to(memory_format=torch.channels_last)
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
    sampler: RareClassSampler | None = None
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
                items, windows = zip(*items, strict=True)
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


def read(file: Path = RUNS, settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
    """Return the content of the file of runs; without runs if the file does not exist."""
    if not file.exists():
        return {"settings": settings, "classes": [], "runs": []}
    data: dict[str, Any] = json.loads(file.read_text())
    if data["settings"] != settings:
        raise SystemExit(
            f"{file} was created with {data['settings']}, not {settings}. Delete the file to start over."
        )
    return data


def write(data: dict[str, Any], file: Path = RUNS) -> None:
    """Write the file of runs, with one line for each class and each run."""
    file.parent.mkdir(exist_ok=True)
    classes, runs = (
        ",\n".join("  " + json.dumps(line) for line in data[name]) for name in ("classes", "runs")
    )
    head = json.dumps(data["settings"])
    text = f'{{"settings": {head},\n "classes": [\n{classes}\n ],\n "runs": [\n{runs}\n ]}}\n'
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(text)
    temporary.replace(file)


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
    finished = {_key(line) for line in data["runs"]}
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
                data["runs"] = sorted([*data["runs"], line], key=_sort_key)
                write(data, file)
                completed += 1
                print(f"{completed} of {len(missing)}: {line}", flush=True)
                if time.monotonic() < deadline:
                    running |= submit(1)
    print(f"{len(missing) - completed} runs left")
    return len(missing) - completed


def _key(line: dict[str, Any]) -> tuple[Variant, int]:
    return Variant(*(line[name] for name in Variant._fields)), line["seed"]


def _sort_key(line: dict[str, Any]) -> str:
    variant, seed = _key(line)
    return str((variant.lr, variant.seen, variant, seed))


class Results:
    """The runs of a file, with the classes in descending order of frequency."""

    def __init__(self, data: dict[str, Any]) -> None:
        shares = np.array([row["share"] for row in data["classes"]])
        self.order = np.argsort(-shares, kind="stable")
        self.names = [data["classes"][c]["name"] for c in self.order]
        self.shares = shares[self.order]
        rare = self.shares < RARE
        self.groups = {"frequent": ~rare, "rare": rare, "all": np.ones_like(rare)}
        self.runs = {_key(line): line for line in data["runs"]}

    def seeds(self, variants: Iterable[Variant]) -> list[int]:
        """Return the seeds for which all of these variants were trained."""
        return sorted(
            set.intersection(*({seed for variant, seed in self.runs if variant == v} for v in variants))
        )

    def score(self, variant: Variant, seeds: list[int], name: str = "iou") -> NDArray[np.float64]:
        """Return the IoU or recall of each class in percent, float64 [seeds, C]."""
        lines = [self.runs[variant, seed][name] for seed in seeds]
        return 100 * np.array(lines, float).reshape(len(seeds), -1)[:, self.order]

    def rows(self, variant: Variant, seeds: list[int], name: str = "iou") -> dict[str, NDArray[np.float64]]:
        """Return a score of each class and the means over the groups of classes, float64 [seeds] each."""
        score = self.score(variant, seeds, name)
        means = {f"**mean, {group}**": score[:, chosen].mean(1) for group, chosen in self.groups.items()}
        return dict(zip(self.names, score.T, strict=True)) | means


def _count(seeds: list[int]) -> str:
    return f"{len(seeds)} seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _spread(values: NDArray[np.float64], sign: str = "") -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.1f}{deviation}"


def scores_table(results: Results, variants: dict[str, Variant], name: str) -> str:
    """Return a Markdown table of the IoU or recall of each class: mean ± standard deviation over seeds."""
    seeds = results.seeds(variants.values())
    columns = [results.rows(variant, seeds, name) for variant in variants.values()]
    title = {"iou": "IoU", "recall": "recall"}[name]
    lines = [
        f"| {title}, %, {_count(seeds)} | pixels | {' | '.join(variants)} |",
        f"|---|--:|{'--:|' * len(variants)}",
    ]
    shares = dict(zip(results.names, results.shares, strict=True))
    for row in columns[0]:
        cells = [_spread(column[row]) for column in columns]
        share = f"{shares[row]:.2%}" if row in shares else ""
        lines.append(f"| {row} | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences_table(results: Results, pairs: dict[str, tuple[Variant, Variant]], claim: bool) -> str:
    """Return a Markdown table of differences of IoU between two variants of the same seed, in points."""
    seeds = results.seeds([variant for pair in pairs.values() for variant in pair])
    columns = []
    for variant, base in pairs.values():
        ours, theirs = (results.rows(v, seeds) for v in (variant, base))
        columns.append({row: ours[row] - theirs[row] for row in ours})
    heads = [*pairs, *(["claim"] if claim else [])]
    lines = [f"| IoU, points, {_count(seeds)} | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for row in columns[0]:
        cells = [_spread(column[row], "+") for column in columns] + ([CLAIM.get(row, "")] if claim else [])
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tune_table(results: Results) -> str:
    """Return a Markdown table of the mean IoU at each learning rate."""
    lines = [f"| learning rate | CE, seed {TUNE_SEED}: mean IoU, % |", "|--:|--:|"]
    trained = {name: variant for name, variant in TUNE.items() if (variant, TUNE_SEED) in results.runs}
    lines += [f"| {name} | {results.score(v, [TUNE_SEED]).mean():.1f} |" for name, v in trained.items()]
    return "\n".join(lines)


def _change(results: Results, variant: Variant, base: Variant, seeds: list[int], row: str) -> str:
    """Return the difference in a row of the tables, and in how many seeds it is positive."""
    difference = results.rows(variant, seeds)[row] - results.rows(base, seeds)[row]
    return f"{_spread(difference, '+')} points ({(difference > 0).sum()} of {_count(seeds)} gain)"


def _ranking(results: Results, variants: dict[str, Variant], seeds: list[int], row: str) -> str:
    means = {name: results.rows(variant, seeds)[row].mean() for name, variant in variants.items()}
    return ", ".join(f"{name} {means[name]:.1f} %" for name in sorted(means, key=lambda name: -means[name]))


RARE_MEAN, FREQUENT_MEAN, MEAN = "**mean, rare**", "**mean, frequent**", "**mean, all**"


def whole_summary(results: Results) -> str:
    """Return what the runs on whole images show, as a Markdown list."""
    seeds, best = results.seeds(WHOLE.values()), WHOLE["weighted CE + Dice"]
    claims = ", ".join(
        f"{'mean' if row == MEAN else row} {_change(results, best, CE, seeds, row)}, claim {claim}"
        for row, claim in CLAIM.items()
    )
    return "\n".join(
        [
            f"- **Weighted CE + Dice against CE:** {claims}.",
            f"- **Rare classes**, mean IoU: {_ranking(results, WHOLE, seeds, RARE_MEAN)}.",
            f"- **Frequent classes**, mean IoU: {_ranking(results, WHOLE, seeds, FREQUENT_MEAN)}.",
            f"- **All classes**, mean IoU: {_ranking(results, WHOLE, seeds, MEAN)}.",
        ]
    )


def crops_summary(results: Results) -> str:
    """Return what the runs on crops show, as a Markdown list."""
    seeds = results.seeds(CROPS.values())
    lines = []
    for name, variant, base in (
        ("Weights of crops against weights of images", "weights of crops", "weights of images"),
        ("Patch sampler against rare-class sampler", "patch sampler", "rare-class sampler"),
        ("Patch sampler against uniform crops", "patch sampler", "CE"),
    ):
        changes = (
            f"{row.strip('*').split()[-1]} classes "
            f"{_change(results, CROPS[variant], CROPS[base], seeds, row)}"
            for row in (RARE_MEAN, FREQUENT_MEAN, MEAN)
        )
        lines.append(f"- **{name}**, mean IoU: {', '.join(changes)}.")
    return "\n".join(lines)


def readme(results: Results) -> str:
    """Return the sentences of the README."""
    seeds, best = results.seeds(WHOLE.values()), WHOLE["weighted CE + Dice"]
    rare, frequent = (
        f"from {_spread(results.rows(CE, seeds)[row])} to {_spread(results.rows(best, seeds)[row])} %"
        for row in (RARE_MEAN, FREQUENT_MEAN)
    )
    return (
        f"On CamVid's photographs (a frozen pretrained encoder and a small decoder, {_count(seeds)}), "
        "class weights with Dice\n"
        f"change the mean IoU of the five classes with less than 2 % of the pixels {rare}, and that of the\n"
        f"other six {frequent}, compared with plain cross-entropy."
    )


def report(data: dict[str, Any]) -> dict[str, str]:
    """Return the parts of docs/explanation/training-experiment.md that follow from the runs, by name."""
    results = Results(data)
    pairs = {
        "weights of images − CE": ("weights of images", "CE"),
        "weights of crops − CE": ("weights of crops", "CE"),
        "weights of crops − of images": ("weights of crops", "weights of images"),
        "rare-class sampler − CE": ("rare-class sampler", "CE"),
        "patch sampler − CE": ("patch sampler", "CE"),
        "patch − rare-class sampler": ("patch sampler", "rare-class sampler"),
    }
    crops = {name: (CROPS[variant], CROPS[base]) for name, (variant, base) in pairs.items()}
    whole = {name: (variant, CE) for name, variant in WHOLE.items() if variant != CE}
    seconds = [line["cpu_seconds"] for line in data["runs"]]
    numbers = [len(results.seeds(group.values())) for group in (WHOLE, CROPS)]
    few = " With so few seeds, small differences are no evidence." if min(numbers) < 5 else ""
    return {
        "seeds": f"**n = {numbers[0]} for whole images and n = {numbers[1]} for crops**, in seeds.{few}",
        "tune": tune_table(results),
        "whole-iou": scores_table(results, WHOLE, "iou"),
        "whole-recall": scores_table(results, WHOLE, "recall"),
        "whole-differences": differences_table(results, whole, claim=True),
        "whole-summary": whole_summary(results),
        "crops-iou": scores_table(results, CROPS, "iou"),
        "crops-recall": scores_table(results, CROPS, "recall"),
        "crops-differences": differences_table(results, crops, claim=False),
        "crops-summary": crops_summary(results),
        "time": f"{len(seconds)} runs. A run took {np.median(seconds):.0f} s of one core (median).",
    }


def insert(page: str, parts: dict[str, str]) -> str:
    """Return a page with each part between its markers. Raises `ValueError` if a marker is missing."""
    for name, part in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        first, last = page.index(start) + len(start), page.index(end)
        page = f"{page[:first]}\n{part}\n\n{page[last:]}"
    return page


COLORS = ("#6b7280", "#2a6f97", "#e8b26a", "#9ec5e0", "#b3432b", "#7a9e5b", "#c9ccd1")


def draw(data: dict[str, Any], file: Path) -> None:
    """Plot the IoU of each class and variant, on whole images and on crops."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    results = Results(data)
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        for axes, (title, variants) in zip(
            figure.subplots(2, 1), (("whole images", WHOLE), ("crops of 160×160", CROPS)), strict=True
        ):
            _draw_classes(axes, results, title, variants)
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=96, facecolor="white", pil_kwargs={"optimize": True})


def _draw_classes(axes: Axes, results: Results, title: str, variants: dict[str, Variant]) -> None:
    width = 0.8 / len(variants)
    seeds = results.seeds(variants.values())
    for number, ((name, variant), color) in enumerate(zip(variants.items(), COLORS, strict=False)):
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
    axes.axvline(results.groups["frequent"].sum() - 0.5, color="#6b7280", linewidth=0.8, linestyle=":")
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"Trained on {title}: IoU of each class (share of the pixels below its name), mean and each of "
        f"{_count(seeds)}",
        loc="left",
    )
    axes.legend(ncols=len(variants), loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)


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
