"""The table of one version: pixels per raw id and sample, and the aggregates that weights need.

Letters in array shapes: n samples, K ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from msgspec import Struct

from statsvc.dataset.groups import GroupName
from statsvc.dataset.histogram import Aggregator, Histogram
from statsvc.dataset.mapped_columns import MappedColumns, map_histogram
from statsvc.dataset.objects import ObjectAggregator
from statsvc.dataset.splits import Split
from statsvc.errors import NotFound, Unanswerable, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.grid import Cells, Grid
    from statsvc.dataset.mapped_columns import Number
    from statsvc.dataset.objects import Objects

    Int64 = NDArray[np.int64]

T = TypeVar("T")

MAX_IDS = 4096
"""Maximum number of distinct raw ids in a label map or a dataset; more are instance ids or not labels."""

ROWS = 4096
"""Maximum number of rows per item that `Table.sample_counts` yields."""

TILE_VALUES = 1 << 21
"""Maximum number of values per item that `Table.sample_tiles` yields."""

EXAMPLES = 3
"""Maximum number of example files in a response."""


class Block(Struct, frozen=True):
    """Consecutive rows of a table, one per sample, in path order.

    path    strings [n], paths relative to the source
    status  uint8 [n], 0 for a counted sample, 1 for an unreadable one
    error   strings [n], why the sample is unreadable; empty for a counted one
    counts  int64 [n, K], pixels of each raw id; zeros for an unreadable sample
    """

    path: Sequence[str]
    status: NDArray[np.uint8]
    error: Sequence[str]
    counts: Int64


class Table(ABC):
    """The counts of one version, independent of where they are stored.

    A row contains the counts of one sample, a column those of one raw id. Subclasses provide the totals and
    the rows; this class derives histograms of splits under any class map.

    dataset        name of the dataset, for responses and messages
    version        version number, from 1; None for a table that is not stored
    configuration  how the raw counts are interpreted
    sampled_from   number of samples from which those of the table were drawn; None if every one was counted
    has_rows       True if the counts of each sample are known; False if only the totals are known, which
                   allow neither splits nor, under a class map that merges ids, presence
    """

    dataset: str
    version: int | None
    configuration: Configuration
    sampled_from: int | None = None
    has_rows: bool = True

    @property
    def exact(self) -> bool:
        """True if every sample was counted; False if the counts are an estimate from some of them."""
        return self.sampled_from is None

    @abstractmethod
    def totals(self) -> Histogram:
        """Return the histogram of all counted samples over the K raw ids, ascending."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows in path order, in blocks of bounded size."""

    @abstractmethod
    def failed(self) -> int:
        """Return the number of unreadable samples in the table."""

    @property
    def grid(self) -> Grid | None:
        """The grid on which the samples were counted; None where only whole images were counted."""
        return None

    @property
    def has_places(self) -> bool:
        """Whether it is known where classes are: from a grid, or because rows are parts of arrays."""
        return self.grid is not None or (self.has_rows and self.configuration.counting.rows != "array")

    def placed_blocks(self) -> Iterator[tuple[Block, Int64, Cells]]:
        """Yield `blocks`, each with the places of its samples and their histograms on the grid.

        Places are int64 [n, 9], a `Place` for each sample, zeros where it is unknown. A sample without a grid
        has no entry. Raises `Unanswerable` without `has_places`.
        """
        raise Unanswerable(self.why_no_grid())

    @property
    def has_objects(self) -> bool:
        """Whether the objects of each counted sample are known."""
        return False

    def object_blocks(self) -> Iterator[tuple[Block, Objects | None]]:
        """Yield `blocks`, each with the objects of its samples; with None unless `has_objects`."""
        for block in self.blocks():
            yield block, None

    def why_no_grid(self) -> str:
        """Return an error message for a request that needs a grid, where no sample was counted on one."""
        if not self.has_rows:
            return self.why_no_rows()
        return (
            f"{self.dataset} was counted without a grid, but this request needs the positions of classes in "
            f"the images; count it again with: statsvc scan --name {self.dataset} --grid 8x8"
        )

    def why_no_objects(self) -> str:
        """Return an error message for a request that needs objects, where they are unknown."""
        return (
            f"the objects of {self.dataset} are not known. They are counted in COCO panoptic and instance "
            "files and, with a rule such as 'id // 1000', in label maps of instance ids; a dataset that an "
            "earlier release counted must be scanned again"
        )

    def why_no_rows(self) -> str:
        """Return an error message for a request that needs rows, if `has_rows` is False."""
        return (
            f"{self.dataset} contains totals only, but this request needs the counts of each image; scan the "
            "label maps to get them"
        )

    def raw_ids(self) -> Int64:
        """Return the raw id of each column of `Block.counts`: int64 [K], ascending."""
        return self.totals().class_id

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the histogram of a split (default: all samples) after a class map (default: raw ids).

        Reads the rows only if the totals do not suffice: for a split, and if the map merges ids, because the
        samples that contain one of two ids cannot be derived from the samples that contain each.

        Raises `NotFound` for an unknown split, and `Unanswerable` for a split if there are no rows.
        """
        totals = self.totals()
        selected = None if split is None else self.find_split(split)
        if selected is not None and not self.has_rows:
            raise Unanswerable(self.why_no_rows())
        if class_map is None:
            if selected is None:
                return totals
            columns = MappedColumns.unchanged(totals.class_id)
        else:
            columns = MappedColumns.of(totals.class_id, class_map)
            if selected is None and columns.order is not None:
                return columns.permute(totals)
            if not self.has_rows:
                return map_histogram(totals, class_map)
        return aggregate(self.object_blocks(), columns, selected, totals.class_id)

    def sample_counts(
        self, split: str | None = None, class_map: ClassMap | None = None
    ) -> Iterator[tuple[list[str], Int64]]:
        """Yield paths and counts of the counted samples in a split, in path order, up to `ROWS` at a time.

        The counts are int64 [n, K] in pixels, with one column per id of `histogram(split, class_map)`.

        Raises `NotFound` for an unknown split, and `Unanswerable` if there are no rows.
        """
        selected = None if split is None else self.find_split(split)
        if not self.has_rows:
            raise Unanswerable(self.why_no_rows())
        for block in self.blocks():
            rows = np.flatnonzero(_counted_rows(block, selected))
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                paths = [str(block.path[row]) for row in part.tolist()]
                yield paths, self.apply_class_map(block.counts[part], class_map)

    def sample_tiles(
        self, split: str | None = None, class_map: ClassMap | None = None
    ) -> Iterator[tuple[Int64, tuple[Int64, Int64], Int64]]:
        """Yield counts, (heights, widths) and tiles of the counted images in a split, in path order.

        The counts are those of `sample_counts`, int64 [n, K], the tiles int64 [n, tiles, K], both in pixels.

        Raises `NotFound` for an unknown split, and `Unanswerable` if a sample was not counted on a grid or is
        not an image.
        """
        ids, grid = self.raw_ids(), self.grid
        if grid is None:
            raise Unanswerable(self.why_no_grid())
        step = max(1, TILE_VALUES // (grid.tiles * max(1, len(ids))))
        for counts, (height, width), cells in self.image_cells(split):
            for start in range(0, len(counts), step):
                part = np.arange(start, min(start + step, len(counts)))
                entries = cells.take(part)
                tiles = np.zeros((len(part), grid.tiles, len(ids)), np.int64)
                tiles[entries.row, entries.tile, np.searchsorted(ids, entries.class_id)] = entries.pixels
                mapped = self.apply_class_map(tiles.reshape(-1, len(ids)), class_map)
                yield (
                    self.apply_class_map(counts[part], class_map),
                    (height[part], width[part]),
                    mapped.reshape(len(part), grid.tiles, -1),
                )

    def image_cells(self, split: str | None = None) -> Iterator[tuple[Int64, tuple[Int64, Int64], Cells]]:
        """Yield counts, (heights, widths) and histograms on the grid of the counted images in a split.

        The counts are int64 [n, raw ids], in pixels. Raises as `sample_tiles` does.
        """
        selected = None if split is None else self.find_split(split)
        if self.grid is None:
            raise Unanswerable(self.why_no_grid())
        if self.configuration.counting.rows == "chunk":
            raise Unanswerable(f"{self.dataset} was counted by chunks, which are not images")
        for block, places, cells in self.placed_blocks():
            rows = np.flatnonzero(_counted_rows(block, selected))
            without = rows[(cells.lengths[rows] == 0) | (places[rows, 3] > 1)]
            if len(without):
                raise Unanswerable(
                    f"{self.dataset}: {block.path[without[0]]} is not an image, because it does not have two "
                    "dimensions; use a split without such samples"
                )
            yield block.counts[rows], (places[rows, 4], places[rows, 5]), cells.take(rows)

    def tile_totals(self, split: str | None = None, class_map: ClassMap | None = None) -> Int64:
        """Return the pixels in each tile, over all counted images of a split, int64 [tiles, K].

        Raises as `sample_tiles` does.
        """
        ids, grid = self.raw_ids(), self.grid
        if grid is None:
            raise Unanswerable(self.why_no_grid())
        total = np.zeros((grid.tiles, len(ids)), np.int64)
        for _, _, cells in self.image_cells(split):
            position = cells.tile * len(ids) + np.searchsorted(ids, cells.class_id)
            np.add.at(total.reshape(-1), position, cells.pixels)  # much faster with one index
        return self.apply_class_map(total, class_map)

    def apply_class_map(self, counts: NDArray[Number], class_map: ClassMap | None) -> NDArray[Number]:
        """Return counts per raw id, [n, raw ids], as counts per id of `histogram`, [n, K]."""
        if class_map is None:
            return counts
        return MappedColumns.of(self.totals().class_id, class_map).merge(counts)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`; a subclass with a cache calls it once per key."""
        del key
        return make()

    def find_split(self, name: str) -> Split:
        """Return the split with this name, or a group, see `GroupName`.

        Raises `NotFound` with the list of splits or group rules.
        """
        splits = self.configuration.splits
        group = None if name in splits else GroupName.parse(name, splits)
        if group is not None and group.split is None:
            before, slash, rule_name = group.rule.rpartition("/")
            if slash and rule_name in self.configuration.groups:
                name, group = before, None  # a group in a split that does not exist
        if group is not None:
            rule = self.configuration.grouping(group.rule, files=False)
            within = None if group.split is None else splits[group.split]
            return Split(group=(rule.of, group.value), within=within)
        if name not in splits:
            names = ", ".join(sorted(splits)) or "none"
            raise NotFound(
                f"{self.dataset} has no split {name!r}{nearest(name, splits)}; its splits: {names}"
            )
        return splits[name]

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return the number of unreadable samples in a split, and (path, reason) of the first `limit`.

        Raises `NotFound` for an unknown split.
        """
        if self.failed() == 0:
            return 0, []
        selected = None if split is None else self.find_split(split)
        count = 0
        examples: list[tuple[str, str]] = []
        for block in self.blocks():
            for row in np.flatnonzero(block.status).tolist():
                path = str(block.path[row])
                if selected is not None and not selected.contains(path):
                    continue
                count += 1
                if limit is None or len(examples) < limit:
                    examples.append((path, str(block.error[row])))
        return count, examples

    def samples_with(
        self, raw_ids: Sequence[int], split: str | None = None, limit: int = EXAMPLES
    ) -> dict[int, list[str]]:
        """Return, for each raw id, the paths of the first `limit` samples in which it occurs.

        Every list is empty if there are no rows. Raises `NotFound` for an unknown split.
        """
        paths: dict[int, list[str]] = {raw_id: [] for raw_id in raw_ids}
        if not self.has_rows or not paths:
            return paths
        selected = None if split is None else self.find_split(split)
        column = {int(raw_id): k for k, raw_id in enumerate(self.raw_ids())}
        for block in self.blocks():
            incomplete = [raw_id for raw_id in paths if len(paths[raw_id]) < limit and raw_id in column]
            if not incomplete:
                break
            for raw_id in incomplete:
                for row in np.flatnonzero(block.counts[:, column[raw_id]]).tolist():
                    path = str(block.path[row])
                    if selected is None or selected.contains(path):
                        paths[raw_id].append(path)
                        if len(paths[raw_id]) == limit:
                            break
        return paths


def _counted_rows(block: Block, split: Split | None) -> NDArray[np.bool_]:
    """Return which rows of a block, bool [n], are counted samples of the split."""
    rows: NDArray[np.bool_] = block.status == 0
    if split is not None:
        rows &= split.select(block.path)
    return rows


def aggregate(
    blocks: Iterable[tuple[Block, Objects | None]],
    columns: MappedColumns,
    split: Split | None,
    raw_ids: Int64,
) -> Histogram:
    """Return the histogram of the counted samples of a split (None: all samples).

    raw_ids  the raw id of each column of `Block.counts`, ascending
    """
    total, objects, known = Aggregator(len(columns.class_id)), ObjectAggregator(len(columns.class_id)), False
    for block, block_objects in blocks:
        rows = _counted_rows(block, split)
        known = block_objects is not None
        if rows.any():
            total.add(columns.merge(block.counts[rows]))
            if block_objects is not None:
                selected = block_objects.take(np.flatnonzero(rows))
                column = np.searchsorted(raw_ids, selected.class_id)
                objects.add(column if columns.target is None else columns.target[column], selected.pixels)
    return Histogram(
        columns.class_id,
        columns.mapped,
        total.pixels,
        total.images,
        total.cooccurrence,
        total.samples,
        objects.totals() if known else None,
    )
