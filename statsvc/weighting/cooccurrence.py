"""The body of a co-occurrence response: in how many images two classes occur together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import class_counts
from statsvc.errors import Unanswerable
from statsvc.weighting.response import SCHEMA, class_map_name

if TYPE_CHECKING:
    from statsvc.dataset.table import Table

MAX_CLASSES = 1024
"""Most classes that occur; the response grows with their square."""


def cooccurrence_response(
    table: Table,
    *,
    split: str | None = None,
    class_map: str | None = None,
    ignore_index: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Return, for each two classes that occur, the number of images that contain both, as JSON.

    classes       id and name of each class that occurs, ascending; ignored and unexpected ids are left out
    cooccurrence  row r, column c: images with pixels of the classes r and c of `classes`; on the diagonal,
                  images with that class

    Memory is that of one block of rows and of the matrix. Raises `NotFound` for an unknown split or class
    map, and `Unanswerable` if there are no rows, or more than `MAX_CLASSES` classes.
    """
    interpreted = class_counts.interpret(
        table, split=split, class_map=class_map, ignore_index=ignore_index, num_classes=num_classes
    )
    histogram = interpreted.histogram
    columns = np.flatnonzero(interpreted.counted & (histogram.pixels > 0))
    columns = columns[np.argsort(histogram.class_id[columns])]
    if len(columns) > MAX_CLASSES:
        raise Unanswerable(
            f"{len(columns)} classes occur, more than the limit of {MAX_CLASSES}; choose a class map that "
            "merges some of them"
        )
    matrix = np.zeros((len(columns), len(columns)), np.int64)
    images = 0
    for _, counts in table.sample_counts(split, interpreted.class_map):
        # Products of 0 and 1 are exact in float32 up to 2^24 rows, far more than one block has.
        present = (counts[:, columns] > 0).astype(np.float32)
        matrix += (present.T @ present).astype(np.int64)
        images += len(counts)
    ids = histogram.class_id[columns].tolist()
    names = interpreted.names
    return {
        "dataset": table.dataset,
        "version": table.version,
        "exact": table.exact,
        "split": split,
        "class_map": class_map_name(interpreted),
        "ignore_index": list(interpreted.ignore),
        "images": images,
        "classes": [{"id": i, "name": names[i] if i < len(names) else str(i)} for i in ids],
        "cooccurrence": matrix.tolist(),
        "schema": SCHEMA,
    }
