"""Findings that need to know where in the images the classes are: from counts on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural_with_verb
from statsvc.doctor.finding import NOTICE, Finding, list_first
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Grid
    from statsvc.doctor.facts import Facts

    Int64 = NDArray[np.int64]

MIN_IMAGES = 20
"""Fewest images from which a position is not a coincidence."""

MIN_SIDE = 4
"""Fewest rows and columns of a grid whose outer tiles are an edge, and not half of the image."""

INSIDE_SHARE = 0.001
"""Share of a class's pixels inside the outer tiles up to which it occurs only along the edges."""

EDGE_SHARE = 0.1
"""Share of a class's pixels that each of two opposite edges must have."""

CONSTANT_SHARE = 0.99
"""Share of an edge's pixels from which one id covers the edge."""


def check(facts: Facts) -> Iterator[Finding]:
    """Yield the findings about positions; none for a version without a grid."""
    grid = facts.table.grid
    if grid is None or min(grid.rows, grid.columns) < MIN_SIDE or facts.counted < MIN_IMAGES:
        return
    try:
        pixels = facts.table.tile_totals()
    except Unanswerable:
        return  # volumes, which have no edges
    yield from _only_along_edges(facts, grid, pixels)
    yield from _constant_edges(facts, grid, pixels)


def _edges(grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return edge → bool [tiles], its tiles."""
    row, column = np.divmod(np.arange(grid.tiles), grid.columns)
    return {
        "top": row == 0,
        "bottom": row == grid.rows - 1,
        "left": column == 0,
        "right": column == grid.columns - 1,
    }


def _only_along_edges(facts: Facts, grid: Grid, pixels: Int64) -> Iterator[Finding]:
    """Yield the finding about classes that lie along opposite edges of the images, and nowhere else."""
    edges = _edges(grid)
    total = np.maximum(pixels.sum(axis=0), 1)
    inside = pixels[~np.logical_or.reduce(list(edges.values()))].sum(axis=0) / total
    share = {name: pixels[of_edge].sum(axis=0) / total for name, of_edge in edges.items()}
    opposite = [
        np.minimum(share[a], share[b]) >= EDGE_SHARE for a, b in (("top", "bottom"), ("left", "right"))
    ]
    found = (facts.images >= MIN_IMAGES) & (inside <= INSIDE_SHARE) & (opposite[0] | opposite[1])
    found &= facts.interpretation.class_of(facts.raw_ids) >= 0
    columns = np.flatnonzero(found)
    if not len(columns):
        return
    ids = facts.raw_ids[columns].tolist()
    names = list_first(
        facts.interpretation.name(c) for c in facts.interpretation.class_of(facts.raw_ids[columns])
    )
    yield Finding(
        "only_along_edges",
        NOTICE,
        f"{plural_with_verb(len(ids), 'class', 'occurs', 'occur')} only along opposite edges of the images, "
        f"in the outer tiles of the {grid} grid ({names}), in up to {int(facts.images[columns].max()):,} "
        "images. The fill of a rotation and a letterbox look like this.",
        "If these pixels are not a class, ignore the id with --ignore-index.",
        ids=tuple(ids),
    )


def _constant_edges(facts: Facts, grid: Grid, pixels: Int64) -> Iterator[Finding]:
    """Yield the finding about edges of the images that nearly always have the same id."""
    found: list[str] = []
    ids = set()
    for name, of_edge in _edges(grid).items():
        counts = pixels[of_edge].sum(axis=0)
        most = int(counts.argmax())
        if (
            counts[most] >= CONSTANT_SHARE * counts.sum()
            and facts.pixels[most] < CONSTANT_SHARE * facts.pixels.sum()
        ):
            found.append(f"{name}: id {facts.raw_ids[most]}, {counts[most] / counts.sum():.1%}")
            ids.add(int(facts.raw_ids[most]))
    if found:
        yield Finding(
            "constant_edges",
            NOTICE,
            f"One id covers an edge of nearly all images, in the outer tiles of the {grid} grid "
            f"({'; '.join(found)}). A vehicle that carries the camera, a time stamp or a letterbox looks "
            "like this, and there is nothing to learn from it.",
            "Crop the images, or ignore these pixels. If the edge belongs to the scene, no change is needed.",
            ids=tuple(sorted(ids)),
        )
