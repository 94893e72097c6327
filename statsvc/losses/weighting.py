"""What a loss accepts as `class_weights`, and the provenance of the weights."""

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

_PROVENANCE = ("dataset", "version", "method", "kind", "exact", "spec")


def vector_of(class_weights: AnyWeights, kind: str) -> Tensor | None:
    """Return one finite number for each class, float32 [C], or None without weights.

    kind  "weights", which must be at least 0, or "additive"

    Raises `InvalidParameter` for anything else, and for `ClassWeights` of another kind.
    """
    if kind not in ("weights", "additive"):
        raise InvalidParameter(("kind", f"must be 'weights' or 'additive', not {kind!r}"))
    if class_weights is None:
        if kind == "additive":
            raise InvalidParameter(
                ("class_weights", "is missing: kind='additive' requires the numbers to add to the logits")
            )
        return None
    if isinstance(class_weights, ClassWeights):
        _check_kind(class_weights, kind)
        class_weights = class_weights.to_list()
    try:
        vector = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InvalidParameter(
            ("class_weights", f"{type(class_weights).__name__} is not a vector of numbers: {problem}")
        ) from None
    if vector.ndim != 1 or len(vector) == 0:
        raise InvalidParameter(
            ("class_weights", f"has shape {list(vector.shape)}; give one number for each class, [C]")
        )
    for class_id, number in enumerate(vector.tolist()):
        if not math.isfinite(number):
            raise InvalidParameter(("class_weights", f"is {number} for class {class_id}, but must be finite"))
        if number < 0 and kind == "weights":
            raise InvalidParameter(
                (
                    "class_weights",
                    f"is {number:g} for class {class_id}, but a weight must be at least 0; to add numbers to "
                    "the logits (logit_adjustment), set kind='additive'",
                )
            )
    return vector


def _check_kind(weights: ClassWeights, kind: str) -> None:
    if weights.kind == "pos_weight":
        raise InvalidParameter(
            (
                "class_weights",
                f"{weights.method} is for torch.nn.BCEWithLogitsLoss(pos_weight=…), which has a sigmoid for "
                "each class; this loss has a softmax over the classes, so choose another method",
            )
        )
    if weights.kind != kind:
        advice = (
            "set kind='additive' to add them to the logits"
            if weights.kind == "additive"
            else "remove kind='additive', or choose logit_adjustment"
        )
        raise InvalidParameter(
            (
                "class_weights",
                f"{weights.method} returns numbers of kind {weights.kind}, not {kind}; {advice}",
            )
        )


def provenance_of(class_weights: AnyWeights) -> dict[str, Any] | None:
    """Return dataset, version, method, kind, exact and spec of `ClassWeights`; None for plain numbers."""
    if not isinstance(class_weights, ClassWeights):
        return None
    return {name: getattr(class_weights, name) for name in _PROVENANCE}


def packed(provenance: dict[str, Any] | None) -> Tensor:
    """Return JSON in UTF-8 as a uint8 tensor, because many checkpoint tools only accept tensors."""
    return torch.frombuffer(bytearray(json.dumps(provenance, sort_keys=True), "utf-8"), dtype=torch.uint8)


def unpacked(state: Tensor) -> dict[str, Any] | None:
    """Reverse `packed`."""
    provenance: dict[str, Any] | None = json.loads(bytes(state.tolist()))
    return provenance


def difference(saved: dict[str, Any], current: dict[str, Any] | None) -> str:
    """Return a text that says how the provenance of weights changed, or an empty string."""
    if current is None:
        return f"{describe(saved)}, now numbers of unknown origin"
    changed = [name for name in _PROVENANCE if saved.get(name) != current[name]]
    if not changed:
        return ""
    return f"{describe(saved)}, now {describe(current)} ({', '.join(changed)} changed)"


def describe(provenance: dict[str, Any]) -> str:
    """Return method, dataset and version as a text."""
    version = "" if provenance["version"] is None else f" version {provenance['version']}"
    return f"{provenance['method']} of {provenance['dataset']}{version}"
