"""From a request to a division of a dataset, and the report on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.splitting.request import described, interpret
from statsvc.splitting.result import SplitResult
from statsvc.splitting.stratify import divide
from statsvc.weighting.class_names import class_name
from statsvc.weighting.response import SCHEMA

if TYPE_CHECKING:
    from statsvc.dataset.table import Table
    from statsvc.splitting.request import DivisionRequest
    from statsvc.splitting.stratify import Division

NOTABLE = 0.05
"""Unavoidable deviation of a class from which on the report says why."""


def divide_dataset(table: Table, request: DivisionRequest) -> SplitResult:
    """Divide a dataset as requested.

    Raises as `statsvc.splitting.stratify.divide` and `statsvc.dataset.class_counts.interpret` do.
    """
    spec = request.spec
    interpreted = interpret(table, spec)
    groups = None if request.grouping is None else request.grouping.of
    division = divide(table, interpreted, spec.split, list(request.shares.values()), request.seed, groups)
    paths: dict[str, list[str]] = {name: [] for name in request.shares}
    lists = list(paths.values())
    for path, part in zip(division.units.paths, division.part.tolist(), strict=True):
        lists[part].append(path)
    names = [class_name(interpreted.names, class_id) for class_id in division.units.class_id.tolist()]
    report = {
        **described(table, spec, interpreted, request.seed),
        "images": len(division.units.paths),
        "failed": table.failures(spec.split)[0],
        "groups": _groups(division, request),
        **_report(division, list(request.shares), names),
        "schema": SCHEMA,
    }
    return SplitResult(paths, report, request.folds)


def _groups(division: Division, request: DivisionRequest) -> dict[str, Any] | None:
    if request.grouping is None:
        return None
    units, named = division.units, len(division.units.names)
    largest = int(units.size.argmax())
    return {
        "rule": request.grouping.describe(),
        "count": named,
        "ungrouped": int(units.size[named:].sum()),
        "largest": {
            "group": units.names[largest] if largest < named else None,
            "images": int(units.size[largest]),
        },
    }


def _report(division: Division, names: list[str], class_names: list[str]) -> dict[str, Any]:
    deviations, image_deviations = division.deviations(), division.image_deviations()
    worst_part, worst_class = np.unravel_index(int(np.abs(deviations).argmax()), deviations.shape)
    per_class = np.abs(deviations).max(axis=0)
    units = division.units
    random = division.random.mean(axis=0)
    classes = [
        {
            "id": class_id,
            "name": class_names[c],
            "pixels": int(units.pixels[c]),
            "images": int(units.images[c]),
            "groups": int(division.containing[c]) if units.names else None,
            "deviation": float(per_class[c]),
            "image_deviation": float(np.abs(image_deviations[:, c]).max()),
            "random_deviation": float(random[c]),
            "bound": float(division.least[c]),
            "shares": (division.pixels[:, c] / units.pixels[c]).tolist(),
        }
        for c, class_id in enumerate(units.class_id.tolist())
    ]
    bound = float(division.least.max()) if division.optimum is None else division.optimum
    bound = min(bound, float(per_class.max()))  # features of a search are rounded to float32
    return {
        "parts": [
            {
                "name": name,
                "share": float(division.share[j]),
                "images": int(division.size[j]),
                "pixels": int(division.pixels[j].sum()),
                "deviation": float(np.abs(deviations[j]).max()),
            }
            for j, name in enumerate(names)
        ],
        "worst": {
            "class": int(units.class_id[worst_class]),
            "name": class_names[int(worst_class)],
            "part": names[int(worst_part)],
            "deviation": float(deviations[worst_part, worst_class]),
        },
        "mean_deviation": float(per_class.mean()),
        "random": {
            "divisions": len(division.random),
            "deviation": float(division.random.max(axis=1).mean()),
            "mean_deviation": float(random.mean()),
        },
        "bound": {"deviation": bound, "exact": division.optimum is not None},
        "classes": classes,
        "impossible": _impossible(division, class_names),
    }


def _impossible(division: Division, class_names: list[str]) -> list[dict[str, Any]]:
    """Return what no division can reach: classes in too few units, and classes that one unit dominates."""
    units, parts = division.units, len(division.share)
    kind = "groups" if units.names else "images"
    result: list[dict[str, Any]] = []
    for c, class_id in enumerate(units.class_id.tolist()):
        containing, least = int(division.containing[c]), float(division.least[c])
        if containing < parts:
            reason = (
                f"{class_names[c]} occurs in {containing} {kind if containing != 1 else kind[:-1]}, fewer "
                f"than the {parts} parts, so at least {parts - containing} of them will not contain it"
            )
            code = "too_few"
        elif least >= NOTABLE:
            reason = (
                f"few {kind} contain most of {class_names[c]}, so in every division some part differs by at "
                f"least {100 * least:.0f} % from its share"
            )
            code = "too_large"
        else:
            continue
        result.append({"code": code, "class": class_id, "name": class_names[c], "message": reason})
    return result
