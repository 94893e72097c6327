"""Find the strength of class weights: train with several strengths and seeds, and report mean and spread.

Start the server with `make run`, which also draws the label maps. Then, with PyTorch and Pillow installed:

    python examples/sweep.py http://127.0.0.1:8000 .run/labels --results sweep.json

Strength 0 means no weights, 1 the weights of the method. Every finished run is added to the file of results
and is not repeated, so an interrupted sweep continues with the same command. The strength is chosen with the
images of val/, so report the quality of the final network on other images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from train import IGNORE, Streets, begin, confusion, scores

import statsvc

if TYPE_CHECKING:
    from collections.abc import Sequence

    Ious = dict[tuple[float, int], list[float | None]]


def read(file: Path, settings: dict[str, Any]) -> Ious:
    """Return the IoU of each class of each run. Raises `SystemExit` if the settings were different."""
    if not file.exists():
        return {}
    stored = json.loads(file.read_text())
    different = [name for name, value in settings.items() if stored["settings"].get(name) != value]
    if different:
        raise SystemExit(
            f"{file} has runs with a different {', '.join(different)}. Choose another --results, or delete "
            "the file"
        )
    return {(run["strength"], run["seed"]): run["iou"] for run in stored["runs"]}


def write(file: Path, settings: dict[str, Any], finished: Ious) -> None:
    runs = [{"strength": key[0], "seed": key[1], "iou": iou} for key, iou in sorted(finished.items())]
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1))
    temporary.replace(file)


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation in percent; the mean alone if there is one value."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def report(finished: Ious, strengths: Sequence[float], seeds: Sequence[int]) -> str:
    """Return a table of the mean IoU of each strength, and which strengths are as good as the best."""
    means = {
        (strength, seed): statistics.mean(iou for iou in finished[strength, seed] if iou is not None)
        for strength in strengths
        for seed in seeds
    }
    of = {strength: [means[strength, seed] for seed in seeds] for strength in strengths}
    best = max(strengths, key=lambda strength: statistics.mean(of[strength]))
    lines, equal = ["strength   mean IoU, %   below the best"], []
    for strength in strengths:
        # The runs of a seed start with the same network, so differences vary less than the means.
        behind = [b - own for b, own in zip(of[best], of[strength], strict=True)]
        lines.append(
            f"{strength:<8g}   {spread(of[strength]):<11}   {'best' if strength == best else spread(behind)}"
        )
        error = statistics.stdev(behind) / len(seeds) ** 0.5 if len(seeds) > 1 else float("inf")
        if strength != best and statistics.mean(behind) <= 2 * error:
            equal.append(f"{strength:g}")
    lines.append(f"Best strength: {best:g}, of {len(seeds)} seeds.")
    if equal:
        lines.append(f"Within two standard errors of it: {', '.join(equal)}. More seeds may tell them apart.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument(
        "labels", nargs="?", type=Path, default=Path(".run/labels"), help="folder with train/ and val/"
    )
    parser.add_argument("--dataset", help="name on the server; optional if it has one dataset")
    parser.add_argument("--method", default="sqrt_inv_freq")
    parser.add_argument("--strengths", default="0,0.25,0.5,0.75,1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ce", type=float, default=0.6, help="factor of cross-entropy in the loss")
    parser.add_argument("--dice", type=float, default=0.4, help="factor of Dice in the loss")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--step", type=int, default=4, help="use every n-th row and column")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("sweep.json"), help="file of the finished runs")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    strengths = sorted({float(value) for value in arguments.strengths.split(",")})
    seeds = sorted({int(value) for value in arguments.seeds.split(",")})

    data, held_out = (Streets(arguments.labels / split, arguments.step) for split in ("train", "val"))
    client = statsvc.Client(arguments.url)
    answer = client.weights(arguments.dataset, method=arguments.method, split="train", ignore_index=IGNORE)
    settings = {
        "dataset": answer.dataset,
        "version": answer.version,
        **{name: getattr(arguments, name) for name in ("method", "ce", "dice", "epochs", "step", "lr")},
    }
    finished = read(arguments.results, settings)
    for seed in seeds:
        for strength in strengths:
            if (strength, seed) in finished:
                continue
            weights = client.weights(
                answer.dataset,
                version=answer.version,
                method=arguments.method,
                split="train",
                ignore_index=IGNORE,
                strength=strength,
            )
            run = begin(
                data,
                weights,
                ce=arguments.ce,
                dice=arguments.dice,
                sampler=None,
                epochs=arguments.epochs,
                lr=arguments.lr,
                seed=seed,
            )
            for _ in range(arguments.epochs):
                run.train_epoch()
            iou, _ = scores(confusion(run.model, held_out, len(weights)))
            finished[strength, seed] = [None if value != value else value for value in iou.tolist()]
            write(arguments.results, settings, finished)
            print(f"seed {seed}, strength {strength:g}: mean IoU {iou.nanmean():.1%}", flush=True)
    print(report(finished, strengths, seeds))


if __name__ == "__main__":
    main()
