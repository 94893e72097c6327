"""Count label maps in threads of this process, without a server and without a version store."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from statsvc.classes import class_map_files
from statsvc.classes.class_maps import ClassMap
from statsvc.common.object_urls import is_url
from statsvc.common.plurals import plural
from statsvc.dataset import grid as grids
from statsvc.dataset import objects as object_entries
from statsvc.dataset import split_files
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import VALUE
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.dataset.memory_table import MemoryTable, Tiles
from statsvc.dataset.num_classes import infer_num_classes, with_masks, with_source_names
from statsvc.dataset.splits import check_not_empty, detect
from statsvc.dataset.splits import from_dict as read_splits
from statsvc.dataset.table import MAX_IDS, Block
from statsvc.errors import InvalidParameter, SourceError, Unanswerable
from statsvc.local.notebook import notebook_bar
from statsvc.sampling import result
from statsvc.sampling.patches import Patches, class_patches
from statsvc.sampling.weights import weights_response
from statsvc.splitting.divide import divide_dataset
from statsvc.splitting.request import DivisionRequest, SubsetRequest
from statsvc.splitting.subset import choose_subset
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.comparison_result import Comparison
from statsvc.weighting.histogram import histogram_response
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from statsvc.dataset.grid import Grid
    from statsvc.dataset.groups import Grouping
    from statsvc.dataset.objects import Objects
    from statsvc.dataset.splits import Split
    from statsvc.sampling.result import Sampling
    from statsvc.splitting.result import SplitResult
    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

_log = logging.getLogger("statsvc.local")

_BATCH_SIZE = 16
"""Samples per batch."""

_REMOTE_BATCH_SIZE = 512
"""Samples per batch of an object store: read-ahead starts again with each batch."""

_BATCHES_PER_THREAD = 3
"""Batches that are submitted ahead of the results."""

_MAX_PIXELS = 1 << 28
"""Default of `max_pixels`, the same as for a job."""


class LocalTable(MemoryTable):
    """Counts of label maps in memory, from which `weights` and `sampling` are computed without rereading."""

    def __repr__(self) -> str:
        failed, images = self.failed(), len(self.rows.path)
        unreadable = f", {failed} of them unreadable" if failed else ""
        return (
            f"<LocalTable of {self.dataset}: {plural(images, 'label map')}{unreadable}, "
            f"{plural(self.configuration.num_classes, 'class')}>"
        )

    def weights(self, method: str | None = None, **params: Any) -> ClassWeights:
        """Return class weights, by default of the method `sqrt_inv_freq`.

        `params` are those of `WeightSpec`. The warnings of the answer also go to the log "statsvc.local".
        Raises `InvalidParameter`, `NotFound` for an unknown split, `Unanswerable`.
        """
        weights = ClassWeights(weights_response(self, WeightSpec.from_params({"method": method, **params})))
        for warning in weights.warnings:
            _log.warning("%s: %s", self.dataset, warning["message"])
        return weights

    def compare(self, method: str | Sequence[str] = (), **params: Any) -> Comparison:
        """Return how weighting methods distribute the loss over the classes.

        method  methods to compare; by default all that return class weights
        params  `beta`, `alpha` and `strength`, each one value or a list, and parameters of all methods, such
                as `split`

        Raises as `weights` does.
        """

        def response(request: dict[str, Any]) -> dict[str, Any]:
            return weights_response(self, WeightSpec.from_params(request))

        several = {name: params.pop(name) for name in ("beta", "alpha", "strength") if name in params}
        return Comparison.of(response, params, method=method, **several)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a bar for the share of each id, and return the axes; by default those of a new figure.

        Raises `ImportError` without matplotlib.
        """
        from statsvc.weighting.comparison_plot import bars

        rows = histogram_response(self)["classes"]
        return bars([row["name"] for row in rows], [row["share"] for row in rows], repr(self), ax)

    def _repr_html_(self) -> str:
        """Return a table with a bar for each id, for notebooks."""
        from statsvc.weighting.display import counts_html

        return counts_html(repr(self), histogram_response(self))

    def patches(
        self, class_id: int, *, min_pixels: int = 1, most: int | None = None, **params: Any
    ) -> Patches:
        """Return the tiles of the images that contain a class, those with most of its pixels first.

        `most` limits their number, `params` are `split` and `class_map`. Raises `InvalidParameter`,
        `NotFound`, and `Unanswerable` for a scan without a grid.
        """
        return class_patches(self, class_id, WeightSpec.from_params(params), min_pixels, most)

    def sampling(self, sampler: str, **params: Any) -> Sampling:
        """Return the probability with which a sampler draws each image.

        `sampler` is `rare_class`, `repeat_factor` or `image_weights`; `params` are those of
        `GET /datasets/{name}/sampling`. Raises `InvalidParameter`, `NotFound`, `Unanswerable`.
        """
        return result.of_table(self, sampler, params)

    def split(
        self,
        *,
        folds: int | None = None,
        parts: Mapping[str, float] | str | None = None,
        seed: int = 0,
        group: str | Grouping | None = None,
        **counts: Any,
    ) -> SplitResult:
        """Divide the images into parts that represent every class by its pixels and by its images.

        folds   number of folds of equal size
        parts   shares of the images, such as {"train": 0.8, "val": 0.2} or "train=0.8,val=0.2"
        seed    another seed gives another division
        group   what is never divided: "folder:1", a CSV file of path and value, or an expression over the
                path whose first group is the value, such as "^(\\w+?)_"; see `statsvc.dataset.groups`
        counts  `split`, `class_map`, `ignore_index` and `num_classes` of `WeightSpec`

        Returns the paths of each part and a report. Raises `InvalidParameter`, `NotFound` for an unknown
        split, and `Unanswerable` if there are fewer images or groups than parts.
        """
        grouping = self.configuration.grouping(group) if isinstance(group, str) else group
        request = DivisionRequest.from_params(
            folds=folds, parts=parts, seed=seed, grouping=grouping, **counts
        )
        return divide_dataset(self, request)

    def subset(
        self, images: int, target: str | Mapping[str, float] = "natural", *, seed: int = 0, **counts: Any
    ) -> SplitResult:
        """Choose images whose classes have wanted shares of the pixels.

        target  "natural" for the shares in the dataset, "uniform", or shares by class name or id, such as
                {"pole": 0.05} or "pole=0.05"; the other classes share the rest as in the dataset

        The other arguments are those of `split`. Raises as `split` does.
        """
        return choose_subset(
            self, SubsetRequest.from_params(images=images, target=target, seed=seed, **counts)
        )


