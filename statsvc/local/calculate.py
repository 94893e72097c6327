"""Class weights of a dataset of (image, label) in memory of a trainer: no server, no files to scan."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.classes import class_maps
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.table import MAX_IDS, Block, MemoryTable
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.local import counts_file
from statsvc.local.counts_file import Counts
from statsvc.local.estimate import share_intervals
from statsvc.local.fingerprint import fingerprint
from statsvc.local.labels import count_label, label_array
from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.display import print_class_table
from statsvc.weighting.methods import DEFAULT
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

    from statsvc.local.labels import Row

_log = logging.getLogger("statsvc.calculate")


def calculate_class_weights(
    dataset: Any,
    num_classes: int,
    device: torch.device | str | int | None = None,
    method: str = "sqrt_inv_freq",
    ignore_index: int | Sequence[int] | None = 255,
    beta: float | str = 0.9999,
    samples: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
    cache: str | Path | None = None,
    verbose: bool = True,
    **params: Any,
) -> torch.Tensor:
    """Count the labels of a dataset and return class weights, float32 [num_classes] on `device`.

    dataset       anything with a length and `dataset[i]` = (image, label, …); a label is a tensor, an
                  array or a PIL image of integer or bool class ids, of any shape
    method        as `GET /weights` knows them; `beta` is for `effective_num` only, and `params` are
                  other parameters of `WeightSpec` such as `normalize="none"` or `alpha=0.5`
    ignore_index  one id or several that are no class; `[]` counts every id, None ignores 255 and negatives
    samples       count that many labels, drawn with `seed` and without replacement, and call the result an
                  estimate with a 95 % interval of each share; None counts all labels, exactly
    num_workers   processes that read labels (a Torch `DataLoader`); the counts do not depend on it
    cache         a JSON file for the counts, kept by the dataset's fingerprint (see
                  `statsvc.local.fingerprint` for what it covers), `samples` and `seed`: any method is
                  computed from them
    verbose       print the table of classes and the warnings; else the warnings go to the log

    Raises `InvalidParameter` for a malformed parameter or a dataset that gives no class ids, `Unanswerable`
    where the counts do not answer the question. Warns where two reads of `dataset[0]` differ.
    """
    asked = {**params, "num_classes": num_classes, "ignore_index": ignore_index}
    if "recipe" not in params or method != DEFAULT:
        asked["method"] = method  # a recipe names its own
    if method == "effective_num":
        asked["beta"] = beta
    spec = WeightSpec.from_params(asked)
    _check_device(device)
    indices = _indices(dataset, samples, seed)
    if cache is not None and Path(cache).is_dir():
        raise InvalidParameter(("cache", f"{cache} is a folder; name a file in it, such as counts.json"))
    if not np.array_equal(label_array(dataset, 0), label_array(dataset, 0)):
        warnings.warn(
            "two reads of dataset[0] gave different labels: is there a random augmentation? The weights then "
            "depend on chance; give a dataset without random transforms",
            UserWarning,
            stacklevel=2,
        )
    counts = _counted(dataset, indices, seed, num_workers, None if cache is None else Path(cache), verbose)
    table = _table(dataset, counts)
    answer = weights_response(table, spec)
    if not table.exact:
        _add_intervals(answer, table, len(dataset))
    if verbose:
        print_class_table(answer)
    else:
        for warning in answer["warnings"]:
            _log.warning("%s: %s", answer["dataset"], warning["message"])
    result = ClassWeights(answer)
    result.warn_if_not_weights()
    return result.tensor(device)


def _check_device(device: Any) -> None:
    """Raise `InvalidParameter` for what Torch cannot put weights on, before anything is counted."""
    try:
        import torch
    except ImportError:
        return  # said where the tensor is made

    try:
        torch.empty(1, device=device)
    except (RuntimeError, TypeError, AssertionError) as problem:
        first = str(problem).partition("\n")[0]
        raise InvalidParameter(
            ("device", f"{device!r}: {first}; give for instance 'cuda', 'cpu', or None")
        ) from None


def _indices(dataset: Any, samples: int | None, seed: int) -> list[int]:
    """Return the indices to count, ascending."""
    kind = type(dataset).__name__
    if not hasattr(type(dataset), "__len__") or not hasattr(type(dataset), "__getitem__"):
        raise InvalidParameter(
            (
                "dataset",
                f"{kind} has no length or no dataset[i], so its labels cannot be counted once each; give "
                "the dataset behind a loader, or a list such as list(itertools.islice(dataset, 1000))",
            )
        )
    length = len(dataset)
    if length == 0:
        raise InvalidParameter(("dataset", f"{kind} is empty: there is no label to count"))
    if samples is None:
        return list(range(length))
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 2:
        raise InvalidParameter(
            ("samples", f"{samples!r} is not a number of labels; give 2 or more, or None for all")
        )
    if samples >= length:
        return list(range(length))
    drawn = np.random.default_rng(seed).choice(length, samples, replace=False)
    return sorted(int(index) for index in drawn)


def _counted(
    dataset: Any, indices: list[int], seed: int, num_workers: int, cache: Path | None, verbose: bool
) -> Counts:
    """Return the counts of the labels at `indices`, from the cache where it has them."""
    if cache is None:
        return _count(dataset, indices, num_workers, verbose)
    drawn = None if len(indices) == len(dataset) else (len(indices), seed)
    request = json.dumps([fingerprint(dataset), drawn])
    key = hashlib.sha256(request.encode()).hexdigest()
    counts = counts_file.load(cache, key)
    if counts is None:
        counts = _count(dataset, indices, num_workers, verbose)
        counts_file.store(cache, key, counts)
    return counts


class _Counting:
    """A map-style dataset of counted labels: it counts where it is read, in a worker process too."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> Row | InvalidParameter:
        index = self.indices[k]
        try:
            return count_label(label_array(self.dataset, index), index)
        except InvalidParameter as problem:
            # Returned, because a DataLoader raises a worker's exceptions in another form.
            return problem


