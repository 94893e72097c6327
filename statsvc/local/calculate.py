"""Class weights of a Torch-style dataset of (image, label) pairs, computed in the training process."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.plain_values import plain
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.memory_table import MemoryTable
from statsvc.dataset.table import MAX_IDS, Block
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.local import counts_file
from statsvc.local.counts_file import Counts
from statsvc.local.fingerprint import fingerprint
from statsvc.local.labels import count_label, label_array
from statsvc.local.notebook import notebook_bar
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
    """Count the labels of a dataset and return class weights: float32 [num_classes] on `device`.

    dataset       object with `len(dataset)` and `dataset[i]` = (image, label, …); a label is a tensor, an
                  array or a PIL image of class ids: integer or bool, of any shape
    num_classes   length of the weights
    method        weighting method, as in `GET /weights`
    beta          β of `effective_num`; other methods ignore it
    ignore_index  one class id or several that are not counted; `[]` counts every id, None ignores 255 and
                  negative ids
    samples       number of labels to count, drawn without replacement; the result is then an estimate, with
                  a 95 % interval of the share of each class that occurs in enough of them. None counts all
                  labels, exactly
    seed          seed of the draw
    num_workers   number of processes that read labels (a Torch `DataLoader`); it does not change the counts
    cache         JSON file that stores the counts. An entry is reused for any method if the dataset's
                  fingerprint (see `statsvc.local.fingerprint`), `samples` and `seed` are the same. A changed
                  label is noticed if its file is in a list of paths, or below a folder, that is an attribute
                  of the dataset, and has another size or modification time; otherwise only by chance
    verbose       print the table of classes and the warnings; otherwise warnings go to the log
                  "statsvc.calculate"
    params        further parameters of `WeightSpec`, such as `normalize="none"` or `alpha=0.5`

    Raises `InvalidParameter` for a malformed parameter, or a dataset whose labels are not class ids, and
    `Unanswerable` if the counts do not determine the weights. Warns if two reads of `dataset[0]` differ.
    """
    spec = _spec(params, num_classes=num_classes, ignore_index=ignore_index, method=method, beta=beta)
    _check_device(device)
    seed = plain(seed)
    indices = _indices(dataset, samples, seed)
    if cache is not None and Path(cache).is_dir():
        raise InvalidParameter(("cache", f"{cache} is a folder. Name a file in it, such as counts.json."))
    if not np.array_equal(label_array(dataset, 0), label_array(dataset, 0)):
        warnings.warn(
            "Two reads of dataset[0] returned different labels, so the weights depend on chance. Pass a "
            "dataset without random augmentation.",
            UserWarning,
            stacklevel=2,
        )
    counts = _load_or_count(
        dataset, indices, seed, num_workers, None if cache is None else Path(cache), verbose
    )
    table = _table(dataset, counts)
    answer = weights_response(table, spec)
    if verbose:
        print_class_table(answer)
    else:
        for warning in answer["warnings"]:
            _log.warning("%s: %s", answer["dataset"], warning["message"])
    result = ClassWeights(answer)
    result.warn_if_not_weights()
    return result.tensor(device)


def _spec(
    params: dict[str, Any], *, num_classes: int, ignore_index: Any, method: str, beta: float | str
) -> WeightSpec:
    """Return the weights request. Raises `InvalidParameter`."""
    request = {**params, "num_classes": num_classes, "ignore_index": ignore_index}
    if "recipe" not in params or method != DEFAULT:
        request["method"] = method  # a recipe sets the method unless the caller does
    if method == "effective_num":
        request["beta"] = beta
    return WeightSpec.from_params(request)


def _check_device(device: Any) -> None:
    """Raise `InvalidParameter` for a device without Torch support, before anything is counted."""
    try:
        import torch
    except ImportError:
        return  # reported where the tensor is created

    try:
        torch.empty(1, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidParameter(
            ("device", f"Torch rejected {device!r}: {reason}. Use for example 'cuda', 'cpu' or None.")
        ) from None


def _indices(dataset: Any, samples: int | None, seed: int) -> list[int]:
    """Return the indices to count, ascending."""
    name = type(dataset).__name__
    if not hasattr(type(dataset), "__len__") or not hasattr(type(dataset), "__getitem__"):
        raise InvalidParameter(
            (
                "dataset",
                f"{name} does not support len(dataset) and dataset[i], so its labels cannot be counted once "
                "each. Pass the dataset behind a loader, or list(itertools.islice(dataset, 1000)).",
            )
        )
    length = len(dataset)
    if length == 0:
        raise InvalidParameter(("dataset", f"{name} is empty, so there is no label to count."))
    if samples is None:
        return list(range(length))
    samples = plain(samples)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise InvalidParameter(
            ("samples", f"{samples!r} is not a number of labels. Use 2 or more, or None for all labels.")
        )
    if samples >= length:
        return list(range(length))
    drawn = np.random.default_rng(seed).choice(length, samples, replace=False)
    return sorted(int(index) for index in drawn)


def _load_or_count(
    dataset: Any, indices: list[int], seed: int, num_workers: int, cache: Path | None, verbose: bool
) -> Counts:
    """Return the counts of the labels at `indices`, from the cache if it contains them."""
    if cache is None:
        return _count(dataset, indices, num_workers, verbose)
    draw = None if len(indices) == len(dataset) else (len(indices), seed)
    key = hashlib.sha256(json.dumps([fingerprint(dataset), draw]).encode()).hexdigest()
    counts = counts_file.load(cache, key)
    if counts is None:
        counts = _count(dataset, indices, num_workers, verbose)
        counts_file.store(cache, key, counts)
    return counts


class _LabelCounts:
    """A map-style dataset whose items are counted labels, so that `DataLoader` workers count them."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> Row | InvalidParameter:
        index = self.indices[k]
        try:
            return count_label(label_array(self.dataset, index), index)
        except InvalidParameter as error:
            # A DataLoader would replace an exception raised in a worker, so return it.
            return error


