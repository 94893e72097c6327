"""Counting label maps without a server and without a store: threads, and a table in memory."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.classes import class_map_files
from statsvc.classes.class_maps import ClassMap
from statsvc.common.object_urls import is_url
from statsvc.dataset import split_files
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.dataset.num_classes import infer_num_classes, with_source_names
from statsvc.dataset.splits import detect
from statsvc.dataset.splits import from_dict as read_splits
from statsvc.dataset.table import MAX_IDS, Block, MemoryTable
from statsvc.errors import InvalidParameter, SourceError, Unanswerable
from statsvc.sampling import result
from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from statsvc.dataset.splits import Split
    from statsvc.sampling.result import Sampling
    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

_log = logging.getLogger("statsvc.local")

_BATCH = 16
_REMOTE_BATCH = 512
"""Samples of an object store in a batch: each batch begins to read ahead anew."""

_BATCHES_PER_THREAD = 3


class LocalTable(MemoryTable):
    """Counts of a folder of label maps, in memory: weights by any method, any number of times."""

    def __repr__(self) -> str:
        failed, images = self.failed(), len(self.rows.path)
        unread = f", {failed} of them unreadable" if failed else ""
        return (
            f"<LocalTable of {self.dataset}: {images} label maps{unread}, "
            f"{self.configuration.num_classes} classes>"
        )

    def weights(self, method: str | None = None, **params: Any) -> ClassWeights:
        """Return class weights, by default of `sqrt_inv_freq`; `params` are those of `WeightSpec`.

        What the answer warns of goes to the log "statsvc.local" as well. Raises `InvalidParameter`,
        `NotFound` for an unknown split, `Unanswerable`.
        """
        found = ClassWeights(weights_response(self, WeightSpec.from_params({"method": method, **params})))
        for warning in found.warnings:
            _log.warning("%s: %s", self.dataset, warning["message"])
        return found

    def sampling(self, sampler: str, **params: Any) -> Sampling:
        """Return how probable each image is for a sampler: `rare_class`, `repeat_factor`, `image_weights`.

        `params` are those of `GET /datasets/{name}/sampling`. Raises as `weights` does.
        """
        return result.of_table(self, sampler, params)


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
    max_pixels: int = 1 << 28,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalTable:
    """Count the label maps in a folder, a container, one file, or below a URL, exactly.

    pattern      glob of the files to count, such as "*_labelIds.png"; None looks what is there
    name         of the dataset, for answers; the folder's name if left out
    class_map    built-in name, file or `ClassMap`; None where the ids in the files are class ids
    class_names  names of the classes 0, 1, …
    ignore_index, num_classes  as in `WeightSpec`; by default 255 and negative ids are ignored, and the
                 highest id left decides how many classes there are
    splits       name → paths, or the name of a file with one a line, or a glob; or a file of JSON folds;
                 None makes train, val and test of folders of these names
    rule         what a class id is, where it is not the pixel's value: "id // 1000", a palette's name, or
                 a CSV file of a palette; see docs/reference/formats.md
    key          which array, member or column holds the labels, where a file has several
    rows         what one row of an NPY, HDF5 or Zarr array is: "array", "index" along its first axis, "chunk"
    max_pixels   a larger label map counts as unreadable
    workers      threads; by default one for each CPU this process may use
    progress     called with (samples done, samples) after each batch

    A label map that cannot be read is in `failures()` of the table and in the warnings of its weights.
    Raises `SourceError` where there is nothing to count (`AmbiguousSource` with patterns to choose from
    where there are several kinds of label map), `InvalidParameter` for a malformed argument, and
    `ImportError` where `statsvc[workers]` is not installed.
    """
    try:
        from statsvc_workers.cluster.machine import cores
        from statsvc_workers.cluster.tasks import CountOptions
        from statsvc_workers.sources.list_samples import list_samples
        from statsvc_workers.sources.sources import open_source
    except ModuleNotFoundError as problem:
        raise ImportError(
            f"counting label maps needs {problem.name}: pip install 'statsvc[workers]'", name=problem.name
        ) from problem

    threads = cores() if workers is None else workers
    if threads < 1:
        raise InvalidParameter(("workers", f"{workers} is not a number of threads; give 1 or more"))
    counting = read_counting(None if rule is None else os.fspath(rule), key, rows)
    configuration = _configuration(class_map, class_names, ignore_index, num_classes, splits)
    configuration = replace(configuration, counting=counting)
    source = open_source(os.fspath(location), pattern)
    listing = list_samples(source, counting)
    readable = [listing.sample(path) for path in listing.path if path not in listing.unreadable]
    batches = list(
        _count(CountOptions(source.root, max_pixels, "cpu", counting), readable, threads, progress)
    )

    raw_id, block = _assemble(list(listing.path), listing.unreadable, batches)
    if block.status.all():
        raise SourceError(
            f"none of the {len(block.path)} label maps in {source.root} could be read; the first, "
            f"{block.path[0]}: {block.error[0]}"
        )
    if splits is None:
        configuration = replace(configuration, splits=detect(listing.path))
    configuration = with_source_names(configuration, listing.class_names)
    if configuration.num_classes == 0:
        configuration = replace(configuration, num_classes=infer_num_classes(raw_id, configuration))
    return LocalTable(name or source.root.rpartition("/")[2], configuration, raw_id, block)


def _configuration(
    class_map: str | Path | ClassMap | None,
    class_names: Sequence[str],
    ignore_index: int | Sequence[int] | None,
    num_classes: int | None,
    splits: Mapping[str, Any] | str | Path | None,
) -> Configuration:
    if class_map is not None and not isinstance(class_map, ClassMap):
        class_map = class_map_files.resolve(os.fspath(class_map))
    asked = WeightSpec.from_params({"ignore_index": ignore_index, "num_classes": num_classes})
    if num_classes is not None and len(class_names) > num_classes:
        raise InvalidParameter(("class_names", f"{len(class_names)} names for {num_classes} classes"))
    return Configuration(
        num_classes=asked.num_classes or 0,
        class_names=tuple(class_names),
        ignore_index=asked.ignore_index,
        class_map=class_map,
        splits=_splits(splits),
    )


def _splits(splits: Mapping[str, Any] | str | Path | None) -> dict[str, Split]:
    if isinstance(splits, (str, Path)):
        return split_files.folds(Path(splits))
    given = dict(splits or {})
    files = {name: value for name, value in given.items() if isinstance(value, (str, Path))}
    lists = {name: value for name, value in given.items() if name not in files}
    read = {name: split_files.read(name, value) for name, value in files.items()}
    return read_splits(lists) | read


def _count(
    reading: CountOptions,
    paths: Sequence[str | Member],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[BatchResult]:
    """Yield the rows of every batch as it is done, with a bounded number of batches waiting."""
    from statsvc_workers.cluster.tasks import count_samples

    stop = threading.Event()
    size = _REMOTE_BATCH if is_url(reading.root) else _BATCH
    todo = (paths[start : start + size] for start in range(0, len(paths), size))
    with ThreadPoolExecutor(threads, "statsvc-count") as pool:
        try:
            window = {
                pool.submit(count_samples, reading, batch, stop.is_set)
                for batch in itertools.islice(todo, threads * _BATCHES_PER_THREAD)
            }
            done = 0
            while window:
                finished, window = wait(window, return_when=FIRST_COMPLETED)
                for batch in itertools.islice(todo, len(finished)):
                    window.add(pool.submit(count_samples, reading, batch, stop.is_set))
                for future in finished:
                    rows = future.result()
                    done += len(rows.path)
                    if progress is not None:
                        progress(done, len(paths))
                    yield rows
        except BaseException:
            # Ctrl-C, or a progress callback that fails: no further sample is begun.
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _assemble(
    paths: Sequence[str], unreadable: Mapping[str, str], batches: Sequence[BatchResult]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Block]:
    """Return the raw ids that occur, ascending, and one row for each path, in their order."""
    raw_id = np.unique(np.concatenate([np.zeros(0, np.int64), *(rows.ids for rows in batches)]))
    if len(raw_id) > MAX_IDS:
        raise Unanswerable(
            f"the label maps have {len(raw_id)} different ids, from {raw_id[0]} to {raw_id[-1]}: are they "
            "instance ids? Choose the files that hold class ids with pattern="
        )
    at = {path: row for row, path in enumerate(paths)}
    counts = np.zeros((len(paths), len(raw_id)), np.int64)
    status = np.zeros(len(paths), np.uint8)
    error = [unreadable.get(path, "") for path in paths]
    for rows in batches:
        place = np.array([at[path] for path in rows.path], np.int64)
        counts[np.repeat(place, np.diff(rows.offsets)), np.searchsorted(raw_id, rows.ids)] = rows.counts
        for path, reason in zip(rows.path, rows.error, strict=True):
            error[at[path]] = reason
    status[[row for row, reason in enumerate(error) if reason]] = 1
    return raw_id, Block(list(paths), status, error, counts)