def scan(
    location: str | Path,
    *,
    pattern: str | None = None,
    name: str | None = None,
    class_map: str | Path | ClassMap | None = None,
    class_names: Sequence[str] = (),
    ignore_index: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    splits: Mapping[str, Any] | str | Path | None = None,
    rule: str | Path | None = None,
    key: str | None = None,
    rows: str | None = None,
    grid: str | None = None,
    layout: str | None = None,
    max_pixels: int = _MAX_PIXELS,
    samples: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalTable:
    """Count the label maps in a folder, a container, a single file, or below a URL, exactly.

    pattern       glob of the files to count, such as "*_labelIds.png"; None infers it from the file names
    name          name of the dataset in answers; None takes the folder's name
    class_map     built-in name, file or `ClassMap`; None if the raw ids are the class ids
    class_names   names of the classes 0, 1, …; if there are none, those of a class list next to the label
                  maps, such as `_classes.csv` or `dataset.json`
    ignore_index  as in `WeightSpec`; None ignores 255 and negative ids
    num_classes   as in `WeightSpec`; None infers it: the highest id that is not ignored, plus 1
    splits        mapping from names to a list of paths, a file with one path per line, or a glob; or a JSON
                  file of folds; None makes splits of folders named train, val and test
    rule          how pixel values become raw ids: "id // 1000", a palette's name, or a CSV file of a
                  palette, see docs/reference/formats.md; None if the pixel values are the raw ids
    key           array, member or column that contains the labels, if a file has several
    rows          what is one sample of an NPY, HDF5 or Zarr array: "array", "index" along its first axis,
                  or "chunk"
    grid          grid of tiles to count too, such as "8x8", for weights under random crops
    layout        known layout of the folder, such as "voc": its pattern, splits, class map, rule and ignored
                  ids replace the arguments that are None
    max_pixels    label maps with more pixels count as unreadable
    samples       number of label maps to count, drawn at random without replacement, for an estimate; None
                  counts all
    workers       number of threads; None uses one per CPU that this process may use
    progress      called as `progress(done, samples)` after each batch; None shows a bar in a notebook

    Label maps that cannot be read are listed in `failures()` of the table and in the warnings of its
    weights. Raises `SourceError` if there is nothing to count, `AmbiguousSource` with patterns to choose
    from if there are several kinds of label map, `InvalidParameter` for a malformed argument, and
    `ImportError` if `statsvc[workers]` is not installed.
    """
    try:
        from statsvc.dataset.known_layouts import find_layout
        from statsvc_workers.cluster.machine import cores
        from statsvc_workers.cluster.tasks import CountOptions
        from statsvc_workers.sources import class_files
        from statsvc_workers.sources.draw import draw
        from statsvc_workers.sources.list_samples import list_samples
        from statsvc_workers.sources.sources import open_source
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed. Run: pip install 'statsvc[workers]'", name=error.name
        ) from error

    threads = cores() if workers is None else workers
    if threads < 1:
        raise InvalidParameter(("workers", f"{workers} is not a number of threads. Use 1 or more."))
    if samples is not None and samples < 2:
        raise InvalidParameter(("samples", f"{samples} is not a number of label maps. Use 2 or more."))
    known = None if layout is None else find_layout(layout)
    if known is not None:
        pattern = known.pattern if pattern is None else pattern
        rule = known.rule if rule is None else rule
        class_map = known.class_map if class_map is None else class_map
        ignore_index = known.ignore if ignore_index is None else ignore_index
    counting = read_counting(None if rule is None else os.fspath(rule), key, rows)
    counting = replace(counting, grid=None if grid is None else grids.parse(grid))
    configuration = _configuration(class_map, class_names, ignore_index, num_classes, splits)
    source = open_source(os.fspath(location), pattern, counting, layout=known, trusted=rule == VALUE)
    for line in source.selection.lines() if source.selection is not None else ():
        _log.info("%s: %s", source.root, line)
    configuration = replace(configuration, counting=counting, selection=source.selection)
    listing = list_samples(source, counting)
    progress = notebook_bar("label maps") if progress is None else progress
    check_not_empty(configuration.splits, listing.path)
    files = class_files.find(source.root, listing, search_parent=True)
    configuration = class_files.with_rule(configuration, files, source.root, list(listing.path))
    configuration = with_masks(configuration, listing.class_names)
    counting = configuration.counting
    paths, sampled_from = listing.path, None
    if samples is not None and samples < len(paths):
        listing, sampled_from = listing.take(draw(listing, samples)), len(paths)
    readable = [listing.sample(path) for path in listing.path if path not in listing.unreadable]
    batches = list(
        _count(CountOptions(source.root, max_pixels, "cpu", counting), readable, threads, progress)
    )

    raw_id, block = _assemble(list(listing.path), listing.unreadable, batches)
    tiles = None
    if counting.grid is not None or counting.rows != "array":
        tiles = _tiles(list(listing.path), batches, counting.grid)
    if block.status.all():
        raise SourceError(
            f"No label map in {source.root} could be read. First error: {block.path[0]}: {block.error[0]}"
        )
    if splits is None:
        configuration = replace(configuration, splits=dict(source.splits) or detect(paths))
    configuration = with_source_names(configuration, listing.class_names)
    configuration = class_files.with_classes(configuration, files, raw_id)
    for subject, text in configuration.notes.items():
        _log.warning("%s: %s: %s", source.root, subject, text)
    if configuration.num_classes == 0:
        configuration = replace(configuration, num_classes=infer_num_classes(raw_id, configuration))
    objects = _objects(list(listing.path), block.status, batches)
    name = name or source.root.rpartition("/")[2]
    return LocalTable(name, configuration, raw_id, block, sampled_from, tiles=tiles, objects=objects)


