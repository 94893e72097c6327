"""Stratified divisions against other algorithms, and the time for very many samples.

    python benchmarks/splitting.py FOLDER [--seeds N] [--folds N] [--ignore ID] [--group RULE]
    python benchmarks/splitting.py --samples 1000000 [--classes 150]

The first form counts the label maps in a folder and divides them with several seeds. The deviation of a
class in a fold is (share of its pixels in the fold) / (wanted share) - 1. For each algorithm it prints the
mean over the seeds of the worst and of the mean deviation of the classes, the worst deviation of the images
that contain a class, and the sizes of the folds. `--group` also compares divisions that keep groups together.

The second form divides a table of random rows, and prints seconds, memory, and deviations.

The other algorithms are scikit-learn's GroupKFold(shuffle=True), which is random, and StratifiedGroupKFold,
whose label of an image is its rarest class; MultilabelStratifiedKFold of the package iterative-stratification
on the presence of classes (Sechidis et al. 2011); and a greedy assignment, written here: images with the
largest shares first, each where it lacks most.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scale import PATTERNS, path_of, rows

import statsvc
from statsvc.dataset.class_counts import interpret
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.histogram import Histogram
from statsvc.dataset.table import Block, Table
from statsvc.splitting.divide import divide_dataset
from statsvc.splitting.request import DivisionRequest
from statsvc.store.versions.arrays import ROWS_PER_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


def random_folds(counts: Int64, unit: Int64, folds: int, seed: int) -> Int64:
    """Return random folds of whole units."""
    from sklearn.model_selection import GroupKFold

    return fold_of(GroupKFold(folds, shuffle=True, random_state=seed), counts, None, unit)


def iterative_stratification(counts: Int64, unit: Int64, folds: int, seed: int) -> Int64:
    """Return folds by the presence of classes; the library divides single images only."""
    del unit
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    division = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    return fold_of(division, counts, (counts > 0).astype(int), None)


def stratified_group_k_fold(counts: Int64, unit: Int64, folds: int, seed: int) -> Int64:
    """Return folds of whole units whose images have the same classes, by the rarest class of each image."""
    from sklearn.model_selection import StratifiedGroupKFold

    images = (counts > 0).sum(axis=0)
    rarest = np.where(counts > 0, images, len(counts) + 1).argmin(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class in fewer images than folds
        return fold_of(StratifiedGroupKFold(folds, shuffle=True, random_state=seed), counts, rarest, unit)


def fold_of(division: Any, counts: Int64, labels: Any, groups: Any) -> Int64:
    """Return the fold of each image under a cross-validator of scikit-learn's interface, int64 [n]."""
    fold = np.zeros(len(counts), np.int64)
    for number, (_, tested) in enumerate(division.split(counts, labels, groups)):
        fold[tested] = number
    return fold


def greedy(counts: Int64, unit: Int64, folds: int, seed: int) -> Int64:
    """Return folds of units, those with the largest share of a class first, each where it lacks most."""
    rng = np.random.default_rng(seed)
    shares = np.zeros((unit.max() + 1, counts.shape[1]))
    np.add.at(shares, unit, counts / counts.sum(axis=0))
    size = np.bincount(unit)
    order = rng.permutation(len(size))
    order = order[np.argsort(-shares.max(axis=1)[order], kind="stable")]
    sums, images = np.zeros((folds, counts.shape[1])), np.zeros(folds)
    fold = np.zeros(len(size), np.int64)
    for k in order:
        cost = ((sums + shares[k] - 1 / folds) ** 2 - (sums - 1 / folds) ** 2).sum(axis=1)
        cost[images >= len(unit) / folds] = np.inf
        fold[k] = cost.argmin()
        sums[fold[k]] += shares[k]
        images[fold[k]] += size[k]
    return fold[unit]


ALGORITHMS = {
    "random": random_folds,
    "iterative stratification": iterative_stratification,
    "StratifiedGroupKFold": stratified_group_k_fold,
    "greedy": greedy,
}


def deviations(counts: Int64, fold: Int64, folds: int) -> tuple[float, float, float]:
    """Return the worst and the mean deviation of the classes' pixels, and the worst one of their images."""
    result = []
    for values in (counts, (counts > 0).astype(np.int64)):
        sums = np.array([values[fold == j].sum(axis=0) for j in range(folds)])
        result.append(np.abs(sums / values.sum(axis=0) * folds - 1).max(axis=0))
    return float(result[0].max()), float(result[0].mean()), float(result[1].max())


