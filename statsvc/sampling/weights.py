"""The weights response of any spec: of the files, of a sampler's stream, of crops, or of a mixture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc.dataset.table import Table
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.weighting.response import files_response
from statsvc.weighting.weight_warnings import as_dicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from statsvc.weighting.parameters import WeightSpec
    from statsvc.weighting.weight_warnings import WarningText

COMMON_CROPS = (512, 256)
"""Sides of crops for which weights of the files are checked: the first that is smaller than the images."""

MAX_CHECKED, MAX_PRESENCE_CHECKED = 20_000, 5_000
"""Images up to which the weights of crops are checked, and those of methods that depend on presence."""

CROP_CHANGE = 0.1
"""Relative change of a weight from which on crops matter."""


def weights_response(source: Table | Sequence[tuple[Table, float]], spec: WeightSpec) -> dict[str, Any]:
    """Return the weights response of a table, or of a mixture: tables with shares that add up to 1.

    A spec with a sampler or a crop, and every mixture, are answered for the stream of drawn images or crops,
    other specs for the files. See `statsvc.weighting.response.weights_body` for the content.

    Raises `InvalidParameter` for a contradictory spec, `NotFound` for an unknown split, `Unanswerable`
    where these counts cannot answer the request.
    """
    spec = spec.resolved()
    if not isinstance(source, Table) or spec.sampler is not None or spec.crop is not None:
        from statsvc.sampling.stream_weights import stream_response  # most commands need only files

        return stream_response([(source, 1.0)] if isinstance(source, Table) else source, spec)
    response = files_response(source, spec)
    response["warnings"] += as_dicts(about_crops(source, spec, response))
    return response


def about_crops(table: Table, spec: WeightSpec, response: dict[str, Any]) -> Iterator[WarningText]:
    """Yield a warning where random crops of a common size would change a weight of the files considerably.

    Nothing is known, and nothing is yielded, about files that were counted without a grid.
    """
    if table.grid is None or spec.kind != "weights":
        return
    from statsvc.sampling.draws import needs_presence
    from statsvc.sampling.stream_weights import stream_response

    if (response["images"] or 0) > (MAX_PRESENCE_CHECKED if needs_presence(spec) else MAX_CHECKED):
        return  # it would take seconds
    side = math.sqrt(response["pixels"] / max(1, response["images"]))
    size = next((crop for crop in COMMON_CROPS if crop < side), None)
    if size is None:
        return
    try:
        cropped = stream_response([(table, 1.0)], replace(spec, crop=(size, size)))
    except (InvalidParameter, Unanswerable):
        return  # methods that cannot weight a stream, and samples without a grid
    ratios = {
        row["name"]: other / row["weight"]
        for row, other in zip(response["classes"], cropped["weights"], strict=True)
        if row["weight"] > 0 and other > 0
    }
    changed = {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > CROP_CHANGE}
    if not changed:
        return
    name = max(changed, key=lambda name: abs(math.log(changed[name])))
    yield (
        "crop_matters",
        f"random crops of {size}x{size} pixels would change {len(changed)} of {len(ratios)} weights by more "
        f"than {CROP_CHANGE:.0%}, that of {name} by {changed[name] - 1:+.0%}; if you train on crops, add "
        f"crop=HxW",
    )
