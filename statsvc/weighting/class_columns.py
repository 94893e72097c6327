"""From the columns of a histogram, one for each id, to arrays over the classes 0 … C−1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.weighting.compute import ClassCounts
from statsvc.weighting.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.dataset.histogram import Histogram
    from statsvc.weighting.parameters import WeightSpec


class ClassColumns(Struct, frozen=True):
    """The columns of a histogram that hold classes, ignored ones included.

    columns   bool [K], True where the column's id is a class id from 0 to C−1
    class_id  int64 [k], the class ids of these columns
    classes   C
    """

    columns: NDArray[np.bool_]
    class_id: NDArray[np.int64]
    classes: int

    @classmethod
    def of(cls, interpreted: InterpretedCounts) -> ClassColumns:
        """Return the class columns of interpreted counts."""
        histogram, classes = interpreted.histogram, interpreted.num_classes
        columns = histogram.mapped & (histogram.class_id >= 0) & (histogram.class_id < classes)
        return cls(columns, histogram.class_id[columns], classes)

    def by_class(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values over the K ids as values over classes, [C]; 0 for a class without a column."""
        result = np.zeros(self.classes, values.dtype)
        result[self.class_id] = values[self.columns]
        return result


def ignored_classes(ignored_ids: Iterable[int], classes: int) -> NDArray[np.bool_]:
    """Return which classes are ignored, bool [C]."""
    ignored = np.zeros(classes, bool)
    ignored[[class_id for class_id in ignored_ids if 0 <= class_id < classes]] = True
    return ignored


def object_counts(histogram: Histogram) -> NDArray[np.int64] | None:
    """Return the objects of each id, int64 [K]; None if they are unknown.

    An id that is not divided into objects, such as road or sky, counts once per image that contains it, as
    one segment of COCO panoptic does.
    """
    if histogram.objects is None or histogram.images is None:
        return None
    count = histogram.objects.count
    return np.where(count > 0, count, histogram.images)


def class_counts(interpreted: InterpretedCounts, spec: WeightSpec) -> ClassCounts:
    """Return the counts of classes 0 … C−1 that a resolved spec needs."""
    histogram, columns = interpreted.histogram, ClassColumns.of(interpreted)
    image_pixels = None
    if histogram.cooccurrence is not None and METHODS[spec.method].needs_images:
        cooccurrence = histogram.cooccurrence
        if spec.denominator == "counted":
            cooccurrence = cooccurrence[:, interpreted.counted]
        image_pixels = columns.by_class(cooccurrence.sum(axis=1, dtype=np.float64))
    counted = spec.denominator == "counted"
    objects = object_counts(histogram)
    return ClassCounts(
        pixels=columns.by_class(histogram.pixels),
        ignored=ignored_classes(interpreted.ignore, interpreted.num_classes),
        total=interpreted.pixels(interpreted.counted) if counted else interpreted.all_pixels(),
        images=None if histogram.images is None else columns.by_class(histogram.images),
        image_pixels=image_pixels,
        objects=None if objects is None else columns.by_class(objects),
        samples=histogram.samples,
        names=interpreted.names,
    )
