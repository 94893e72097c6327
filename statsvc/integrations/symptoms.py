"""What is wrong with a run, told from each class's IoU and the loss. Arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_names import listed
from statsvc.weighting.class_weights import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]] | torch.Tensor | Sequence[float]

POINTS = 0.02
"""How much IoU a frequent class may lose against the baseline: 2 points."""
SETTLED = 0.01
"""A class still rises where the best IoU of the last `PATIENCE` epochs is this much above that of before."""
PATIENCE = 3
"""Epochs of a run that goes on before something is said of a class: every class begins at 0."""
GENTLE = ("sqrt_inv_freq", "enet", "log_count", "uniform")
"""Methods that leave frequent classes much of their weight."""
RISE = 1.1
"""A loss rises where the median of its last three values is more than this times the lowest such median."""


class Symptom(NamedTuple):
    """What is wrong, and which classes it is about, by id; none where it is about the run."""

    code: str
    message: str
    about: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Classes:
    """The classes of a run, each an entry of the arrays of shape [C].

    names     unique; where two classes share one, the id is put after it
    weights   float64
    frequent  bool; the class has at least 1/C of the pixels. Where only the weights are known: a weight not
              above their mean
    trained   bool; the class has pixels and is not ignored. Where only the weights are known: all True
    method    of the weights; "" where only the weights are known
    """

    names: list[str]
    weights: NDArray[np.float64]
    frequent: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    method: str = ""


def classes_of(weights: ClassWeights | Numbers) -> Classes:
    """Return what is known of the classes from their weights."""
    if not isinstance(weights, ClassWeights):
        vector = numbers("weights", weights)
        everywhere = np.ones(len(vector), bool)
        return Classes([str(i) for i in range(len(vector))], vector, vector <= vector.mean(), everywhere)
    rows = weights.classes
    names = [row["name"] for row in rows]
    unique = [f"{n}_{row['id']}" if names.count(n) > 1 else n for n, row in zip(names, rows, strict=True)]
    trained = np.array([not (row.get("ignored") or row.get("absent")) for row in rows], bool)
    share = np.array([row["frequency"] for row in rows])
    frequent = trained & (share >= 1 / max(int(trained.sum()), 1))
    return Classes(unique, np.array(weights.to_list()), frequent, trained, weights.method)


def numbers(name: str, values: Numbers, length: int | None = None) -> NDArray[np.float64]:
    """Return a vector as float64. Raises `InvalidParameter` for what is none, or of another length."""
    try:
        plain = values.detach().cpu().double() if hasattr(values, "detach") else values
        array = np.asarray(plain, np.float64)
    except (TypeError, ValueError) as problem:
        raise InvalidParameter((name, f"is no vector of numbers: {problem}")) from None
    if array.ndim != 1 or len(array) == 0 or length not in (None, len(array)):
        wanted = "one number for each class" if length is None else f"{length} numbers, one for each class"
        raise InvalidParameter((name, f"has shape {list(array.shape)}; give {wanted}"))
    return array


def iou_of(name: str, values: Numbers, classes: Classes) -> NDArray[np.float64]:
    """Return IoU of each class, [C], 0 … 1 or NaN where there is none. Raises `InvalidParameter`."""
    array = numbers(name, values, len(classes.names))
    wrong = np.flatnonzero((array < 0) | (array > 1))
    if len(wrong):
        raise InvalidParameter(
            (
                name,
                f"is {array[wrong[0]]:g} for class {classes.names[wrong[0]]}; give 0 … 1 (percent divided "
                "by 100), and NaN for a class without a pixel in labels and predictions",
            )
        )
    return array


def about_loss(losses: Sequence[float]) -> Iterator[Symptom]:
    """Yield what is to be said of the losses of all epochs so far."""
    if losses and not math.isfinite(losses[-1]):
        yield Symptom(
            "loss_not_finite",
            f"the loss is {losses[-1]:g}: lower the learning rate or clip gradients, and under float16 try "
            "bfloat16; torch.autograd.set_detect_anomaly(True) names the operation",
        )
        return
    finite = [loss for loss in losses if math.isfinite(loss)]
    medians = [float(np.median(finite[end - 3 : end])) for end in range(3, len(finite) + 1)]
    # Medians of three, so that one bad epoch is no alarm.
    if medians and medians[-1] > RISE * min(medians):
        yield Symptom(
            "loss_rising",
            f"the loss rises: {medians[-1]:.4g} (median of the last three epochs) after {min(medians):.4g}; "
            "lower the learning rate, or take the checkpoint of then",
        )


def about_frequent(
    history: Sequence[NDArray[np.float64]], baseline: NDArray[np.float64], classes: Classes, finished: bool
) -> Iterator[Symptom]:
    """Yield the frequent classes that lost more than 2 points against the baseline.

    history   IoU of all epochs so far
    finished  whether the run is over; before, a class that still rises may yet come to its baseline
    """
    # A billionth of slack, so that 0.90 − 0.88 is 2 points and not more.
    iou = history[-1]
    down = classes.frequent & (baseline - iou > POINTS + 1e-9)
    if not finished:
        down &= _settled(history)
    lost = np.flatnonzero(down)
    if len(lost):
        named = listed(f"{classes.names[c]} {baseline[c]:.1%} → {iou[c]:.1%}" for c in lost)
        classes_lost = "a frequent class" if len(lost) == 1 else f"{len(lost)} frequent classes"
        yield Symptom(
            "frequent_class_down",
            f"{classes_lost} lost more than 2 points against the baseline: {named}; {_gentler(classes)}",
            frozenset(lost.tolist()),
        )


def about_zero(history: Sequence[NDArray[np.float64]], classes: Classes, finished: bool) -> Iterator[Symptom]:
    """Yield the classes whose IoU is 0, in a run that is not `finished` in each of the last epochs."""
    epochs = 1 if finished else PATIENCE
    if len(history) < epochs:
        return
    every = np.stack(history)
    zero = np.flatnonzero(classes.trained & (every[-epochs:] == 0).all(axis=0))
    if not len(zero):
        return
    named = listed(
        f"{classes.names[c]} (weight {classes.weights[c]:.4g}{f', had {top:.1%}' if top > 0 else ''})"
        for c, top in zip(zero, np.nanmax(every[:, zero], axis=0), strict=True)
    )
    after = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
    yield Symptom(
        "class_at_zero",
        f"IoU 0 after {after}: {named}; draw the images that have it more often (a rare-class sampler), or "
        "give it more weight (multiply)",
        frozenset(zero.tolist()),
    )


def _settled(history: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return which classes no longer rise, bool [C]."""
    if len(history) <= PATIENCE:
        return np.zeros(len(history[-1]), bool)
    known = np.nan_to_num(np.stack(history))
    settled: NDArray[np.bool_] = known[-PATIENCE:].max(axis=0) <= known[:-PATIENCE].max(axis=0) + SETTLED
    return settled


def _gentler(classes: Classes) -> str:
    """Return what takes less from frequent classes than these weights."""
    there = classes.weights[classes.trained & (classes.weights != 0)]
    if not len(there) or np.ptp(there) < 1e-6 * np.abs(there).max():
        return "the weights are all equal, so they are not why: compare learning rate, epochs and seed"
    if classes.method == "logit_adjustment":
        return "a smaller tau takes less from frequent classes"
    if classes.method in GENTLE:
        return (
            f"{classes.method} is gentle already, so weights nearer to 1 (clip=lo,hi, or power with a "
            "smaller alpha) take little less; compare learning rate, epochs and seed too"
        )
    return "gentler weights (sqrt_inv_freq, enet, or clip=lo,hi) take less from frequent classes"