def _count(dataset: Any, indices: list[int], num_workers: int, verbose: bool) -> Counts:
    counting = _Counting(dataset, indices)
    one_by_one = (counting[k] for k in range(len(counting)))
    rows = _loader(counting, num_workers) if num_workers else one_by_one
    offsets, ids, counts = [0], [], []
    for row in _shown(rows, len(indices), verbose):
        if isinstance(row, InvalidParameter):
            raise row
        ids.append(row[0])
        counts.append(row[1])
        offsets.append(offsets[-1] + len(row[0]))
    return Counts(indices, offsets, np.concatenate(ids).tolist(), np.concatenate(counts).tolist())


def _loader(counting: _Counting, num_workers: int) -> Iterable[Any]:
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        counting,  # type: ignore[arg-type]  # a length and [] are all it uses
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        # A generator of its own: the trainer's random numbers stay those it would have had.
        generator=torch.Generator(),
    )


def _as_it_is(row: Any) -> Any:
    return row


def _shown(rows: Iterable[Any], total: int, verbose: bool) -> Iterator[Any]:
    """Yield the rows, with a progress bar while a person watches."""
    if not (verbose and sys.stderr.isatty()):
        yield from rows
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(rows, "counting labels", total=total, console=console, transient=True)


def _table(dataset: Any, counts: Counts) -> MemoryTable:
    raw_ids, column = np.unique(np.array(counts.ids, np.int64), return_inverse=True)
    if len(raw_ids) > MAX_IDS:
        raise Unanswerable(
            f"the labels have {len(raw_ids)} different ids, from {raw_ids[0]} to {raw_ids[-1]}: are they "
            "instance ids? Give class ids"
        )
    dense = np.zeros((len(counts.indices), len(raw_ids)), np.int64)
    dense[np.repeat(np.arange(len(dense)), np.diff(counts.offsets)), column] = counts.counts
    block = Block(
        [f"sample {index}" for index in counts.indices],
        np.zeros(len(dense), np.uint8),
        [""] * len(dense),
        dense,
    )
    exact = len(counts.indices) == len(dataset)
    return MemoryTable(type(dataset).__name__, Configuration(), raw_ids, block, exact)


def _add_intervals(answer: dict[str, Any], table: MemoryTable, images: int) -> None:
    """Put `interval`, [low, high] of the share at 95 %, in every class of the answer that is counted."""
    spec, raw_ids, rows = answer["spec"], table.raw_ids(), table.rows.counts
    class_ids, known = raw_ids, np.ones(len(raw_ids), bool)
    if spec["class_map"] != "none":
        class_ids, known = class_maps.builtin(spec["class_map"]).apply(raw_ids)
    counted = known & (class_ids >= 0) & (class_ids < spec["num_classes"])
    counted &= ~np.isin(class_ids, spec["ignore_index"])
    pixels = np.zeros((len(rows), spec["num_classes"]), np.int64)
    for k in np.flatnonzero(counted):
        pixels[:, class_ids[k]] += rows[:, k]
    total = (pixels if spec["denominator"] == "counted" else rows).sum(axis=1)
    for row, interval in zip(answer["classes"], share_intervals(pixels, total, images).tolist(), strict=True):
        if not row.get("ignored"):
            row["interval"] = interval
