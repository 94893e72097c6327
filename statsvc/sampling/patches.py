"""Patches that contain a class: the tiles of a version's images in which it has most pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import Inapplicable, Unanswerable
from statsvc.weighting.class_names import class_name
from statsvc.weighting.response import SCHEMA, class_map_name, interpret_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table
    from statsvc.weighting.parameters import WeightSpec

    Int64 = NDArray[np.int64]

FIELDS = ("top", "left", "height", "width", "image_height", "image_width", "pixels")
"""The numbers of a patch, in the order of `Patches.values`."""


@dataclass(frozen=True, slots=True)
class Patches:
    """The tiles in which a class occurs, most pixels first; ties by path and position.

    head    dataset, version, class id, class name and interpretation, as in the response
    paths   path of each patch, [n]
    values  int64 [n, 7], the `FIELDS`: the tile's rectangle, the image's size, and the pixels of the class
    """

    head: dict[str, Any]
    paths: Sequence[str]
    values: Int64


def class_patches(table: Table, class_id: int, spec: WeightSpec, min_pixels: int = 1) -> Patches:
    """Return the tiles with at least `min_pixels` of a class.

    spec  selects the split and the class map

    Raises `InvalidParameter` for an id that is not a class, `NotFound` for an unknown split, and
    `Unanswerable` where no sample was counted on a grid.
    """
    spec = spec.resolved()
    grid = table.grid
    if grid is None:
        raise Unanswerable(table.why_no_grid())
    interpreted, _ = interpret_for(table, spec)
    if not 0 <= class_id < interpreted.num_classes:
        raise Inapplicable(
            ("class_id", f"{class_id} is not a class; use an id from 0 to {interpreted.num_classes - 1}")
        )
    raw_ids = table.raw_ids()
    ids, known = raw_ids, np.ones(len(raw_ids), bool)
    if interpreted.class_map is not None:
        ids, known = interpreted.class_map.apply(raw_ids)
    of_class = raw_ids[known & (ids == class_id)]
    members = None if spec.split is None else table.find_split(spec.split)
    paths: list[str] = []
    parts = [np.zeros((0, len(FIELDS)), np.int64)]
    for block, (heights, widths), cells in table.tiled_blocks():
        entries = np.flatnonzero(np.isin(cells.class_id, of_class))
        # Several raw ids can be the class: their pixels in a tile add up.
        key, position = np.unique(cells.row[entries] * grid.tiles + cells.tile[entries], return_inverse=True)
        pixels = np.zeros(len(key), np.int64)
        np.add.at(pixels, position, cells.pixels[entries])
        row, tile = key // grid.tiles, key % grid.tiles
        use = pixels >= min_pixels
        if members is not None:
            inside = np.fromiter((members.contains(str(path)) for path in block.path), bool, len(block.path))
            use &= inside[row]
        row, tile, pixels = row[use], tile[use], pixels[use]
        top, height = _spans(heights[row], tile // grid.columns, grid.rows)
        left, width = _spans(widths[row], tile % grid.columns, grid.columns)
        parts.append(np.stack([top, left, height, width, heights[row], widths[row], pixels], axis=1))
        paths += [str(block.path[k]) for k in row.tolist()]
    values = np.concatenate(parts)
    order = np.argsort(-values[:, -1], kind="stable")
    head = {
        "dataset": table.dataset,
        "version": table.version,
        "class_id": class_id,
        "name": class_name(interpreted.names, class_id),
        "split": spec.split,
        "class_map": class_map_name(interpreted),
        "grid": str(grid),
        "schema": SCHEMA,
    }
    return Patches(head, [paths[k] for k in order.tolist()], values[order])


def _spans(lengths: Int64, part: Int64, parts: int) -> tuple[Int64, Int64]:
    """Return where a part of each axis begins, and its length; as `statsvc.dataset.grid.edges`."""
    start = part * lengths // parts
    return start, (part + 1) * lengths // parts - start


def page(patches: Patches, start: int, limit: int) -> dict[str, Any]:
    """Return the patches from a rank on as JSON, with the rank at which the next page begins."""
    stop = min(start + limit, len(patches.paths))
    rows = [
        {"path": path, **dict(zip(FIELDS, row, strict=True))}
        for path, row in zip(patches.paths[start:stop], patches.values[start:stop].tolist(), strict=True)
    ]
    return patches.head | {"patches": rows, "next": stop if stop < len(patches.paths) else None}


def of_pages(pages: Sequence[dict[str, Any]]) -> Patches:
    """Return the patches of all pages of a response."""
    rows = [row for body in pages for row in body["patches"]]
    head = {key: value for key, value in pages[0].items() if key not in ("patches", "next")}
    values = np.array([[row[name] for name in FIELDS] for row in rows], np.int64)
    return Patches(head, [row["path"] for row in rows], values.reshape(-1, len(FIELDS)))
