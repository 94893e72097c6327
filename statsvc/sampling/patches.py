"""Patches that contain a class: the tiles of images, volumes and arrays in which it has most pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.errors import Inapplicable, Unanswerable
from statsvc.weighting.class_names import class_name
from statsvc.weighting.response import SCHEMA, class_map_name, interpret_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.grid import Cells, Grid
    from statsvc.dataset.table import Block, Table
    from statsvc.weighting.parameters import WeightSpec

    Int64 = NDArray[np.int64]

FIELDS = (
    *("front", "top", "left", "depth", "height", "width"),
    *("image_depth", "image_height", "image_width", "pixels"),
)
"""The numbers of a patch, in the order of `Patches.values`."""

AXES = 3
"""Depth, rows and columns; an image has a depth of 1."""


class Patches(Struct, frozen=True):
    """The tiles in which a class occurs, most pixels first; ties by path and position.

    head    dataset, version, class id, class name and interpretation, as in the response
    paths   path of the file or folder of each patch, [n]
    values  int64 [n, 10], the `FIELDS`: first pixel and size of the tile, size of the image or array, and the
            pixels of the class
    """

    head: dict[str, Any]
    paths: Sequence[str]
    values: Int64


def class_patches(
    table: Table, class_id: int, spec: WeightSpec, min_pixels: int = 1, most: int | None = None
) -> Patches:
    """Return the tiles with at least `min_pixels` of a class.

    A tile is one of the grid or, where rows are parts of arrays that were not counted on a grid, a row.

    spec  selects the split and the class map
    most  number of tiles after which the others are left out; memory does not grow beyond it

    Raises `InvalidParameter` for an id that is not a class, `NotFound` for an unknown split, and
    `Unanswerable` where it is not known where in a sample the class is.
    """
    spec = spec.resolved()
    if not table.has_places:
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
    of_class = np.flatnonzero(known & (ids == class_id))
    members = None if spec.split is None else table.find_split(spec.split)
    of_arrays = table.configuration.counting.rows != "array"
    best = _Best(most)
    for block, places, cells in table.placed_blocks():
        with_class = block.counts[:, of_class].sum(axis=1)
        candidates = np.flatnonzero((with_class >= min_pixels) & (block.status == 0))
        if members is not None:
            inside = members.select([block.path[row] for row in candidates.tolist()])
            candidates = candidates[inside]
        if not len(candidates):
            continue
        _check_places(table, block, places, cells, candidates)
        row, values = _tiles(table.grid, raw_ids[of_class], candidates, places, cells)
        whole = candidates[cells.lengths[candidates] == 0]
        row = np.concatenate([row, whole])
        values = np.concatenate([values, np.column_stack([places[whole], with_class[whole]])])
        use = values[:, -1] >= min_pixels
        row, values = row[use], values[use]
        order = np.argsort(row, kind="stable")
        paths = [str(block.path[k]) for k in row[order].tolist()]
        best.add([path.rpartition("/")[0] for path in paths] if of_arrays else paths, values[order])
    head = {
        "dataset": table.dataset,
        "version": table.version,
        "class_id": class_id,
        "name": class_name(interpreted.names, class_id),
        "split": spec.split,
        "class_map": class_map_name(interpreted),
        "grid": None if table.grid is None else str(table.grid),
        "schema": SCHEMA,
    }
    return Patches(head, *best.result())


class _Best:
    """The patches with most pixels, of those added in order of path and position."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._paths: list[str] = []
        self._values: list[Int64] = [np.zeros((0, len(FIELDS)), np.int64)]

    def add(self, paths: Sequence[str], values: Int64) -> None:
        """Add patches."""
        self._paths += paths
        self._values.append(values)
        if self._most is not None and len(self._paths) > 2 * self._most + _SLACK:
            self._paths, kept = self.result()
            self._values = [kept]

    def result(self) -> tuple[list[str], Int64]:
        """Return the patches, most pixels first."""
        values = np.concatenate(self._values)
        order = np.argsort(-values[:, -1], kind="stable")[: self._most]
        return [self._paths[k] for k in order.tolist()], values[order]


