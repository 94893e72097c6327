"""Heat maps: the share of each class in each tile, over a whole dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import Inapplicable, Unanswerable
from statsvc.weighting.class_columns import ClassColumns
from statsvc.weighting.class_names import class_name
from statsvc.weighting.response import SCHEMA, class_map_name, interpret_for

if TYPE_CHECKING:
    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec


def heatmap_response(table: Table, spec: WeightSpec, class_id: int | None = None) -> dict[str, Any]:
    """Return the share of each class in the counted pixels of each tile, over all images, as JSON.

    spec      selects and interprets the counts: split, class map, ignored ids, number of classes
    class_id  the only class to return; None for all classes that occur and are not ignored

    `share` of a class is a list of rows of tiles; null for a tile without counted pixels.

    Raises `InvalidParameter` for an id that is not a counted class, `NotFound` for an unknown split, and
    `Unanswerable` where a sample was not counted on a grid.
    """
    spec = spec.resolved()
    grid = table.grid
    if grid is None:
        raise Unanswerable(table.why_no_grid())
    interpreted, _ = interpret_for(table, spec)
    ids = interpreted.histogram.class_id

    pixels = table.cached(
        ("heat map", spec.split, interpreted.class_map),
        lambda: table.tile_totals(spec.split, interpreted.class_map),
    )
    counted = pixels[:, interpreted.counted].sum(axis=1)
    columns = ClassColumns.of(interpreted)
    classes = []
    for column in np.flatnonzero(columns.columns & interpreted.counted & (pixels.sum(axis=0) > 0)).tolist():
        if class_id not in (None, int(ids[column])):
            continue
        shares = [
            int(count) / int(of) if of else None
            for count, of in zip(pixels[:, column].tolist(), counted.tolist(), strict=True)
        ]
        rows = [shares[start : start + grid.columns] for start in range(0, grid.tiles, grid.columns)]
        name = class_name(interpreted.names, int(ids[column]))
        classes.append({"id": int(ids[column]), "name": name, "share": rows})
    if class_id is not None and not classes:
        raise Inapplicable(
            ("class_id", f"{class_id} is not a class that occurs and is counted; use the id of one")
        )
    return {
        "dataset": table.dataset,
        "version": table.version,
        "split": spec.split,
        "class_map": class_map_name(interpreted),
        "grid": str(grid),
        "images": interpreted.histogram.samples,
        "classes": classes,
        "schema": SCHEMA,
    }