def _configuration(
    class_map: str | Path | ClassMap | None,
    class_names: Sequence[str],
    ignore_index: int | Sequence[int] | None,
    num_classes: int | None,
    splits: Mapping[str, Any] | str | Path | None,
) -> Configuration:
    if class_map is not None and not isinstance(class_map, ClassMap):
        class_map = class_map_files.resolve(os.fspath(class_map))
    spec = WeightSpec.from_params({"ignore_index": ignore_index, "num_classes": num_classes})
    if num_classes is not None and len(class_names) > num_classes:
        raise InvalidParameter(
            (
                "class_names",
                f"{len(class_names)} names for {plural(num_classes, 'class')}. Give at most one name per "
                "class.",
            )
        )
    return Configuration(
        num_classes=spec.num_classes or 0,
        class_names=tuple(class_names),
        ignore_index=spec.ignore_index,
        class_map=class_map,
        splits=_splits(splits),
    )


def _splits(splits: Mapping[str, Any] | str | Path | None) -> dict[str, Split]:
    if isinstance(splits, (str, Path)):
        return split_files.folds(Path(splits))
    members = dict(splits or {})
    files = {name: value for name, value in members.items() if isinstance(value, (str, Path))}
    lists = {name: value for name, value in members.items() if name not in files}
    from_files = {name: split_files.read(name, value) for name, value in files.items()}
    return read_splits(lists) | from_files


