"""Detection of problems of a training run from the loss and the IoU of each class. Pure arithmetic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]] | torch.Tensor | Sequence[float]

MAX_IOU_CHANGE = 0.02
"""How much the IoU of a class may differ from the baseline without being reported: 2 points."""
MIN_GAIN = 0.01
"""A class still improves if the best IoU of the last `PATIENCE` epochs exceeds the earlier best by this."""
PATIENCE = 3
"""Epochs before a class is reported during a run, because the IoU of every class starts at 0."""
MAX_LOSS_RISE = 1.1
"""A loss rises if the median of its last `LOSS_WINDOW` values exceeds this times the lowest such median."""
LOSS_WINDOW = 3
"""Epochs of a median loss; a single bad epoch does not change the median."""
ROUNDING = 1e-9
"""Tolerance of IoU differences, so that 0.90 − 0.88 counts as 0.02 and not as more."""
EQUAL_WEIGHTS = 1e-6
"""Relative difference up to which weights count as equal."""
GENTLE_METHODS = ("sqrt_inv_freq", "enet", "log_count", "uniform")
"""Methods that reduce the weight of frequent classes only a little, as do all weights with a smaller ratio of
the largest to the smallest than those of `sqrt_inv_freq`."""
NAMED_CLASSES = 10
"""How many classes a message lists."""


class Symptom(NamedTuple):
    """A problem of a run, or a gain.

    class_ids  ids of the affected classes; empty if the problem concerns the whole run
    problem    False for a gain
    """

    code: str
    message: str
    class_ids: frozenset[int] = frozenset()
    problem: bool = True


class Classes(Struct, frozen=True):
    """The classes of a run; every array has the shape [C].

    names     unique: where several classes share a name, the id is appended
    weights   float64
    frequent  bool: the class has at least 1/C of the pixels. For plain weights: its weight is at most their
              mean
    trained   bool: the class has pixels and is not ignored. For plain weights: True
    method    method of the weights; "" for plain weights
    gentle    whether the weights reduce that of frequent classes only a little
    """

    names: list[str]
    weights: NDArray[np.float64]
    frequent: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    method: str = ""
    gentle: bool = False


def classes_of(weights: ClassWeights | Numbers) -> Classes:
    """Return the classes as far as their weights describe them. Raises as `vector_of` does."""
    if not isinstance(weights, ClassWeights):
        vector = vector_of("weights", weights)
        names = [str(class_id) for class_id in range(len(vector))]
        return Classes(names, vector, vector <= vector.mean(), np.ones(len(vector), bool))
    rows = weights.classes
    names = [row["name"] for row in rows]
    unique = [f"{n}_{row['id']}" if names.count(n) > 1 else n for n, row in zip(names, rows, strict=True)]
    trained = np.array([not (row.get("ignored") or row.get("absent")) for row in rows], bool)
    frequency = np.array([row["frequency"] for row in rows])
    frequent = trained & (frequency >= 1 / max(int(trained.sum()), 1))
    vector = np.array(weights.to_list())
    gentle = weights.method in GENTLE_METHODS or (
        weights.kind == "weights" and _is_gentle(vector[trained], frequency[trained])
    )
    return Classes(unique, vector, frequent, trained, weights.method, gentle)


def _is_gentle(weights: NDArray[np.float64], frequency: NDArray[np.float64]) -> bool:
    """Return whether weights differ by no greater factor than those of `sqrt_inv_freq`."""
    if not len(weights) or not frequency.min() > 0:
        return False
    factor = np.sqrt(frequency.max() / frequency.min()) * (1 + EQUAL_WEIGHTS)
    return bool(weights.max() <= factor * weights.min())


def vector_of(name: str, values: Numbers, length: int | None = None) -> NDArray[np.float64]:
    """Return numbers as a float64 vector.

    name    parameter name for error messages

    Raises `InvalidParameter` unless they form a vector, with `length` elements if that is not None.
    """
    try:
        plain = values.detach().cpu().double() if hasattr(values, "detach") else values
        array = np.asarray(plain, np.float64)
    except (TypeError, ValueError) as problem:
        raise InvalidParameter((name, f"is not a vector of numbers: {problem}")) from None
    if array.ndim != 1 or len(array) == 0 or length not in (None, len(array)):
        expected = "one number for each class" if length is None else f"{length} numbers, one for each class"
        raise InvalidParameter((name, f"has shape {list(array.shape)}; give {expected}"))
    return array


def iou_of(name: str, values: Numbers, classes: Classes) -> NDArray[np.float64]:
    """Return the IoU of each class, float64 [C], 0 … 1 or NaN. Raises `InvalidParameter` for others."""
    array = vector_of(name, values, len(classes.names))
    invalid = np.flatnonzero((array < 0) | (array > 1))
    if len(invalid):
        first = invalid[0]
        raise InvalidParameter(
            (
                name,
                f"is {array[first]:g} for class {classes.names[first]}; give 0 … 1 (divide percentages by "
                "100), and NaN for a class that is neither in the labels nor predicted",
            )
        )
    return array


def loss_symptoms(losses: Sequence[float]) -> Iterator[Symptom]:
    """Yield the problems of the loss.

    losses  loss of every epoch so far
    """
    if losses and not math.isfinite(losses[-1]):
        yield Symptom(
            "loss_not_finite",
            f"the loss is {losses[-1]:g}. Lower the learning rate or clip gradients; with float16, try "
            "bfloat16. torch.autograd.set_detect_anomaly(True) finds the operation",
        )
        return
    finite = [loss for loss in losses if math.isfinite(loss)]
    medians = [
        float(np.median(finite[end - LOSS_WINDOW : end])) for end in range(LOSS_WINDOW, len(finite) + 1)
    ]
    if medians and medians[-1] > MAX_LOSS_RISE * min(medians):
        yield Symptom(
            "loss_rising",
            f"the loss rises: the median of the last three epochs is {medians[-1]:.4g}, after "
            f"{min(medians):.4g}. Lower the learning rate, or use the checkpoint from before the rise",
        )


def baseline_symptoms(
    iou_history: Sequence[NDArray[np.float64]],
    baseline: NDArray[np.float64],
    classes: Classes,
    finished: bool,
) -> Iterator[Symptom]:
    """Yield symptoms for the frequent and the rare classes more than 2 points below the baseline, and a gain
    for the classes more than 2 points above it.

    iou_history  IoU of each class in every epoch so far, each [C]
    finished     whether the run has ended; before that, a class that still improves may reach its baseline
    """
    iou = iou_history[-1]
    lost = classes.trained & (baseline - iou > MAX_IOU_CHANGE + ROUNDING)
    if not finished:
        lost &= _stopped_improving(iou_history)
    higher = classes.trained & (iou - baseline > MAX_IOU_CHANGE + ROUNDING)
    rare_lost = lost & ~classes.frequent & (iou > 0)  # `zero_iou_symptoms` reports the others
    reason = "Large weights cause false detections of rare classes, and their IoU varies between seeds. "
    for code, kind, selected, change, advice in (
        ("frequent_class_down", "frequent ", lost & classes.frequent, "lost", _gentler_weights(classes)),
        ("rare_class_down", "rare ", rare_lost, "lost", reason + _gentler_weights(classes)),
        ("class_up", "", higher, "gained", ""),
    ):
        class_ids = np.flatnonzero(selected).tolist()
        if not class_ids:
            continue
        named = _listed(f"{classes.names[c]} {baseline[c]:.1%} → {iou[c]:.1%}" for c in class_ids)
        subject = f"a {kind}class" if len(class_ids) == 1 else f"{len(class_ids)} {kind}classes"
        message = f"{subject} {change} more than 2 points against the baseline: {named}"
        text = f"{message}. {advice}" if advice else message
        yield Symptom(code, text, frozenset(class_ids), problem=change == "lost")


def zero_iou_symptoms(
    iou_history: Sequence[NDArray[np.float64]], classes: Classes, finished: bool
) -> Iterator[Symptom]:
    """Yield a symptom for the classes whose IoU is 0.

    iou_history  IoU of each class in every epoch so far, each [C]
    finished     whether the run has ended; before that, the IoU must be 0 in each of the last epochs
    """
    epochs = 1 if finished else PATIENCE
    if len(iou_history) < epochs:
        return
    history = np.stack(iou_history)
    class_ids = np.flatnonzero(classes.trained & (history[-epochs:] == 0).all(axis=0)).tolist()
    if not class_ids:
        return
    best = np.nanmax(history[:, class_ids], axis=0)
    named = _listed(
        f"{classes.names[c]} (weight {classes.weights[c]:.4g}{f', had {iou:.1%}' if iou > 0 else ''})"
        for c, iou in zip(class_ids, best, strict=True)
    )
    duration = "1 epoch" if len(iou_history) == 1 else f"{len(iou_history)} epochs"
    yield Symptom(
        "class_at_zero",
        f"IoU 0 after {duration}: {named}. Draw images with these classes more often (RareClassSampler), or "
        "increase their weight (multiply)",
        frozenset(class_ids),
    )


def _stopped_improving(iou_history: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return which classes no longer improve, bool [C]."""
    if len(iou_history) <= PATIENCE:
        return np.zeros(len(iou_history[-1]), bool)
    history = np.nan_to_num(np.stack(iou_history))
    recent, earlier = history[-PATIENCE:].max(axis=0), history[:-PATIENCE].max(axis=0)
    stopped: NDArray[np.bool_] = recent <= earlier + MIN_GAIN
    return stopped


def _gentler_weights(classes: Classes) -> str:
    """Return advice on weights that cost classes less IoU than these."""
    weights = classes.weights[classes.trained & (classes.weights != 0)]
    if not len(weights) or np.ptp(weights) < EQUAL_WEIGHTS * np.abs(weights).max():
        return "The weights are all equal, so they are not the cause: compare learning rate, epochs and seed"
    if classes.method == "logit_adjustment":
        return "A smaller tau costs other classes less"
    if classes.gentle:
        return (
            f"{classes.method} is gentle already, so weights closer to 1 (clip=lo,hi, or a smaller strength) "
            "change little: also compare learning rate, epochs and seed"
        )
    return "Gentler weights (sqrt_inv_freq, enet, or clip=lo,hi) cost other classes less"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return ", ".join(names[:NAMED_CLASSES]) + more
