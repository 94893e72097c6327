"""The body of a histogram response: pixels and images of every id of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import class_counts
from statsvc.dataset.objects import STRIDES
from statsvc.weighting.response import SCHEMA, class_map_name

if TYPE_CHECKING:
    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.objects import ObjectTotals
    from statsvc.dataset.table import Table


def histogram_response(
    table: Table,
    *,
    split: str | None = None,
    class_map: str | None = None,
    ignore_index: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Return the counts of every id of a table, after the class map (`class_map="none"`: raw ids).

    `share` refers to all pixels. An id has `ignored` or `unexpected` only where true, and `objects` only
    where the source numbers them, see `object_row`.

    Raises `NotFound` for an unknown split or class map, `Unanswerable` where the request needs counts of each
    sample and the table does not have them.
    """
    interpreted = class_counts.interpret(
        table, split=split, class_map=class_map, ignore_index=ignore_index, num_classes=num_classes
    )
    return {
        "dataset": table.dataset,
        "version": table.version,
        "exact": table.exact,
        "split": split,
        "class_map": class_map_name(interpreted),
        "ignore_index": list(interpreted.ignore),
        "num_classes": interpreted.num_classes,
        "images": interpreted.histogram.samples,
        "failed": table.failures(split)[0],
        "pixels": interpreted.all_pixels(),
        "classes": _id_rows(interpreted),
        "unexpected": class_counts.unexpected_ids(table, interpreted, split),
        "schema": SCHEMA,
    }


def object_row(objects: ObjectTotals, column: int) -> dict[str, Any]:
    """Return the number and sizes of the objects of one id, as JSON.

    count               number of objects
    smallest, median    size in pixels; null without objects
    below_16, below_32  share of objects of fewer than 16² and 32² pixels, which can be smaller than one cell
                        of an output with this stride; null without objects
    sizes               number of objects of 2^k to 2^(k+1) − 1 pixels, k = 0, 1, … up to the largest
    """
    sizes = objects.sizes[column]
    count = int(sizes.sum())
    below = {f"below_{stride}": int(objects.below(stride)[column]) for stride in STRIDES}
    return {
        "count": count,
        "smallest": int(objects.smallest[column]) if count else None,
        "median": float(objects.median[column]) if count else None,
        **{name: number / count if count else None for name, number in below.items()},
        "sizes": np.trim_zeros(sizes, "b").tolist(),
    }


def _id_rows(interpreted: InterpretedCounts) -> list[dict[str, Any]]:
    histogram, names = interpreted.histogram, interpreted.names
    total = interpreted.all_pixels()
    images = [None] * len(histogram.class_id) if histogram.images is None else histogram.images.tolist()
    rows: list[dict[str, Any]] = []
    for k, (class_id, pixels) in enumerate(
        zip(histogram.class_id.tolist(), histogram.pixels.tolist(), strict=True)
    ):
        has_name = histogram.mapped[k] and 0 <= class_id < len(names)
        row = {
            "id": class_id,
            "name": names[class_id] if has_name else str(class_id),
            "pixels": pixels,
            "images": images[k],
            "share": pixels / total if total else 0.0,
        }
        if histogram.objects is not None:
            row["objects"] = object_row(histogram.objects, k)
        if interpreted.ignored[k]:
            row["ignored"] = True
        elif interpreted.unexpected[k]:
            row["unexpected"] = True
        rows.append(row)
    return rows