def _count(
    options: CountOptions,
    samples: Sequence[str | Member],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[BatchResult]:
    """Yield the result of every batch as it completes; the number of submitted batches is bounded."""
    from statsvc_workers.cluster.tasks import count_samples

    stop = threading.Event()
    size = _REMOTE_BATCH_SIZE if is_url(options.root) else _BATCH_SIZE
    batches = (samples[start : start + size] for start in range(0, len(samples), size))
    with ThreadPoolExecutor(threads, "statsvc-count") as pool:
        try:
            pending = {
                pool.submit(count_samples, options, batch, stop.is_set)
                for batch in itertools.islice(batches, threads * _BATCHES_PER_THREAD)
            }
            done = 0
            while pending:
                completed, pending = wait(pending, return_when=FIRST_COMPLETED)
                for batch in itertools.islice(batches, len(completed)):
                    pending.add(pool.submit(count_samples, options, batch, stop.is_set))
                for future in completed:
                    result = future.result()
                    done += len(result.path)
                    if progress is not None:
                        progress(done, len(samples))
                    yield result
        except BaseException:
            # On Ctrl-C or an error in the progress callback, start no further sample.
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _assemble(
    paths: Sequence[str], unreadable: Mapping[str, str], batches: Sequence[BatchResult]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Block]:
    """Return the K raw ids that occur, int64 [K] ascending, and a block with one row per path, in order."""
    ids = [values for batch in batches for values in (batch.ids, batch.objects.class_id)]
    raw_id = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
    if len(raw_id) > MAX_IDS:
        raise Unanswerable(
            f"The label maps have {len(raw_id)} different ids, from {raw_id[0]} to {raw_id[-1]}, but at most "
            f"{MAX_IDS} are supported. Instance ids are a common cause: choose files with class ids with "
            "pattern=."
        )
    row_of = {path: row for row, path in enumerate(paths)}
    counts = np.zeros((len(paths), len(raw_id)), np.int64)
    status = np.zeros(len(paths), np.uint8)
    errors = [unreadable.get(path, "") for path in paths]
    for batch in batches:
        rows = np.array([row_of[path] for path in batch.path], np.int64)
        row, column = np.repeat(rows, np.diff(batch.offsets)), np.searchsorted(raw_id, batch.ids)
        np.add.at(counts, (row, column), batch.counts)
        for path, error in zip(batch.path, batch.error, strict=True):
            errors[row_of[path]] = error
    status[[row for row, error in enumerate(errors) if error]] = 1
    return raw_id, Block(list(paths), status, errors, counts)


def _objects(
    paths: Sequence[str], status: np.ndarray[Any, Any], batches: Sequence[BatchResult]
) -> Objects | None:
    """Return the objects of all samples, in the order of the paths; None if one of them is unknown."""
    row_of = {path: row for row, path in enumerate(path for batch in batches for path in batch.path)}
    objects = object_entries.concatenate([batch.objects for batch in batches])
    order = np.array([row_of.get(path, -1) for path in paths], np.int64)
    lengths = np.where(order >= 0, objects.lengths[order], 0)
    if (lengths[status == 0] == object_entries.UNKNOWN).any():
        return None
    return replace(objects.take(order[order >= 0]), lengths=lengths)


def _tiles(paths: Sequence[str], batches: Sequence[BatchResult], grid: Grid | None) -> Tiles:
    """Return the places of all samples and their histograms on the grid, in the order of the paths."""
    from statsvc.store.versions.checkpoints import concatenate
    from statsvc_workers.jobs.count import as_rows

    rows = concatenate([as_rows(batch) for batch in batches])
    row_of = {path: row for row, path in enumerate(rows.columns["path"].tolist())}
    order = np.array([row_of.get(path, -1) for path in paths], np.int64)
    counted = order >= 0
    lengths = np.zeros(len(paths), np.int64)
    places = np.zeros((len(paths), 9), np.int64)
    cells = rows.cells(order[counted])
    lengths[counted] = cells.lengths
    places[counted] = rows.columns["place"][order[counted]]
    return Tiles(grid, places, replace(cells, lengths=lengths))
