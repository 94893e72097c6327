"""Comparison of weighting methods: how each distributes the loss over the classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.weighting.methods import DEFAULT, METHODS
from statsvc.weighting.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

REFERENCE = "uniform"
ALPHAS = ("0.25", "0.75")
"""Exponents of `power` to compare by default; uniform is 0, sqrt_inv_freq 0.5 and inverse_freq 1."""

_BETA = "0.9999"

_EQUAL_WEIGHTS = 1e-9
"""Relative difference up to which weights count as equal."""


def compare(
    weights_of: Callable[[dict[str, Any]], dict[str, Any]],
    shared: Mapping[str, Any],
    *,
    methods: Sequence[str] = (),
    betas: Sequence[str] = (),
    alphas: Sequence[str] = (),
    strengths: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the compared methods as JSON, in ascending order of the ratio of their weights.

    weights_of  function from parameters of a weight spec to the weights response
    shared      parameters of all requests, such as split, ignore_index and sampler
    methods     methods to compare, by default all that return class weights; uniform and the default method
                are always included
    betas       values for effective_num, by default 0.9999 and powers of ten near 1 − 1/median of the pixels
                of a class
    alphas      exponents for power, by default `ALPHAS`
    strengths   strengths of every method except uniform, by default 1; the default method is also included
                at strength 1

    Each candidate has its weights and `loss_share` by class; `ratio`, the largest over the smallest weight of
    present classes; and `moved`, the part of the loss, from 0 to 1, that moves to other classes compared with
    uniform weights and with the default method. Candidates with equal weights are merged into one with
    several `names`. `left_out` lists candidates that have no response, with the reason.

    Raises `InvalidParameter` for a method that does not return class weights and for a malformed β, α or
    strength, and what `weights_of` raises for uniform weights.
    """
    _check_methods(methods)
    parsed_strengths = _parsed_strengths(strengths)
    common, owned = _shared_parameters(shared)
    reference = weights_of({**common, "method": REFERENCE})
    left_out: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    at_full_strength = _candidate_params(reference, owned, methods, betas, alphas)
    for params in _at_strengths(at_full_strength, parsed_strengths):
        name = " ".join([params["method"], *(f"{k}={v}" for k, v in params.items() if k != "method")])
        try:
            response = reference if params["method"] == REFERENCE else weights_of({**common, **params})
        except (Unanswerable, InvalidParameter) as problem:
            if _concerns_a_value(problem, params):
                raise
            _leave_out(left_out, name, problem)
            continue
        _add(candidates, name, params, response)
    _add_moved(candidates)
    candidates.sort(key=lambda candidate: (candidate["ratio"] or math.inf, candidate["names"]))
    return _summary(reference) | {
        "candidates": candidates,
        "left_out": left_out,
        "warnings": reference["warnings"],
    }


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        if name not in METHODS or METHODS[name].kind != "weights":
            comparable = ", ".join(known for known, method in METHODS.items() if method.kind == "weights")
            raise InvalidParameter(
                ("method", f"{name} does not return class weights; use one of {comparable}")
            )


def _parsed_strengths(strengths: Sequence[str]) -> list[float]:
    try:
        return [PARAMETERS["strength"].parse(strength) for strength in strengths]
    except ValueError as problem:
        raise InvalidParameter(("strength", str(problem))) from None


