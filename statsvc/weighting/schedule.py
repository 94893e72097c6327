"""Weights that change during training: deferred re-weighting and a linear ramp."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.weighting.compute import at_strength

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


def strength_at(epoch: float, start: float, end: float | None = None) -> float:
    """Return the strength at an epoch: 0 before `start`, 1 from `end`, and linear in between.

    Without `end`, the strength jumps to 1 at `start`. This is deferred re-weighting (DRW) of Cao et al.,
    Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019.

    Raises `InvalidParameter` for a number that is not finite, and an `end` before `start`.
    """
    end = start if end is None else end
    for name, value in (("epoch", epoch), ("start", start), ("end", end)):
        if not math.isfinite(value):
            raise InvalidParameter((name, f"{value} is not a finite number"))
    if end < start:
        raise InvalidParameter(("end", f"{end:g} is before start={start:g}; use an end from start on"))
    if epoch >= end:
        return 1.0
    return max(0.0, (epoch - start) / (end - start)) if end > start else 0.0


def weights_at_strength(response: Mapping[str, Any], strength: float) -> Float64:
    """Return the weights of a response, weakened to a strength from 0 to 1: float64 [C].

    The exponent applies to the final weights, so factors of `multiply` and bounds of `clip` are weakened too.
    What `normalize` fixes, for instance the mean over present classes, keeps its value. Ignored classes keep
    0, and absent classes keep what the request's `absent` gives them.
    """
    weights = np.array(response["weights"], np.float64)
    if strength == 1:
        return weights
    spec, kind = response["spec"], response["kind"]
    if kind != "weights":
        ignored = np.array([bool(row.get("ignored")) for row in response["classes"]])
        return np.where(ignored, 0.0, at_strength(weights, strength, kind))
    absent = np.array([bool(row.get("absent")) for row in response["classes"]])
    included = np.array([not row.get("ignored") for row in response["classes"]])
    if spec["absent"] != "eps":
        included &= ~absent
    share = np.array([row["frequency"] for row in response["classes"]])[included]
    weaker = at_strength(weights[included], strength, kind)
    fixed = _scale(weights[included], share, spec["normalize"])
    # A smallest weight of 0, from clip or rounding, fixes no scale.
    weights[included] = weaker * (fixed / _scale(weaker, share, spec["normalize"]) if fixed > 0 else 1.0)
    if spec["absent"] == "max":
        weights[absent] = weights[included].max()
    return weights


def _scale(weights: Float64, share: Float64, normalize: str) -> float:
    """Return the number that a kind of normalization fixes."""
    match normalize:
        case "mean":
            return float(weights.mean())
        case "sum":
            return float(weights.sum())
        case "max":
            return float(weights.max())
        case "min":
            return float(weights.min())
        case "expected":
            return float((share * weights).sum())
        case _:
            return 1.0
