"""What a loss accepts as `class_weights`, and where they come from."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    AnyWeights = ClassWeights | Tensor | NDArray[np.floating] | Sequence[float] | None

Kind = Literal["weights", "additive"]

_ORIGIN = ("dataset", "version", "method", "kind", "exact", "spec")


def vector_of(class_weights: AnyWeights, kind: str) -> Tensor | None:
    """Return one finite float32 number for each class, [C], or None where none were given.

    Weights are at least 0. Raises `InvalidParameter` for what is not such a vector, and for a
    `ClassWeights` that is of another kind than asked for.
    """
    if kind not in ("weights", "additive"):
        raise InvalidParameter(("kind", f"{kind!r} is neither 'weights' nor 'additive'"))
    if class_weights is None:
        if kind == "additive":
            raise InvalidParameter(
                ("class_weights", "kind='additive' needs the numbers to add to the logits")
            )
        return None
    if isinstance(class_weights, ClassWeights):
        _check_kind(class_weights, kind)
        class_weights = class_weights.to_list()
    try:
        vector = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InvalidParameter(
            ("class_weights", f"{type(class_weights).__name__} is no vector of numbers: {problem}")
        ) from None
    if vector.ndim != 1 or len(vector) == 0:
        raise InvalidParameter(
            ("class_weights", f"has shape {list(vector.shape)}; give one number for each class, [C]")
        )
    for class_id, number in enumerate(vector.tolist()):
        if not math.isfinite(number):
            raise InvalidParameter(("class_weights", f"is {number} for class {class_id}; it must be finite"))
        if number < 0 and kind == "weights":
            raise InvalidParameter(
                (
                    "class_weights",
                    f"is {number:g} for class {class_id}, and a weight is at least 0; numbers that belong "
                    "on the logits (logit_adjustment) need kind='additive'",
                )
            )
    return vector


def _check_kind(weights: ClassWeights, kind: str) -> None:
    if weights.kind == "pos_weight":
        raise InvalidParameter(
            (
                "class_weights",
                f"{weights.method} is for torch.nn.BCEWithLogitsLoss(pos_weight=…), a sigmoid for each "
                "class; this loss has a softmax over classes, so choose another method",
            )
        )
    if weights.kind != kind:
        do = (
            "kind='additive' adds them to the logits"
            if weights.kind == "additive"
            else "leave kind='additive' away, or choose logit_adjustment"
        )
        raise InvalidParameter(
            ("class_weights", f"{weights.method} gives numbers of kind {weights.kind}, not {kind}: {do}")
        )


def provenance_of(class_weights: AnyWeights) -> dict[str, Any] | None:
    """Return dataset, version, method, kind, exact and spec of a `ClassWeights`; None for a plain vector."""
    if not isinstance(class_weights, ClassWeights):
        return None
    return {name: getattr(class_weights, name) for name in _ORIGIN}


def packed(provenance: dict[str, Any] | None) -> Tensor:
    """Return JSON in UTF-8 as a uint8 tensor: tools that keep checkpoints expect nothing but tensors."""
    return torch.frombuffer(bytearray(json.dumps(provenance, sort_keys=True), "utf-8"), dtype=torch.uint8)


def unpacked(state: Tensor) -> dict[str, Any] | None:
    """Return what `packed` was given."""
    found: dict[str, Any] | None = json.loads(bytes(state.tolist()))
    return found


def difference(then: dict[str, Any], now: dict[str, Any] | None) -> str:
    """Return in words how the origin of weights changed, or an empty string."""
    if now is None:
        return f"{named(then)} then, and numbers of unknown origin now"
    changed = [name for name in _ORIGIN if then.get(name) != now[name]]
    if not changed:
        return ""
    return f"{named(then)} then and {named(now)} now ({', '.join(changed)} changed)"


def named(provenance: dict[str, Any]) -> str:
    """Return method, dataset and version in words."""
    version = "" if provenance["version"] is None else f" version {provenance['version']}"
    return f"{provenance['method']} of {provenance['dataset']}{version}"
