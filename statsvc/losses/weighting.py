"""What a loss accepts as `class_weights`, and the provenance of the weights."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.origins import PROVENANCE, recall, values_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    AnyWeights = ClassWeights | Tensor | NDArray[np.floating] | Sequence[float] | None

Kind = Literal["weights", "additive"]

Record = dict[str, Any]

RECORD_SIZE = 2048
"""Elements of a packed record. Its length must not depend on its content: see `packed`."""
_LEVEL = 17
"""Difference of neighboring levels of a packed record: 0, 17, …, 255."""


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
                "each class; this loss has a softmax over the classes, so choose another method. For logits "
                "of one channel, CrossEntropyLoss(alpha=[1, weights[1]]) is the same loss",
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


def record_of(class_weights: AnyWeights, vector: Tensor | None) -> Record | None:
    """Return what a checkpoint keeps about weights; None without weights.

    The record has the digest of the numbers, "values", and the fields `PROVENANCE` if the numbers are those
    of a response of this process.

    vector  the result of `vector_of`
    """
    if vector is None:
        return None
    digest = values_digest(vector.tolist())
    if isinstance(class_weights, ClassWeights):
        provenance = class_weights.provenance
    elif isinstance(class_weights, Tensor | np.ndarray):
        provenance = recall(class_weights, digest) or {}
    else:
        provenance = {}
    return {**provenance, "values": digest}


def packed(record: Record | None) -> Tensor:
    """Return a record as uint8 [RECORD_SIZE], which is zeros for None.

    Checkpoint tools require tensors of constant shape, and average, cast and decay them. Therefore each
    element is one of 16 levels, four bits of compressed JSON, and may be wrong by half a level.
    """
    data = _compressed(record)
    if 2 * len(data) > RECORD_SIZE and record is not None:
        data = _compressed({**record, "spec": _spec_digest(record["spec"])})
    half_bytes = np.frombuffer(data, np.uint8)[:, None] >> np.array([4, 0], np.uint8) & 15
    levels = np.zeros(RECORD_SIZE, np.uint8)
    levels[: 2 * len(data)] = _LEVEL * half_bytes.ravel()
    return torch.from_numpy(levels)


def unpacked(state: Any) -> Record | None:
    """Reverse `packed`. Return None for anything that cannot be read, because loading must not fail."""
    try:
        levels = np.nan_to_num(state.detach().cpu().double().numpy()).ravel() / _LEVEL
        half_bytes = np.rint(levels[: len(levels) // 2 * 2]).clip(0, 15).astype(np.uint8).reshape(-1, 2)
        record = json.loads(zlib.decompress((half_bytes[:, 0] << 4 | half_bytes[:, 1]).tobytes()))
    except Exception:  # noqa: BLE001  a tool may have replaced the tensor by anything
        return None
    return record if isinstance(record, dict) else None


def unpacked_json(state: Any) -> Record | None:
    """Return the record of an `_extra_state` of earlier versions, JSON in a uint8 tensor; or None."""
    try:
        record = json.loads(bytes(state.detach().cpu().double().round().byte().tolist()))
    except Exception:  # noqa: BLE001  as above
        return None
    return record if isinstance(record, dict) else None


def _compressed(record: Record | None) -> bytes:
    return b"" if record is None else zlib.compress(json.dumps(record, sort_keys=True).encode(), 9)


def _spec_digest(spec: Any) -> str:
    """Return a digest of a spec; a digest stays as it is."""
    if isinstance(spec, str):
        return spec
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def difference(saved: Record, current: Record | None) -> str:
    """Return a text that says how weights changed, or an empty string."""
    if current is None:
        return f"{describe(saved)}, now no weights"
    if "dataset" not in saved or "dataset" not in current:
        changed = [] if saved.get("values") == current["values"] else ["values"]
    else:
        fields = [name for name in (*PROVENANCE, "values") if name in saved]
        changed = [name for name in fields if saved[name] != current[name]]
        if "spec" in changed and _spec_digest(saved["spec"]) == _spec_digest(current["spec"]):
            changed.remove("spec")
    if not changed:
        return ""
    return f"{describe(saved)}, now {describe(current)} ({', '.join(changed)} changed)"


def describe(record: Record) -> str:
    """Return method, dataset and version as a text."""
    if "dataset" not in record:
        return "numbers of unknown origin"
    version = "" if record["version"] is None else f" version {record['version']}"
    return f"{record['method']} of {record['dataset']}{version}"
