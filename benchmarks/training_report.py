"""Tables, sentences and the figure of docs/explanation/training-experiment.md, from the file of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from training_runs import CE, CROPS, ROOT, TUNE, TUNE_SEED, WHOLE, Variant, key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FIGURE = ROOT / "docs" / "images" / "training.png"
PAGE = ROOT / "docs" / "explanation" / "training-experiment.md"
README = ROOT / "README.md"

CLAIM = {"road": "+1", "car": "+6", "pedestrian": "+33", "**mean, all**": "+7.1"}
"""What weighted cross-entropy with Dice was said to gain when this project began, in points of IoU."""

RARE = 0.02
"""Classes with a smaller share of the training pixels are called rare."""


class Results:
    """The runs of a file, with the classes in descending order of frequency."""

    def __init__(self, data: dict[str, Any]) -> None:
        shares = np.array([row["share"] for row in data["classes"]])
        self.order = np.argsort(-shares, kind="stable")
        self.names = [data["classes"][c]["name"] for c in self.order]
        self.shares = shares[self.order]
        rare = self.shares < RARE
        self.groups = {"frequent": ~rare, "rare": rare, "all": np.ones_like(rare)}
        self.runs = {key(line): line for line in data["runs"]}

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