def _count(dataset: Any, indices: list[int], num_workers: int, verbose: bool) -> Counts:
    label_counts = _LabelCounts(dataset, indices)
    rows: Iterable[Row | InvalidParameter] = (label_counts[k] for k in range(len(label_counts)))
    if num_workers:
        rows = _loader(label_counts, num_workers)
    offsets, ids, counts = [0], [], []
    for row in _with_progress_bar(rows, len(indices), verbose):
        if isinstance(row, InvalidParameter):
            raise row
        ids.append(row[0])
        counts.append(row[1])
        offsets.append(offsets[-1] + len(row[0]))
    return Counts(indices, offsets, np.concatenate(ids).tolist(), np.concatenate(counts).tolist())


def _loader(label_counts: _LabelCounts, num_workers: int) -> Iterable[Any]:
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        label_counts,  # type: ignore[arg-type]  # DataLoader needs only __len__ and __getitem__
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_identity,
        # A separate generator keeps the training script's random numbers unchanged.
        generator=torch.Generator(),
    )


def _identity(row: Any) -> Any:
    return row


def _with_progress_bar(rows: Iterable[Any], total: int, verbose: bool) -> Iterator[Any]:
    """Yield the rows; show a progress bar in a notebook, or on stderr if it is a terminal."""
    bar = notebook_bar("labels") if verbose else None
    if bar is not None:
        for done, row in enumerate(rows, 1):
            yield row
            bar(done, total)
        return
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
            f"The labels have {len(raw_ids)} different ids, from {raw_ids[0]} to {raw_ids[-1]}, but at most "
            f"{MAX_IDS} are supported. Instance ids are a common cause: return class ids instead."
        )
    dense = np.zeros((len(counts.indices), len(raw_ids)), np.int64)
    dense[np.repeat(np.arange(len(dense)), np.diff(counts.offsets)), column] = counts.counts
    block = Block(
        [f"sample {index}" for index in counts.indices],
        np.zeros(len(dense), np.uint8),
        [""] * len(dense),
        dense,
    )
    sampled_from = None if len(counts.indices) == len(dataset) else len(dataset)
    return MemoryTable(type(dataset).__name__, Configuration(), raw_ids, block, sampled_from)
