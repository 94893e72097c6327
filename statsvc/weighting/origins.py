"""Which response the numbers in a tensor or array come from.

`statsvc.class_weights` returns a plain tensor. A loss that gets it, or a copy on another device, finds its
provenance here and saves it in checkpoints.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    import torch
    from numpy.typing import ArrayLike

    Provenance = dict[str, Any]

PROVENANCE = ("dataset", "version", "method", "kind", "exact", "spec")
"""Fields of a response that say what its numbers are based on: the provenance."""

_KEPT = 256
"""How many different vectors this process remembers."""

_of_values: OrderedDict[str, Provenance] = OrderedDict()
_of_tensor: MutableMapping[torch.Tensor, Provenance] | None = None


def values_digest(values: ArrayLike) -> str:
    """Return 16 hexadecimal digits that are equal if and only if the float32 values are."""
    return hashlib.sha256(np.asarray(values, "<f4").tobytes()).hexdigest()[:16]


def remember(values: Sequence[float], provenance: Provenance, tensor: torch.Tensor | None = None) -> None:
    """Record the provenance of values, and of the tensor that has them if given."""
    global _of_tensor
    digest = values_digest(values)
    _of_values[digest] = provenance
    _of_values.move_to_end(digest)
    if len(_of_values) > _KEPT:
        _of_values.popitem(last=False)
    if tensor is not None:
        if _of_tensor is None:
            from torch.utils.weak import WeakTensorKeyDictionary

            _of_tensor = WeakTensorKeyDictionary()
        _of_tensor[tensor] = {**provenance, "values": digest}


def recall(values: torch.Tensor | np.ndarray[Any, Any], digest: str) -> Provenance | None:
    """Return the provenance of a tensor or array whose values have a digest, or None if it is unknown.

    Values that several responses share are those of the latest, except for a tensor of `remember` itself.
    """
    if _of_tensor is not None and not isinstance(values, np.ndarray):
        known = _of_tensor.get(values)
        if known is not None and known["values"] == digest:  # not modified in place
            return {name: known[name] for name in PROVENANCE}
    return _of_values.get(digest)