def compare(arguments: argparse.Namespace) -> None:
    table = statsvc.scan(
        arguments.folder,
        ignore_index=arguments.ignore,
        num_classes=arguments.classes,
    )
    interpreted = interpret(table)
    counts = table.rows.counts[:, interpreted.counted & (interpreted.histogram.pixels > 0)]
    paths, folds = list(table.rows.path), arguments.folds
    groupings: list[Any] = [None] if arguments.group is None else [None, arguments.group]
    for rule in groupings:
        values = paths if rule is None else table.configuration.grouping(rule).of(paths)
        unit = np.unique(
            [value or path for value, path in zip(values, paths, strict=True)], return_inverse=True
        )[1]
        print(f"\n{len(paths)} images, {folds} folds, {unit.max() + 1} units ({rule or 'images'})")
        print(f"{'algorithm':26} {'worst':>8} {'mean':>8} {'images':>8} {'sizes':>10} {'s':>6}")
        for name, algorithm in ALGORITHMS.items():
            if rule is not None and algorithm is iterative_stratification:
                continue  # it has no groups
            show(
                name,
                lambda seed, run=algorithm, unit=unit: run(counts, unit, folds, seed),
                counts,
                arguments,
            )
        bounds: set[float] = set()

        def ours(seed: int, rule: str | None = rule, bounds: set[float] = bounds) -> Int64:
            result = table.split(folds=folds, seed=seed, group=rule)
            bounds.add(result.report["bound"]["deviation"])
            fold_of = {path: k for k, part in enumerate(result.parts.values()) for path in part}
            return np.array([fold_of[path] for path in paths])

        show("statsvc", ours, counts, arguments)
        print(f"no division is better than {100 * max(bounds):.2f} %")


def show(name: str, run: Any, counts: Int64, arguments: argparse.Namespace) -> None:
    measured, sizes, start = [], set(), time.perf_counter()
    for seed in range(arguments.seeds):
        fold = run(seed)
        measured.append(deviations(counts, fold, arguments.folds))
        sizes |= set(np.bincount(fold, minlength=arguments.folds).tolist())
    seconds = (time.perf_counter() - start) / arguments.seeds
    worst, mean, images = (f"{100 * value:.2f} %" for value in np.mean(measured, axis=0))
    print(f"{name:26} {worst:>8} {mean:>8} {images:>8} {f'{min(sizes)}–{max(sizes)}':>10} {seconds:6.2f}")


class RandomTable(Table):
    """A table of many samples whose rows repeat a few random chunks."""

    def __init__(self, samples: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.dataset, self.version, self._samples = "big", 1, samples
        self.configuration = Configuration(num_classes=classes, ignore_index=())
        self._chunks = [rows(rng, classes) for _ in range(PATTERNS)]
        pixels, images = (np.zeros(classes, np.int64) for _ in range(2))
        for block in self.blocks():
            pixels += block.counts.sum(axis=0)
            images += (block.counts > 0).sum(axis=0)
        self._totals = Histogram(np.arange(classes), np.ones(classes, bool), pixels, images, None, samples)

    def totals(self) -> Histogram:
        return self._totals

    def failed(self) -> int:
        return 0

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self._samples, ROWS_PER_CHUNK):
            size = min(ROWS_PER_CHUNK, self._samples - start)
            paths = [path_of(number) for number in range(start, start + size)]
            counts = self._chunks[start // ROWS_PER_CHUNK % PATTERNS][:size]
            yield Block(paths, np.zeros(size, np.uint8), [""] * size, counts)


def measure_scale(samples: int, classes: int) -> None:
    table = RandomTable(samples, classes)
    for rule in (None, r"^train/(\d+)/"):
        grouping = None if rule is None else table.configuration.grouping(rule)
        before, start = peak(), time.perf_counter()
        report = divide_dataset(table, DivisionRequest.from_params(folds=5, grouping=grouping)).report
        print(
            f"{samples} samples, {classes} classes, {rule or 'images'}: {time.perf_counter() - start:.0f} s, "
            f"{peak() - before} MiB more, worst class {100 * abs(report['worst']['deviation']):.2f} %, "
            f"random {100 * report['random']['deviation']:.2f} %"
        )


def peak() -> int:
    """Return the largest memory use of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--ignore", type=int)
    parser.add_argument("--group", help="rule of groups, as in statsvc split --group")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--classes", type=int)
    arguments = parser.parse_args()
    if arguments.samples is not None:
        measure_scale(arguments.samples, arguments.classes or 150)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
