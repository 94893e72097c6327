"""Warnings about how a sampler draws from one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.common.plurals import part_with_verb, plural
from statsvc.weighting.class_names import class_name, listed
from statsvc.weighting.schemes import MIN_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.dataset.class_counts import InterpretedCounts
    from statsvc.sampling.draws import Draws
    from statsvc.weighting.weight_warnings import WarningText


def about_draws(interpreted: InterpretedCounts, draws: Draws, never: int) -> Iterator[WarningText]:
    """Yield the warnings about a sampler's draws.

    never  number of images that are never drawn; 0 where unknown
    """
    min_pixels = int(draws.parameters.get("min_pixels", 0))
    if draws.lowered is not None:
        yield (
            "min_pixels_lowered",
            f"the images have {plural(round(draws.lowered), 'pixel')} on average, so an image counts for a "
            f"class from {plural(min_pixels, 'pixel')} on instead of {MIN_PIXELS}; set "
            "min_pixels to change this",
        )
    if draws.sampler == "rare_class":
        class_id = interpreted.histogram.class_id[draws.columns]
        has_pixels = interpreted.histogram.pixels[draws.columns] > 0
        never_chosen = class_id[has_pixels & (draws.per_class["images"] == 0)].tolist()
        if never_chosen:
            names = listed(class_name(interpreted.names, c) for c in never_chosen)
            yield (
                "classes_never_chosen",
                f"no image has {plural(min_pixels, 'pixel')} of {names}, so rare_class "
                "never chooses an image for these classes; use a smaller min_pixels",
            )
    if never:
        yield (
            "images_never_drawn",
            f"{part_with_verb(never, draws.images, 'image', 'is', 'are')} never drawn, because none of the "
            "classes in it has enough pixels or weight",
        )
