"""What a weights response from a sample of images says about its uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.plurals import part_with_verb, plural
from statsvc.weighting.class_columns import ClassColumns
from statsvc.weighting.class_names import listed
from statsvc.weighting.image_sums import MIN_IMAGES, ImageSums
from statsvc.weighting.sample_intervals import CONFIDENCE, images_bound, share_intervals, weight_intervals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.table import Table
    from statsvc.weighting.compute import ClassCounts
    from statsvc.weighting.parameters import WeightSpec

    Float64 = NDArray[np.float64]

REPLICATES = 200
"""Bootstrap replicates."""


class _Estimate(Struct, frozen=True):
    """What an answer says about a sample: images of each class and intervals, [C] and [C, 2]."""

    drawn: int
    images: NDArray[np.int64]
    estimated: NDArray[np.bool_]
    share: Float64
    weight: Float64 | None


def fraction_of(table: Table) -> float:
    """Return the share of its images that a table contains, 0 to 1, unreadable ones included."""
    if table.sampled_from is None:
        return 1.0
    return ((table.totals().samples or 0) + table.failed()) / table.sampled_from


def describe(
    body: dict[str, Any],
    table: Table,
    interpreted: InterpretedCounts,
    counts: ClassCounts,
    spec: WeightSpec,
) -> None:
    """Add to a weights response from a sample what it is an estimate of, and how uncertain it is.

    `estimate` has the images drawn, those they were drawn from, and the confidence. A class that is not
    ignored has `interval` of its share, and `weight_interval` where `weight_intervals` gives one, if it was
    seen in enough images, see `ImageSums.estimated`; otherwise `images_bound`, and a warning says so.
    """
    assert table.sampled_from is not None
    fraction = fraction_of(table)
    body["estimate"] = {
        "images": round(fraction * table.sampled_from),
        "of": table.sampled_from,
        "confidence": CONFIDENCE,
    }
    if not table.has_rows:
        return

    def make() -> _Estimate:
        columns = ClassColumns.of(interpreted)
        sums = ImageSums(columns.classes, REPLICATES)
        for _, rows in table.sample_counts(spec.split, interpreted.class_map):
            pixels = np.zeros((len(rows), columns.classes), np.int64)
            pixels[:, columns.class_id] = rows[:, columns.columns]
            selected = rows[:, interpreted.counted] if spec.denominator == "counted" else rows
            sums.add(pixels, selected.sum(axis=1))
        weight = weight_intervals(sums, counts, spec, fraction)
        return _Estimate(sums.drawn, sums.images, sums.estimated, share_intervals(sums, fraction), weight)

    estimate = table.cached(("estimate", spec), make)
    few = []
    for k, row in enumerate(body["classes"]):
        if row.get("ignored"):
            continue
        if estimate.estimated[k]:
            row["interval"] = estimate.share[k].tolist()
            if estimate.weight is not None:
                row["weight_interval"] = estimate.weight[k].tolist()
        else:
            row["images_bound"] = images_bound(int(estimate.images[k]), estimate.drawn)
            few.append(row["name"])
    if few:
        weights = "" if estimate.weight is not None else ", and neither are weights that depend on them"
        body["warnings"].append(
            {
                "code": "not_estimated",
                "message": f"{part_with_verb(len(few), len(body['classes']), 'class', 'occurs', 'occur')} in "
                f"too few of the {plural(estimate.drawn, 'sampled image')} ({MIN_IMAGES} are needed), so the "
                f"share of each is not estimated{weights}: {listed(few)}. Count more label maps",
            }
        )
