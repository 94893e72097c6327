"""The body of a histogram response for random crops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.sampling import draws
from statsvc.weighting.histogram import histogram_response
from statsvc.weighting.response import interpret_for

if TYPE_CHECKING:
    from statsvc.dataset.table import Table
    from statsvc.sampling.draws import Expected
    from statsvc.weighting.parameters import WeightSpec


def crop_histogram_response(table: Table, spec: WeightSpec) -> dict[str, Any]:
    """Return the histogram of one random crop of each image, as `histogram_response` does for the files.

    spec  with a crop

    Pixels are expected numbers. `images`, the crops in which an id occurs, is null.

    Raises as `histogram_response` does, and `Unanswerable` for samples without a grid.
    """
    spec = spec.resolved()
    response = histogram_response(
        table,
        split=spec.split,
        class_map=spec.class_map,
        ignore_index=spec.ignore_index,
        num_classes=spec.num_classes,
    )
    interpreted, _ = interpret_for(table, spec)

    def make() -> tuple[None, Expected]:
        return None, draws.expected(table, interpreted, spec, None)

    # The same key and value as for the weights of these crops.
    _, expected = table.cached(draws.cache_key(interpreted, spec, None), make)
    pixels = draws.rounded(expected.pixels * response["images"]).tolist()
    total = sum(pixels)
    for row, count in zip(response["classes"], pixels, strict=True):
        row |= {"pixels": count, "images": None, "share": count / total if total else 0.0}
        row.pop("objects", None)  # a crop cuts objects
    assert spec.crop is not None
    return response | {
        "exact": False,
        "crop": list(spec.crop),
        "approximation": {"grid": str(table.grid)},
        "pixels": total,
    }
