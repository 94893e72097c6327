"""What differs between two answers to weights requests: every class, and one distance for all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = {"pixels": "pixels", "images": "images", "share": "frequency", "weight": "weight"}
"""Compared values by name, and their names in an answer."""

DISTANCE = "distance"
"""Name of the distance between the two distributions of pixels."""


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a weights response differs from an earlier or other one, as JSON.

    from, to    dataset, version and split of each
    distance    Jensen–Shannon distance of the shares of pixels, from 0 (equal) to 1 (no common class)
    classes     for each class id: `id`, `name`, and for each of `FIELDS` the values `from` and `to` and the
                relative `change`; null where a value is unknown, and `change` is also null if `from` is 0
    warnings    where the two are hard to compare
    """
    rows = [{row["id"]: row for row in answer["classes"]} for answer in (first, second)]
    ids = sorted(set(rows[0]) | set(rows[1]))
    classes = [_class_difference(class_id, rows[0].get(class_id), rows[1].get(class_id)) for class_id in ids]
    shares = [
        np.array([(by_id.get(class_id) or {}).get("frequency") or 0.0 for class_id in ids]) for by_id in rows
    ]
    renamed = [
        f"class {class_id} is {rows[0][class_id]['name']!r} in the first and "
        f"{rows[1][class_id]['name']!r} in the second"
        for class_id in ids
        if class_id in rows[0]
        and class_id in rows[1]
        and rows[0][class_id]["name"] != rows[1][class_id]["name"]
    ]
    return {
        "from": _basis(first),
        "to": _basis(second),
        DISTANCE: _jensen_shannon(*shares),
        "classes": classes,
        "warnings": renamed,
    }


def exceeding(result: Mapping[str, Any], field: str, limit: float) -> list[str]:
    """Return a line, which ends with the limit, for everything in a difference that changed by more than it.

    field  one of `FIELDS`, whose relative change is limited, or `DISTANCE`
    limit  at least 0; 0.05 is 5 %
    """
    if field == DISTANCE:
        distance = result[DISTANCE]
        return [f"distance {distance:.4f} is above the limit of {limit:g}"] if distance > limit else []
    lines = []
    for row in result["classes"]:
        before, after, change = (row[field][key] for key in ("from", "to", "change"))
        if before == after:
            continue
        # A value that appears or disappears has no relative change, and is always too much.
        if change is None or abs(change) > limit:
            changed = f"{_text(before)} to {_text(after)}"
            above = "above any limit, such as" if change is None else f"{change:+.1%}, above the limit of"
            lines.append(f"{field} of class {row['id']} ({row['name']}): {changed}, {above} {100 * limit:g}%")
    return lines


def _basis(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dataset": answer["dataset"],
        "version": answer["version"],
        "split": answer["spec"].get("split"),
    }


def _class_difference(
    class_id: int, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": class_id, "name": (after or before or {})["name"]}
    for name, key in FIELDS.items():
        old, new = ((answer or {}).get(key) for answer in (before, after))
        known = old is not None and new is not None
        change = (new - old) / old if known and old else (0.0 if known and new == old else None)
        row[name] = {"from": old, "to": new, "change": change}
    return row


def _jensen_shannon(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Return the Jensen–Shannon distance, to base 2, of two distributions, float64 [K] each."""
    middle = (first + second) / 2

    def divergence(part: np.ndarray[Any, Any]) -> float:
        some = part > 0
        return float(np.sum(part[some] * np.log2(part[some] / middle[some])))

    return math.sqrt(max(0.0, (divergence(first) + divergence(second)) / 2))


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
