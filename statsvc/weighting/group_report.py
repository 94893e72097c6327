"""The body of a groups response: what each group of a dataset contains, and how much their weights differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import class_counts, groups
from statsvc.dataset.group_counts import count_groups
from statsvc.errors import Unanswerable
from statsvc.weighting.class_names import class_name
from statsvc.weighting.compute import ClassCounts, compute_weights
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.response import SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.table import Table

    Int64 = NDArray[np.int64]

SPEC = WeightSpec(absent="zero")
"""Weights whose spread over the groups is reported: the default method."""

INTERPRETATION = ("split", "class_map", "ignore_index", "num_classes")
"""The parameters of a `WeightSpec` that select and interpret the counts of groups."""


def groups_response(table: Table, by: str | None, spec: WeightSpec = SPEC) -> dict[str, Any]:
    """Return the groups of a rule, by name or as text; None for the rules that exist and suggested ones.

    spec  split, class map, ignored ids and number of classes

    Raises `NotFound` for an unknown rule or split, `InvalidParameter` for a malformed rule, and
    `Unanswerable` if there are no rows or too many groups.
    """
    if not table.has_rows:
        raise Unanswerable(table.why_no_rows())
    rules = {name: rule.describe() for name, rule in table.configuration.groups.items()}
    head = {
        "dataset": table.dataset,
        "version": table.version,
        "by": by,
        "split": spec.split,
        "rules": rules,
        "schema": SCHEMA,
    }
    if by is None:
        paths = [path for block in table.blocks() for path in map(str, block.path)]
        suggested = {name: rule.describe() for name, rule in groups.suggest(paths).items()}
        return head | {"suggested": suggested, "ungrouped": 0, "groups": [], "classes": []}
    grouping = table.configuration.grouping(by, files=False)
    interpreted = class_counts.interpret(table, **{name: getattr(spec, name) for name in INTERPRETATION})
    counts = count_groups(table, interpreted, spec.split, grouping)
    columns = np.flatnonzero(interpreted.counted & (interpreted.histogram.pixels > 0))
    class_id, pixels = interpreted.histogram.class_id[columns], counts.pixels[:, columns]
    weights = np.array([_weights(row) for row in pixels]).reshape(pixels.shape)
    total = np.maximum(pixels.sum(axis=1), 1)
    rows = [
        {
            "group": name,
            "images": int(counts.samples[g]),
            "pixels": int(pixels[g].sum()),
            "shares": {str(class_id[c]): float(pixels[g, c] / total[g]) for c in np.flatnonzero(pixels[g])},
        }
        for g, name in enumerate(counts.names)
    ]
    classes = []
    for c, column in enumerate(columns.tolist()):
        present = pixels[:, c] > 0
        largest = int(pixels[:, c].argmax()) if present.any() else None
        classes.append(
            {
                "id": int(class_id[c]),
                "name": class_name(interpreted.names, int(class_id[c])),
                "groups": int(present.sum()),
                "largest_group": None if largest is None else counts.names[largest],
                "largest_share": 0.0
                if largest is None
                else float(pixels[largest, c] / interpreted.histogram.pixels[column]),
                "weight_min": float(weights[present, c].min()) if present.any() else None,
                "weight_max": float(weights[present, c].max()) if present.any() else None,
            }
        )
    return head | {"suggested": {}, "ungrouped": counts.ungrouped, "groups": rows, "classes": classes}


def _weights(pixels: Int64) -> NDArray[np.float64]:
    """Return the weights of the classes of one group, float64 [C]; 0 for a class that it does not contain."""
    if not pixels.any():
        return np.zeros(len(pixels))
    ignored = np.zeros(len(pixels), bool)
    return compute_weights(ClassCounts(pixels, ignored, float(pixels.sum(dtype=np.float64))), SPEC).weights
