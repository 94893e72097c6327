"""What is wrong with a run, told from each class's IoU and the loss. Arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.notices import listed
from statsvc.result import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from statsvc.notices import Notice

    Numbers = NDArray[np.floating[Any]] | torch.Tensor | Sequence[float]

POINTS = 0.02
"""How much IoU a frequent class may lose against the baseline: 2 points."""
RISE = 1.1
"""A loss rises where the median of its last three values is more than this times the lowest such median."""


@dataclass(frozen=True)
class Classes:
    """The classes of a run, each an entry of the arrays of shape [C].

    names     unique; where two classes share one, the id is put after it
    weights   float64
    frequent  bool; the class has at least 1/C of the pixels. Where only the weights are known: a weight not
              above their mean
    trained   bool; the class has pixels and is not ignored. Where only the weights are known: all True
    """

    names: list[str]
    weights: NDArray[np.float64]
    frequent: NDArray[np.bool_]
    trained: NDArray[np.bool_]


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
    return Classes(unique, np.array(weights.to_list()), frequent, trained)


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


def about_loss(losses: Sequence[float]) -> Iterator[Notice]:
    """Yield what is to be said of the losses of all epochs so far."""
    if losses and not math.isfinite(losses[-1]):
        yield (
            "loss_not_finite",
            f"the loss is {losses[-1]:g}: lower the learning rate or clip gradients, and under float16 try "
            "bfloat16; torch.autograd.set_detect_anomaly(True) names the operation",
        )
        return
    finite = [loss for loss in losses if math.isfinite(loss)]
    medians = [float(np.median(finite[end - 3 : end])) for end in range(3, len(finite) + 1)]
    # Medians of three, so that one bad epoch is no alarm.
    if medians and medians[-1] > RISE * min(medians):
        yield (
            "loss_rising",
            f"the loss rises: {medians[-1]:.4g} (median of the last three epochs) after {min(medians):.4g}; "
            "lower the learning rate, or take the checkpoint of then",
        )


def about_frequent(
    iou: NDArray[np.float64], baseline: NDArray[np.float64], classes: Classes
) -> Iterator[Notice]:
    """Yield a notice of the frequent classes that lost more than 2 points against the baseline."""
    # A billionth of slack, so that 0.90 − 0.88 is 2 points and not more.
    lost = np.flatnonzero(classes.frequent & (baseline - iou > POINTS + 1e-9))
    if len(lost):
        named = listed(f"{classes.names[c]} {baseline[c]:.1%} → {iou[c]:.1%}" for c in lost)
        classes_lost = "a frequent class" if len(lost) == 1 else f"{len(lost)} frequent classes"
        yield (
            "frequent_class_down",
            f"{classes_lost} lost more than 2 points against the baseline: {named}; gentler weights "
            "(sqrt_inv_freq, enet, or clip=lo,hi) take less from frequent classes",
        )


def about_zero(history: Sequence[NDArray[np.float64]], classes: Classes) -> Iterator[Notice]:
    """Yield a notice of the classes whose IoU is 0, given the IoU of all epochs so far."""
    zero = np.flatnonzero(classes.trained & (history[-1] == 0))
    if not len(zero):
        return
    best = np.nanmax(np.stack(history)[:, zero], axis=0)
    named = listed(
        f"{classes.names[c]} (weight {classes.weights[c]:.4g}{f', had {top:.1%}' if top > 0 else ''})"
        for c, top in zip(zero, best, strict=True)
    )
    epochs = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
    yield (
        "class_at_zero",
        f"IoU 0 after {epochs}: {named}; draw the images that have it more often (a rare-class sampler), or "
        "give it more weight (multiply)",
    )
