"""Findings about the sizes of objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural
from statsvc.dataset.objects import STRIDES
from statsvc.doctor.finding import MAX_FILES, NOTICE, Finding, list_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table
    from statsvc.doctor.interpretation import Interpretation

MIN_OBJECTS = 20
"""Number of objects of a class below which their sizes say little."""

MIN_SHARE = 0.5
"""Share of small objects of a class from which it is reported."""


def small_objects(table: Table, interpretation: Interpretation) -> Iterator[Finding]:
    """Yield a finding if most objects of some classes are smaller than one cell of a common output stride."""
    histogram = interpretation.counts.histogram
    objects = histogram.objects
    if objects is None:
        return
    fine, coarse = STRIDES
    below = {stride: objects.below(stride) / np.maximum(objects.count, 1) for stride in STRIDES}
    enough = interpretation.counts.counted & (objects.count >= MIN_OBJECTS)
    affected = np.flatnonzero(enough & (below[coarse] >= MIN_SHARE))
    if not len(affected):
        return
    affected = affected[np.argsort(-below[coarse][affected], kind="stable")]
    ids = histogram.class_id[affected]
    described = list_first(
        f"{interpretation.name(int(histogram.class_id[k]))} {below[coarse][k]:.0%} ({below[fine][k]:.0%}; "
        f"median {objects.median[k]:g}, smallest {plural(int(objects.smallest[k]), 'pixel')})"
        for k in affected.tolist()
    )
    files, count = _files(table, interpretation, ids, coarse)
    yield Finding(
        "small_objects",
        NOTICE,
        f"{plural(len(affected), 'class')} of {int(enough.sum())} with {MIN_OBJECTS} objects or more have "
        f"mostly objects of fewer than {coarse}x{coarse} pixels (in brackets: {fine}x{fine}): {described}. A "
        f"network with an output stride of {coarse} or {fine} has one cell or less for such an object.",
        "Train and predict at a higher resolution, or use a network with a smaller output stride than "
        f"{fine}.",
        files,
        count,
        tuple(ids.tolist()),
    )


def _files(
    table: Table, interpretation: Interpretation, class_ids: NDArray[np.int64], stride: int
) -> tuple[tuple[str, ...], int]:
    """Return the first files with objects of these classes below stride² pixels, and their number."""
    files: list[str] = []
    count = 0
    for block, objects in table.object_blocks():
        if objects is None:
            continue
        small = objects.pixels < stride**2
        small &= np.isin(interpretation.class_of(objects.class_id), class_ids)
        rows = np.unique(objects.row[small])
        count += len(rows)
        files += [str(block.path[row]) for row in rows[: MAX_FILES - len(files)].tolist()]
    return tuple(files), count
