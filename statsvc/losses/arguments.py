"""Checks of the options of a loss, and of its logits and targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from statsvc.common.plain_values import plain
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter
from statsvc.losses.class_sums import class_count


def ignored_ids(ignore_index: Any) -> tuple[int, ...]:
    """Return the ignored ids as a tuple. Raises `InvalidParameter` unless all are integers."""
    value = plain(ignore_index)
    ids = tuple(map(plain, value)) if _is_collection(value) else (value,)
    if any(isinstance(class_id, bool) or not isinstance(class_id, int) for class_id in ids):
        raise InvalidParameter(
            (
                "ignore_index",
                f"must be an integer or a list of integers, not {ignore_index!r}; give [] to ignore nothing",
            )
        )
    return ids


def flag(name: str, value: Any) -> bool:
    """Return True or False. Raises `InvalidParameter` for anything else, such as the text "false"."""
    truth = plain(value)
    if not isinstance(truth, bool):
        raise InvalidParameter((name, f"must be True or False, not {value!r}"))
    return truth


def positive(name: str, value: float) -> float:
    """Return a finite number above 0. Raises `InvalidParameter` for anything else."""
    number = non_negative(name, value)
    if number == 0:
        raise InvalidParameter((name, "is 0, so the loss would be constant; give a number above 0"))
    return number


def non_negative(name: str, value: float) -> float:
    """Return a finite number of at least 0. Raises `InvalidParameter` for anything else."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
        raise InvalidParameter((name, f"must be a finite number of at least 0, not {value!r}"))
    return float(number)


def factors(name: str, value: Any) -> Tensor:
    """Return a number, or one for each class, as float32: [] or [C]. Raises `InvalidParameter`."""
    numbers = plain(value)
    if _is_collection(numbers) and len(numbers):
        return torch.tensor([non_negative(name, number) for number in numbers])
    return torch.tensor(non_negative(name, numbers))


def _is_collection(value: Any) -> bool:
    """Return whether a value is a list, tuple, set or range, or the list of a configuration library."""
    return isinstance(value, Sequence | Set) and not isinstance(value, str)


def require_tensors(logits: Any, target: Any) -> None:
    """Raise `InvalidParameter` unless both are tensors, naming the logits in the output of a model."""
    for name, value in (("logits", logits), ("target", target)):
        if isinstance(value, Tensor):
            continue
        if isinstance(value, Mapping):
            advice = f"has the entries {', '.join(map(str, value))}; give one of them, such as output['out']"
            if "logits" in value:
                advice = "is the output of a model; give output.logits, resized to the size of the target"
        elif isinstance(value, list | tuple):
            shapes = ", ".join(str(list(getattr(item, "shape", []))) for item in value)
            advice = f"has {len(value)} items of shape {shapes}; give one of them, or add their losses"
        else:
            advice = "is not a tensor; use torch.as_tensor"
        raise InvalidParameter((name, f"{type(value).__name__} {advice}"))


def check_devices(logits: Tensor, target: Tensor) -> None:
    """Raise `InvalidParameter` unless both are on the same device."""
    if logits.device != target.device:
        raise InvalidParameter(
            (
                "target",
                f"is on {target.device}, but the logits are on {logits.device}; give "
                "target.to(logits.device)",
            )
        )


def check_shapes(logits: Tensor, target: Tensor, vector: Tensor | None) -> None:
    """Raise `InvalidParameter` for shapes and dtypes that do not match; the message says what to do.

    vector  the numbers of the classes, [C], or None
    """
    shape, labels = list(logits.shape), list(target.shape)
    if logits.ndim < 3 or not logits.is_floating_point():
        raise InvalidParameter(
            ("logits", f"are {logits.dtype} of shape {shape}; give floating-point [N, C, *spatial]")
        )
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise InvalidParameter(
            ("target", f"is {target.dtype}; give integer class ids, for instance target.long()")
        )
    if labels != [shape[0], *shape[2:]]:
        hints = {
            tuple(shape): "; of a one-hot target, give target.argmax(1)",
            tuple(shape[1:]): "; for a single image, give logits[None] and target[None]",
            (shape[0], *shape[2:], 1): "; give target.squeeze(-1)",
            (shape[0], 1, *shape[2:]): "; give target.squeeze(1)",
        }
        hint = hints.get(tuple(labels), "")
        raise InvalidParameter(
            (
                "target",
                f"has shape {labels}, but logits of shape {shape} require {[shape[0], *shape[2:]]}{hint}",
            )
        )
    classes = class_count(logits)
    if vector is not None and len(vector) != classes:
        channel = "; one channel has two classes, background and foreground" if shape[1] == 1 else ""
        raise InvalidParameter(
            (
                "class_weights",
                f"has {plural(len(vector), 'number')}, but the logits have {classes} classes (shape "
                f"{shape}); give one number for each class, including absent ones "
                f"(num_classes={classes}){channel}",
            )
        )