def _at_strengths(
    candidates: Iterable[dict[str, Any]], strengths: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield every candidate at every strength; strength 1 is left out of the parameters."""
    for params in candidates:
        if not strengths or params["method"] == REFERENCE:
            yield params
            continue
        required = [1.0] if params["method"] == DEFAULT else []
        for strength in dict.fromkeys([*required, *strengths]):
            yield params if strength == 1 else {**params, "strength": f"{strength:g}"}


def _shared_parameters(shared: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the parameters of all methods, and method → parameters that only this method takes."""
    common: dict[str, Any] = {}
    owned: dict[str, dict[str, Any]] = {}
    for name, value in shared.items():
        if value is None:
            continue
        method = PARAMETERS[name].method if name in PARAMETERS else None
        (common if method is None else owned.setdefault(method, {}))[name] = value
    return common, owned


def _add_moved(candidates: Sequence[dict[str, Any]]) -> None:
    by_name = {name: candidate for candidate in candidates for name in candidate["names"]}
    uniform = by_name[REFERENCE]
    default = by_name.get(DEFAULT, uniform)
    for candidate in candidates:
        candidate["moved"] = {"uniform": _moved(candidate, uniform), "default": _moved(candidate, default)}


def _summary(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the comparison that does not depend on the method."""
    return {
        "dataset": reference["dataset"],
        "version": reference["version"],
        "split": reference["split"],
        **({"stream": reference["stream"]} if "stream" in reference else {}),
        "images": reference["images"],
        "pixels": reference["pixels"],
        "default": DEFAULT,
        "classes": [
            {
                key: row[key]
                for key in ("id", "name", "pixels", "frequency", "ignored", "absent")
                if key in row
            }
            for row in reference["classes"]
        ],
    }


def _leave_out(left_out: list[dict[str, Any]], name: str, problem: Exception) -> None:
    reason = problem.errors[0][1] if isinstance(problem, InvalidParameter) else str(problem)
    for other in left_out:
        if other["reason"] == reason:
            other["names"].append(name)
            return
    left_out.append({"names": [name], "reason": reason})


def _concerns_a_value(problem: Exception, params: Mapping[str, Any]) -> bool:
    """Return whether β or α is malformed, an error of the caller rather than a limit of this dataset."""
    return isinstance(problem, InvalidParameter) and any(
        name in params and name != "method" for name, _ in problem.errors
    )


def _candidate_params(
    reference: Mapping[str, Any],
    owned: Mapping[str, Mapping[str, Any]],
    methods: Sequence[str],
    betas: Sequence[str],
    alphas: Sequence[str],
) -> Iterator[dict[str, Any]]:
    chosen = [*methods] or [name for name, method in METHODS.items() if method.kind == "weights"]
    for name in dict.fromkeys((REFERENCE, DEFAULT, *chosen)):
        own = owned.get(name, {})
        if name == "effective_num":
            for beta in dict.fromkeys(betas or _betas(reference, own.get("unit"))):
                yield {"method": name, "beta": beta, **own}
        elif name == "power":
            for alpha in dict.fromkeys(alphas or ALPHAS):
                yield {"method": name, "alpha": alpha, **own}
        else:
            yield {"method": name, **own}


def _betas(reference: Mapping[str, Any], unit: str | None) -> list[str]:
    """Return 0.9999 and three betas near 1 − 1/median, between uniform and inverse frequency weights."""
    counts = [
        row["images" if unit == "images" else "pixels"]
        for row in reference["classes"]
        if not row.get("ignored") and not row.get("absent")
    ]
    if None in counts:
        return [_BETA]
    exponent = max(1, round(math.log10(max(1.0, float(np.median(counts))))))
    # 1-1e-4 is 0.9999.
    return [_BETA, *(f"1-1e-{k}" for k in (exponent - 1, exponent, exponent + 1) if k > 0 and k != 4)]


def _add(
    candidates: list[dict[str, Any]], name: str, params: Mapping[str, Any], response: Mapping[str, Any]
) -> None:
    weights = np.array(response["weights"])
    for other in candidates:
        if np.allclose(other["weights"], weights, rtol=_EQUAL_WEIGHTS, atol=0):
            other["names"].append(name)
            other["methods"].append(params["method"])
            return
    present = np.array(
        [not row.get("ignored") and not row.get("absent") for row in response["classes"]], bool
    )
    smallest = float(weights[present].min())
    candidates.append(
        {
            "names": [name],
            "methods": [params["method"]],
            # A weight is 0 only if it was clipped or underflowed.
            "ratio": float(weights[present].max()) / smallest if smallest > 0 else None,
            "weights": response["weights"],
            "loss_share": [row["loss_share"] for row in response["classes"]],
            "expected_weight": response["expected_weight"],
        }
    )


def _moved(candidate: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    """Return the part of the loss that moves to other classes: half the sum of all absolute differences."""
    return 0.5 * math.fsum(
        abs(share - base_share)
        for share, base_share in zip(candidate["loss_share"], base["loss_share"], strict=True)
    )


def changes(candidate: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return (class id, change of its share of the loss compared with `base`), the largest changes first."""
    differences = [
        (class_id, share - base_share)
        for class_id, (share, base_share) in enumerate(
            zip(candidate["loss_share"], base["loss_share"], strict=True)
        )
    ]
    return sorted(differences, key=lambda difference: -abs(difference[1]))


def named(comparison: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the candidate with a name, None where it is left out."""
    candidates: list[dict[str, Any]] = comparison["candidates"]
    return next((candidate for candidate in candidates if name in candidate["names"]), None)
