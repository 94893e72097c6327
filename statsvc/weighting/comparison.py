"""Weighting methods side by side: what each does to a dataset's loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.weighting.methods import DEFAULT, METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

REFERENCE = "uniform"
ALPHAS = ("0.25", "0.75")
"""Exponents of `power` that are compared: between uniform (0), the default (0.5) and inverse_freq (1)."""

_BETA = "0.9999"
_SAME = 1e-9


def compare(
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    reading: Mapping[str, Any],
    *,
    methods: Sequence[str] = (),
    betas: Sequence[str] = (),
    alphas: Sequence[str] = (),
) -> dict[str, Any]:
    """Return methods side by side, from the gentlest to the strongest, as JSON.

    ask      parameters of a weight spec → the answer (`statsvc.weighting.answers.answer`)
    reading  parameters that all questions share: split, ignore_index, sampler, …; unit is effective_num's
    methods  to compare; by default all that give class weights. uniform and the default always are
    betas    of effective_num; by default 0.9999 and powers of ten about 1/median of the pixels of a class
    alphas   of power; by default `ALPHAS`

    Each candidate has its weights and `loss_share` by class, `ratio` of the largest to the smallest weight of
    a present class, and `moved`: the part of the loss, from 0 to 1, that goes to other classes than under
    uniform weights and under the default. Candidates with the same weights are one, with all their
    `names`. `left_out` has those that cannot be answered, and why.

    Raises `InvalidParameter` for a method that gives no class weights, and what `ask` raises for uniform.
    """
    for name in methods:
        if name not in METHODS or METHODS[name].kind != "weights":
            there = ", ".join(known for known, method in METHODS.items() if method.kind == "weights")
            raise InvalidParameter(("method", f"{name} gives no class weights; compare {there}"))
    reading = dict(reading)
    unit = reading.pop("unit", None)  # effective_num's own
    plain = ask({**reading, "method": REFERENCE})
    left_out: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    for parameters in _questions(plain, unit, methods, betas, alphas):
        name = " ".join([parameters["method"], *(f"{k}={v}" for k, v in parameters.items() if k != "method")])
        try:
            answer = plain if parameters["method"] == REFERENCE else ask({**reading, **parameters})
        except (Unanswerable, InvalidParameter) as problem:
            if _is_about_a_value(problem, parameters):
                raise
            _leave_out(left_out, name, problem)
            continue
        _add(candidates, name, parameters, answer)
    by_method = {method: one for one in candidates for method in one["methods"]}
    # Without the default, changes are counted from uniform.
    default = by_method.get(DEFAULT, by_method[REFERENCE])
    for one in candidates:
        one["moved"] = {
            "uniform": _moved(one, by_method[REFERENCE]),
            "default": _moved(one, default),
        }
    candidates.sort(key=lambda one: (one["ratio"] or math.inf, one["names"]))
    return {
        "dataset": plain["dataset"],
        "version": plain["version"],
        "split": plain["split"],
        **({"stream": plain["stream"]} if "stream" in plain else {}),
        "images": plain["images"],
        "pixels": plain["pixels"],
        "default": DEFAULT,
        "classes": [
            {
                key: row[key]
                for key in ("id", "name", "pixels", "frequency", "ignored", "absent")
                if key in row
            }
            for row in plain["classes"]
        ],
        "candidates": candidates,
        "left_out": left_out,
        "warnings": plain["warnings"],
    }


def _leave_out(left_out: list[dict[str, Any]], name: str, problem: Exception) -> None:
    reason = problem.errors[0][1] if isinstance(problem, InvalidParameter) else str(problem)
    for other in left_out:
        if other["reason"] == reason:
            other["names"].append(name)
            return
    left_out.append({"names": [name], "reason": reason})


def _is_about_a_value(problem: Exception, parameters: Mapping[str, Any]) -> bool:
    """Whether a β or an α is malformed: a mistake of the caller, not what this dataset cannot answer."""
    return isinstance(problem, InvalidParameter) and any(
        name in parameters and name != "method" for name, _ in problem.errors
    )


def _questions(
    plain: Mapping[str, Any],
    unit: str | None,
    methods: Sequence[str],
    betas: Sequence[str],
    alphas: Sequence[str],
) -> Iterator[dict[str, Any]]:
    chosen = [*methods] or [name for name, method in METHODS.items() if method.kind == "weights"]
    for name in dict.fromkeys((REFERENCE, DEFAULT, *chosen)):
        if name == "effective_num":
            for beta in dict.fromkeys(betas or _betas(plain, unit)):
                yield {"method": name, "beta": beta, **({} if unit is None else {"unit": unit})}
        elif name == "power":
            for alpha in dict.fromkeys(alphas or ALPHAS):
                yield {"method": name, "alpha": alpha}
        else:
            yield {"method": name}


def _betas(plain: Mapping[str, Any], unit: str | None) -> list[str]:
    """Return 0.9999 and three betas about 1 − 1/median, where effective_num turns from uniform to inverse."""
    amounts = [
        row["images" if unit == "images" else "pixels"]
        for row in plain["classes"]
        if not row.get("ignored") and not row.get("absent")
    ]
    if None in amounts:
        return [_BETA]
    power = max(1, round(math.log10(max(1.0, float(np.median(amounts))))))
    found = [f"1-1e-{k}" for k in (power - 1, power, power + 1) if k > 0 and k != 4]
    return [_BETA, *found]


def _add(
    candidates: list[dict[str, Any]], name: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]
) -> None:
    weights = np.array(answer["weights"])
    for other in candidates:
        if np.allclose(other["weights"], weights, rtol=_SAME, atol=0):
            other["names"].append(name)
            other["methods"].append(parameters["method"])
            return
    present = np.array([not row.get("ignored") and not row.get("absent") for row in answer["classes"]], bool)
    smallest = float(weights[present].min())
    candidates.append(
        {
            "names": [name],
            "methods": [parameters["method"]],
            # A weight is 0 only where it was clipped or is 0 in float64.
            "ratio": float(weights[present].max()) / smallest if smallest > 0 else None,
            "weights": answer["weights"],
            "loss_share": [row["loss_share"] for row in answer["classes"]],
            "expected_weight": answer["expected_weight"],
        }
    )


def _moved(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the part of the loss that goes to other classes: half the sum of all differences."""
    return 0.5 * math.fsum(
        abs(mine - its) for mine, its in zip(one["loss_share"], other["loss_share"], strict=True)
    )


def changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return (class id, change of its share of the loss) from `other` to `one`, the largest changes first."""
    found = [
        (class_id, mine - its)
        for class_id, (mine, its) in enumerate(zip(one["loss_share"], other["loss_share"], strict=True))
    ]
    return sorted(found, key=lambda item: -abs(item[1]))


def of_method(comparison: Mapping[str, Any], method: str) -> dict[str, Any] | None:
    """Return the candidate of a method that has one only, None where it is left out."""
    found: list[dict[str, Any]] = [one for one in comparison["candidates"] if method in one["methods"]]
    return found[0] if found else None