_SLACK = 1 << 16
"""Patches beyond the necessary ones that are collected before they are sorted."""


def _check_places(table: Table, block: Block, places: Int64, cells: Cells, rows: Int64) -> None:
    """Raise `Unanswerable` if it is not known where one of these rows, or a class in it, is."""
    of_arrays = table.configuration.counting.rows != "array"
    unknown = rows[places[rows, 6] == 0] if of_arrays else rows[cells.lengths[rows] == 0]
    if not len(unknown):
        return
    path = f"{table.dataset}: {block.path[unknown[0]]}"
    if of_arrays:
        raise Unanswerable(
            f"{path} is a part of an array, but its position is not known. If the array has up to three "
            f"axes, count it again with: statsvc scan --name {table.dataset} --full"
        )
    raise Unanswerable(
        f"{path} was not counted on the grid {table.grid}, because it is a volume; give the grid a depth, "
        "such as --grid 8x8x8, or use a split without volumes"
    )


def _tiles(
    grid: Grid | None, of_class: Int64, rows: Int64, places: Int64, cells: Cells
) -> tuple[Int64, Int64]:
    """Return the row and the values of each tile that contains one of the raw ids, in some rows."""
    if grid is None:
        return np.zeros(0, np.int64), np.zeros((0, len(FIELDS)), np.int64)
    part = cells.take(rows)
    entries = np.flatnonzero(np.isin(part.class_id, of_class))
    tiles = grid.tiles * max(1, grid.depth)
    # Several raw ids can be the class: their pixels in a tile add up.
    key, position = np.unique(part.row[entries] * tiles + part.tile[entries], return_inverse=True)
    pixels = np.zeros(len(key), np.int64)
    np.add.at(pixels, position, part.pixels[entries])
    row, tile = rows[key // tiles], key % tiles
    place = places[row]
    parts = (np.where(place[:, AXES] > 1, max(1, grid.depth), 1), grid.rows, grid.columns)
    numbers = (tile // grid.tiles, tile % grid.tiles // grid.columns, tile % grid.columns)
    starts, lengths = [], []
    for axis in range(AXES):
        start, length = _spans(place[:, AXES + axis], numbers[axis], parts[axis])
        starts.append(place[:, axis] + start)
        lengths.append(length)
    return row, np.stack([*starts, *lengths, *place[:, 2 * AXES :].T, pixels], axis=1)


def _spans(lengths: Int64, part: Int64, parts: Int64 | int) -> tuple[Int64, Int64]:
    """Return where a part of each axis begins, and its length; as `statsvc.dataset.grid.edges`."""
    start = part * lengths // parts
    return start, (part + 1) * lengths // parts - start


def page(
    table: Table, class_id: int, spec: WeightSpec, min_pixels: int, start: int, limit: int
) -> dict[str, Any]:
    """Return the patches from a rank on as JSON, with the rank at which the next page begins.

    Raises as `class_patches` does.
    """
    patches = class_patches(table, class_id, spec, min_pixels, start + limit + 1)
    stop = min(start + limit, len(patches.paths))
    rows = [
        {"path": path, **dict(zip(FIELDS, row, strict=True))}
        for path, row in zip(patches.paths[start:stop], patches.values[start:stop].tolist(), strict=True)
    ]
    return patches.head | {"patches": rows, "next": stop if stop < len(patches.paths) else None}


def of_pages(pages: Sequence[dict[str, Any]], most: int | None = None) -> Patches:
    """Return the patches of all pages of a response, at most `most`."""
    rows = [row for body in pages for row in body["patches"]][:most]
    head = {key: value for key, value in pages[0].items() if key not in ("patches", "next")}
    values = np.array([[row[name] for name in FIELDS] for row in rows], np.int64)
    return Patches(head, [row["path"] for row in rows], values.reshape(-1, len(FIELDS)))
