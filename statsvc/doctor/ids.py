"""Findings about ids that are neither classes nor ignored, or ignored twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes import palettes
from statsvc.common.plurals import plural, plural_with_verb
from statsvc.doctor.class_map import made_for_other_ids
from statsvc.doctor.finding import NOTICE, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]


def two_voids(facts: Facts) -> Finding | None:
    """Return a finding about −1 and 255 in one dataset: both are ignored here, but a loss ignores one id."""
    ids = np.array([-1, 255])
    columns = np.flatnonzero(np.isin(facts.raw_ids, ids) & (facts.pixels > 0))
    is_class = (facts.interpretation.class_of(ids) >= 0).any()
    if len(columns) < 2 or is_class or facts.table.configuration.class_map is not None:
        return None
    minus_one, white = facts.pixels[columns].tolist()
    return Finding(
        "two_voids",
        NOTICE,
        f"Both −1 ({plural(minus_one, 'pixel')}) and 255 ({plural(white, 'pixel')}) mark ignored pixels. The "
        "weights are correct, but a loss ignores only one id.",
        "Set label[label < 0] = 255 before training.",
        facts.paths_with(ids),
        int(facts.images[columns].max()),
        (-1, 255),
    )


def not_of_class_map(facts: Facts, explained: set[int]) -> Finding | None:
    """Return a finding about a class map that was made for other ids.

    explained  raw ids that other findings explain; they are skipped
    """
    if (class_map := facts.interpretation.counts.class_map) is None:
        return None
    others = ~np.isin(facts.raw_ids, list(explained))
    return made_for_other_ids(
        class_map,
        facts.raw_ids[others],
        facts.pixels[others],
        facts.counted,
        lambda ids: (facts.paths_with(ids), int(facts.images[np.isin(facts.raw_ids, ids)].max())),
    )


def unexpected(facts: Facts, explained: set[int]) -> Finding | None:
    """Return a finding about ids that are neither classes nor ignored.

    explained  raw ids that other findings explain; they are skipped
    """
    affected = _unexpected_ids(facts) & ~np.isin(facts.raw_ids, list(explained))
    if not affected.any():
        return None
    ids, pixels = facts.raw_ids[affected], facts.pixels[affected]
    most_pixels = np.argsort(-pixels, kind="stable")
    before = facts.class_pixels()
    after = np.concatenate([before, pixels])
    weights = facts.interpretation.weights(after)
    has_palette = facts.table.configuration.counting.palette is not None
    class_map = facts.interpretation.counts.class_map
    described = []
    for k in most_pixels.tolist():
        text = f"{_id_or_color(int(ids[k]), has_palette)}: {plural(int(pixels[k]), 'pixel')}"
        if weights is not None:
            text += f", as a class of weight {weights[len(before) + k]:.3g}"
        described.append(text)
    return Finding(
        "unexpected_ids",
        SERIOUS,
        f"{plural_with_verb(len(ids), 'id', 'is', 'are')} neither a class nor ignored, so the pixels are "
        f"not counted: {list_first(described, 4)}",
        _advice(has_palette, outside_map=class_map is not None and not class_map.apply(ids)[1].all()),
        facts.paths_with(ids[most_pixels]),
        int(facts.images[affected].max()),
        tuple(ids.tolist()),
        facts.interpretation.largest_change(
            np.concatenate([before, np.zeros_like(pixels)]), after, len(before)
        ),
    )


def _unexpected_ids(facts: Facts) -> Bool:
    """Return the ids with pixels, bool [K], that are neither classes nor ignored."""
    ids, known = facts.raw_ids, np.ones(len(facts.raw_ids), bool)
    if (class_map := facts.interpretation.counts.class_map) is not None:
        ids, known = class_map.apply(facts.raw_ids)
    ignored = known & np.isin(ids, np.array(facts.interpretation.counts.ignore, np.int64))
    is_class = facts.interpretation.class_of(facts.raw_ids) >= 0
    return np.asarray((facts.pixels > 0) & ~is_class & ~ignored, np.bool_)


def _advice(has_palette: bool, outside_map: bool) -> str:
    if has_palette:
        return "Add the colors to the palette, and scan the label maps as a new dataset."
    if outside_map:  # --ignore-index and --num-classes refer to the ids that the map returns
        return "Add them to the class map, as classes or as ignored."
    return (
        "Ignore them with --ignore-index, make them classes with --num-classes, or map them to classes in "
        "the class map."
    )


def _id_or_color(raw_id: int, has_palette: bool) -> str:
    """Return `id 7`, or `color #010203` for the raw id of a color that the palette does not contain."""
    color = palettes.unknown_color(raw_id) if has_palette else None
    return f"id {raw_id}" if color is None else f"color {color}"
