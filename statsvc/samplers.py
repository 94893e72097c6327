"""Samplers for `torch.utils.data.DataLoader` that draw images, or crops, with rare classes more often.

::

    from statsvc.samplers import RareClassSampler

    sampler = RareClassSampler(label_paths, "http://stats:8000", dataset="camvid", split="train")
    loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        for images, labels in loader: ...

`label_paths[i]` is the path of the label map of `dataset[i]`. See `docs/how-to/sample-rare-classes.md`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.client.distributed import from_rank_zero
from statsvc.common.plain_values import plain
from statsvc.dataset.splits import from_dict
from statsvc.errors import InvalidParameter, nearest
from statsvc.sampling import path_join
from statsvc.sampling.result import Sampling

try:
    import torch.distributed as dist
    from torch.utils.data import DistributedSampler
except ModuleNotFoundError as error:
    raise ImportError("PyTorch is not installed. Run: pip install 'statsvc[torch]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.client.client import Client
    from statsvc.dataset.splits import Split
    from statsvc.local.scan import LocalTable
    from statsvc.sampling.patches import Patches
    from statsvc.weighting.class_weights import ClassWeights

    Int64 = NDArray[np.int64]

__all__ = [
    "ImageWeightSampler",
    "PatchSampler",
    "RareClassSampler",
    "RepeatFactorSampler",
    "StatisticsSampler",
    "crop",
]

_log = logging.getLogger("statsvc.samplers")


class StatisticsSampler(DistributedSampler[int]):
    """Base of the samplers: draws dataset indices with probabilities that follow from the statistics.

    Use one of its subclasses. They are subclasses of PyTorch's `DistributedSampler`, so that frameworks such
    as Lightning do not distribute their indices a second time.

    paths         path of the label map of each item, in the order of the PyTorch dataset
    source        URL of a server, a `Client`, the result of `statsvc.scan`, or a `Sampling`; default
                  STATSVC_URL
    dataset       name of the dataset on the server; not needed if the server has only one
    version       version number or tag; default: the newest version
    sync          makes the constructor a collective of torch.distributed, as in `Client.weights`: rank 0
                  sends the request for all ranks. By default each rank sends its own request, and ranks may
                  get different versions
    seed          integer of at least 0. Seed and epoch determine every draw, independent of the number of
                  ranks
    num_samples   draws per epoch over all ranks; default: one for each path
    rank          rank of this process; default: that of torch.distributed when iteration starts, else 0
    num_replicas  number of ranks; default: that of torch.distributed when iteration starts, else 1
    root          the folder that was scanned, needed if paths are ambiguous (`statsvc.sampling.path_join`)
    unmatched     treatment of a path without statistics: "error", "skip" (it is never drawn), or "average"
                  (it is drawn as often as an average image)
    params        parameters of `GET /datasets/{name}/sampling`: split, ignore_index, and those of the sampler

    Rank r of R takes the draws r, r + R, r + 2R, … of the epoch. If R does not divide the number of draws,
    the first draws are repeated at the end, so that every rank has the same number of them. In a `DataLoader`
    of Accelerate (`prepare`, the `Trainer` of Transformers), which distributes the draws itself, every rank
    yields all of them. Iterating warns if the ranks of the process group would draw the same indices.

    Raises `InvalidParameter` for paths without statistics and for malformed arguments, and the errors of
    `Client.sampling`.
    """

    sampler: str
    sampling: Sampling

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        source: str | Client | LocalTable | Sampling | None = None,
        *,
        dataset: str | None = None,
        version: int | str | None = None,
        sync: bool = False,
        seed: int = 0,
        num_samples: int | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
        root: str | os.PathLike[str] | None = None,
        unmatched: str = "error",
        **params: Any,
    ) -> None:
        # Without DistributedSampler.__init__, which requires a process group and a PyTorch dataset.
        self._given_rank = _checked_rank(rank, num_replicas)
        if unmatched not in path_join.UNMATCHED:
            known = path_join.UNMATCHED
            raise InvalidParameter(
                ("unmatched", f"must be one of {', '.join(known)}{nearest(str(unmatched), known)}")
            )
        self.seed, self.epoch = _checked_integer("seed", seed, minimum=0), 0
        sampler = self.sampler

        def request() -> Sampling:
            return _sampling_of(source, sampler, dataset, version, params)

        self.sampling = from_rank_zero(request) if sync else request()
        self._scores = path_join.probabilities(
            paths, self.sampling, root, unmatched, lambda: _paths_and_splits(source, self.sampling)
        )
        self._items = len(self._scores)
        self._dataset, self._version = self.sampling.dataset, self.sampling.version
        draws = self._default_draws() if num_samples is None else num_samples
        self.num_samples = _checked_integer("num_samples", draws, minimum=1)
        self._start = 0  # draws of the epoch, over all ranks, from before the current iterator
        self._yielded = 0  # indices that the current iterator of this rank has yielded
        self._finished = False
        self._ranks_of_iterator = 1
        if self.num_replicas > 1:
            _log.info("rank %d: %r, digest %s", self.rank, self, self.digest)

    @property
    def rank(self) -> int:  # type: ignore[override]  # an attribute of DistributedSampler
        """The rank of this process."""
        return self._rank_and_replicas()[0]

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """The number of ranks."""
        return self._rank_and_replicas()[1]

    def _rank_and_replicas(self) -> tuple[int, int]:
        """Return rank and number of ranks now: the process group may be initialized after the constructor."""
        if self._given_rank is not None:
            return self._given_rank
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    def _share(self, by_accelerate: bool) -> tuple[int, int]:
        """Return which draws to yield, as `_rank_and_replicas`: all if Accelerate distributes them."""
        if not by_accelerate:
            return self._rank_and_replicas()
        if self._given_rank is not None and self._given_rank[1] > 1:
            raise InvalidParameter(
                (
                    "num_replicas",
                    f"is {self._given_rank[1]}, but Accelerate distributes the indices of this sampler over "
                    "the ranks, so they would be distributed twice; leave out rank and num_replicas",
                )
            )
        return 0, 1

    def _default_draws(self) -> int:
        return len(self._scores)

    def _draw(self, random: np.random.Generator) -> Int64:
        """Return the indices of one epoch, int64 [num_samples], the same on every rank."""
        return _inverse_cdf(self._scores, random.random(self.num_samples))

    def _item(self, drawn: Any) -> Any:
        """Return what the iterator yields for one row of `_draw`."""
        return drawn

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._items} items, {self._dataset} version {self._version}: "
            f"{self.num_samples} draws, seed {self.seed}, epoch {self.epoch}, rank {self.rank} of "
            f"{self.num_replicas}>"
        )

    @property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each item, float64 [len(paths)], in the order of the dataset; the sum is 1."""
        return np.asarray(self._scores / self._scores.sum())

    def __len__(self) -> int:
        """Return how many indices the next iterator of this rank yields; fewer after resuming an epoch."""
        start = 0 if self._finished else self._start
        return math.ceil((self.num_samples - start) / self._share(_distributed_by_accelerate())[1])

    def __iter__(self) -> Iterator[int]:
        by_accelerate = _distributed_by_accelerate()
        rank, ranks = self._share(by_accelerate)
        if not by_accelerate:
            _warn_if_ranks_draw_the_same(ranks)
        if self._finished:
            self._start, self._finished = 0, False
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch])))
        remaining = self._draw(random)[self._start :]
        padding = -len(remaining) % ranks
        padded = remaining[np.arange(len(remaining) + padding) % max(1, len(remaining))]
        self._yielded, self._ranks_of_iterator = 0, ranks
        for drawn in padded[rank::ranks].tolist():
            self._yielded += 1
            yield self._item(drawn)
        self._finished = True

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch for the next iterator, which starts at the beginning of the epoch.

        If it is the epoch that `load_state_dict` resumed, the position within the epoch stays.
        """
        if epoch != self.epoch:
            self._seek(epoch, 0)

    def _seek(self, epoch: int, start: int) -> None:
        self.epoch, self._start, self._yielded, self._finished = epoch, start, 0, False

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return the position within the epoch for `load_state_dict`.

        consumed  indices that this rank has trained on since the epoch began or was resumed; default: those
                  that the iterator has yielded. A `DataLoader` with workers prefetches, so it yields more
                  than that: give the number of trained batches times the batch size
        """
        own, ranks = (
            (self._yielded, self._ranks_of_iterator) if consumed is None else (consumed, self.num_replicas)
        )
        return {
            "epoch": self.epoch,
            "done": min(self._start + own * ranks, self.num_samples),
            "seed": self.seed,
            "num_samples": self.num_samples,
            "sampler": self.sampler,
            "dataset": self._dataset,
            "version": self._version,
            "digest": self.digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called, on any number of ranks; after a whole epoch, with the next.

        Raises `InvalidParameter` if this sampler draws something else: if the sampler, the seed, the number
        of draws, the probabilities or the order of the paths differ.
        """
        own_state = self.state_dict()
        for name in ("sampler", "seed", "num_samples", "digest"):
            if state.get(name) != own_state[name]:
                raise InvalidParameter(
                    (
                        name,
                        f"is {state.get(name)!r} in the state, but {own_state[name]!r} in this sampler. The "
                        f"state belongs to {state.get('sampler')} on {state.get('dataset')} version "
                        f"{state.get('version')} with seed {state.get('seed')}; create it with these "
                        "and with the same paths in the same order",
                    )
                )
        epoch, done = int(state["epoch"]), int(state["done"])
        self._seek(*((epoch, done) if done < self.num_samples else (epoch + 1, 0)))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of a hash over the probabilities of all items, in the dataset's order."""
        # Rounded to 12 digits, because the last bits can differ between processors.
        text = ",".join(f"{q:.12g}" for q in self.probability.tolist())
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class RareClassSampler(StatisticsSampler):
    """Rare class sampling as in DAFormer (Hoyer et al. 2022).

    Draws a class with probability softmax((1 − p)/temperature), where p is the share of pixels of each class,
    and then an image that contains the class. Draws are independent, so an image can occur any number of
    times in an epoch.

    Arguments are those of `StatisticsSampler`; params: temperature (default 0.01) and min_pixels ("auto").
    """

    sampler = "rare_class"


class ImageWeightSampler(StatisticsSampler):
    """Draws images in proportion to the mean class weight of their pixels.

    Draws are independent, as in `torch.utils.data.WeightedRandomSampler` with replacement, but without its
    limit of 2^24 images.

    Arguments are those of `StatisticsSampler`; params: those of class weights, such as
    `method="inverse_freq"`.
    """

    sampler = "image_weights"


class RepeatFactorSampler(StatisticsSampler):
    """Repeat factor sampling as in LVIS (Gupta et al. 2019): images with a rare class occur more than once.

    By default, an epoch has as many draws as the sum of all repeat factors, rounded up, so every epoch has
    the same length. An image with repeat factor r occurs ⌊r'⌋ or ⌈r'⌉ times per epoch, r' times on average,
    with r' = r · num_samples / (sum of all repeat factors).

    Arguments are those of `StatisticsSampler`; params: threshold (default 0.001).
    """

    sampler = "repeat_factor"

    def _default_draws(self) -> int:
        # A probability times `epoch`, the sum of all repeat factors, is the repeat factor of an image.
        # The sum over the given paths is rounded before `ceil`, because it has a floating-point error.
        return math.ceil(round(float(self._scores.sum() * self.sampling.epoch), 6))

    def _draw(self, random: np.random.Generator) -> Int64:
        # Systematic sampling over the images in random order: one random offset, then equal steps.
        order = random.permutation(len(self._scores))
        steps = (np.arange(self.num_samples) + random.random()) / self.num_samples
        drawn: Int64 = order[_inverse_cdf(self._scores[order], steps)]
        return drawn[random.permutation(self.num_samples)]


class PatchSampler(StatisticsSampler):
    """Draws (index, window): an image and a crop of it that contains a class, rare classes more often.

    ::

        sampler = PatchSampler(label_paths, "http://stats:8000", dataset="camvid", crop=(256, 256))

        class Crops(torch.utils.data.Dataset):
            def __getitem__(self, item):
                index, window = item
                return crop(self.images[index], window), crop(self.labels[index], window)

    First a class is drawn, then a tile of the grid in proportion to the pixels of the class in it, then a
    window inside the image, uniformly among those that contain the tile. A window that is smaller than the
    tile lies in it instead, so it may miss the class. A window is (top, left, height, width) in pixels; it is
    smaller than `crop` where the image is. Draws are independent.

    paths          path of the label map of each item, in the order of the PyTorch dataset
    source         URL of a server, a `Client`, or the result of `statsvc.scan`; default STATSVC_URL. The
                   dataset must have been counted on a grid
    crop           (height, width) of a window
    probabilities  class name or id → probability of drawing the class, in any scale; by default those of
                   rare-class sampling, softmax((1 − p)/temperature) with the share of pixels p
    temperature    temperature of the softmax
    min_pixels     pixels of the class that a tile must have
    num_samples    draws per epoch over all ranks; default: one for each path
    params         `split` and `class_map`

    The other arguments, seeds, ranks and `state_dict` are as in `StatisticsSampler`. Tiles of images that are
    not among `paths` are never drawn.

    Raises `InvalidParameter` for malformed arguments and where no tile with a class is in `paths`, and the
    errors of `Client.patches`.
    """

    sampler = "patches"

    def __init__(  # not that of the base class: there are no probabilities of whole images
        self,
        paths: Sequence[str | os.PathLike[str]],
        source: str | Client | LocalTable | None = None,
        *,
        crop: tuple[int, int],
        dataset: str | None = None,
        version: int | str | None = None,
        probabilities: Mapping[str | int, float] | None = None,
        temperature: float = 0.01,
        min_pixels: int = 1,
        seed: int = 0,
        num_samples: int | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
        root: str | os.PathLike[str] | None = None,
        **params: Any,
    ) -> None:
        self._given_rank = _checked_rank(rank, num_replicas)
        self.crop = (
            _checked_integer("crop", crop[0], minimum=1),
            _checked_integer("crop", crop[1], minimum=1),
        )
        self.seed, self.epoch = _checked_integer("seed", seed, minimum=0), 0
        draws = len(paths) if num_samples is None else num_samples
        self.num_samples = _checked_integer("num_samples", draws, minimum=1)
        self._start = self._yielded = 0
        self._finished, self._ranks_of_iterator = False, 1
        weights, patches_of = _patch_source(source, dataset, version, min_pixels, params)
        counted = [row for row in weights.classes if not row.get("ignored") and not row.get("absent")]
        wanted = _class_probabilities(counted, probabilities, temperature)
        self._classes: list[tuple[float, Int64]] = []
        for class_id, probability in wanted.items():
            tiles = patches_of(class_id)
            known_paths = sorted(set(tiles.paths))
            matches = path_join.join(paths, known_paths, root)
            item_of = {known_paths[k]: item for item, k in enumerate(matches.tolist()) if k >= 0}
            items = np.array([item_of.get(path, -1) for path in tiles.paths], np.int64)
            known = np.column_stack([items, tiles.values])[items >= 0]
            if len(known):
                self._classes.append((probability, known))
        if not self._classes:
            raise InvalidParameter(("paths", "no tile with one of the classes is in an image of paths"))
        self._items, self._dataset, self._version = len(paths), weights.dataset, weights.version

    def _draw(self, random: np.random.Generator) -> Int64:
        """Return item, top, left, height and width of every draw of an epoch, int64 [num_samples, 5]."""
        chance = np.array([probability for probability, _ in self._classes])
        chosen = _inverse_cdf(chance, random.random(self.num_samples))
        quantiles = random.random((3, self.num_samples))
        drawn = np.zeros((self.num_samples, 5), np.int64)
        for k, (_, tiles) in enumerate(self._classes):
            rows = np.flatnonzero(chosen == k)
            # The last column has the pixels of the class.
            tile = tiles[_inverse_cdf(tiles[:, 7].astype(np.float64), quantiles[0, rows])]
            item, top, left, height, width, image_height, image_width, _ = tile.T
            vertical = _window(top, height, image_height, self.crop[0], quantiles[1, rows])
            horizontal = _window(left, width, image_width, self.crop[1], quantiles[2, rows])
            drawn[rows] = np.column_stack([item, vertical[0], horizontal[0], vertical[1], horizontal[1]])
        return drawn

    def _item(self, drawn: list[int]) -> tuple[int, tuple[int, ...]]:
        return drawn[0], tuple(drawn[1:])

    @property
    def probability(self) -> NDArray[np.float64]:
        """Not known: a patch sampler draws windows, not whole images. Raises `TypeError`."""
        raise TypeError("a PatchSampler has no probability for each image")

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of a hash over the tiles, the probabilities of the classes and the crop."""
        text = hashlib.sha256(repr(self.crop).encode())
        for probability, tiles in self._classes:
            text.update(f"{probability:.12g}".encode() + tiles.astype("<i8").tobytes())
        return text.hexdigest()[:16]


def crop(image: Any, window: tuple[int, int, int, int]) -> Any:
    """Return the part of an image in a window (top, left, height, width).

    image  a PyTorch tensor [..., H, W], a NumPy array [H, W] or [H, W, channels], or a PIL image
    """
    top, left, height, width = window
    if hasattr(image, "crop"):
        return image.crop((left, top, left + width, top + height))
    rows, columns = slice(top, top + height), slice(left, left + width)
    return image[rows, columns] if isinstance(image, np.ndarray) else image[..., rows, columns]


def _window(
    start: Int64, length: Int64, size: Int64, crop_length: int, quantiles: NDArray[np.float64]
) -> tuple[Int64, Int64]:
    """Return start and length of windows along one axis, given those of tiles and the sizes of the images."""
    window = np.minimum(crop_length, size)
    low, high = np.maximum(0, start + length - window), np.minimum(start, size - window)
    # A window that is smaller than its tile lies inside it.
    low, high = np.minimum(low, high), np.maximum(low, high)
    return low + (quantiles * (high - low + 1)).astype(np.int64), window


def _patch_source(
    source: str | Client | LocalTable | None,
    dataset: str | None,
    version: int | str | None,
    min_pixels: int,
    params: Mapping[str, Any],
) -> tuple[ClassWeights, Callable[[int], Patches]]:
    """Return class weights, for the shares of the classes, and a function from a class id to its tiles."""
    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    if isinstance(source, LocalTable):
        if version is not None or dataset not in (None, source.dataset):
            raise InvalidParameter(
                ("dataset", f"the source is the scan {source.dataset}; leave out dataset and version")
            )
        table = source
        return (
            table.weights("uniform", **params),
            lambda class_id: table.patches(class_id, min_pixels=min_pixels, **params),
        )
    client = Client(source) if source is None or isinstance(source, str) else source
    weights = client.weights(dataset, version=version, method="uniform", **params)
    return weights, lambda class_id: client.patches(
        weights.dataset, class_id=class_id, version=weights.version, min_pixels=min_pixels, **params
    )


def _class_probabilities(
    counted: Sequence[Mapping[str, Any]],
    probabilities: Mapping[str | int, float] | None,
    temperature: float,
) -> dict[int, float]:
    """Return class id → probability; classes with probability 0 are left out."""
    if probabilities is None:
        shares = np.array([row["frequency"] for row in counted])
        odds = np.exp((shares.min() - shares) / temperature)
        return dict(zip((row["id"] for row in counted), (odds / odds.sum()).tolist(), strict=True))
    id_of = {key: row["id"] for row in counted for key in (row["id"], row["name"])}
    wanted: dict[int, float] = {}
    for key, value in probabilities.items():
        if key not in id_of or not (math.isfinite(value) and value >= 0):
            raise InvalidParameter(
                ("probabilities", f"{key!r}: {value!r} must be a counted class and a number of at least 0")
            )
        if value > 0:
            wanted[id_of[key]] = wanted.get(id_of[key], 0.0) + float(value)
    return wanted


def _inverse_cdf(scores: NDArray[np.float64], quantiles: NDArray[np.float64]) -> Int64:
    """Return the index at which the cumulative distribution of the scores exceeds each quantile in [0, 1).

    It is computed in float64, so it has no limit of 2^24 entries, unlike `torch.multinomial`.
    """
    cumulative = np.cumsum(scores)
    last = int(np.flatnonzero(scores)[-1])
    index = np.searchsorted(cumulative, quantiles * cumulative[-1], side="right")
    clipped: Int64 = np.minimum(index, last).astype(np.int64)
    return clipped


def _checked_integer(name: str, value: Any, minimum: int) -> int:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < minimum:
        raise InvalidParameter((name, f"must be an integer of at least {minimum}, not {value!r}"))
    return number


def _checked_rank(rank: int | None, num_replicas: int | None) -> tuple[int, int] | None:
    """Return both, or None without them. Raises `InvalidParameter` for others."""
    rank, num_replicas = plain(rank), plain(num_replicas)
    if rank is None and num_replicas is None:
        return None
    if rank is None or num_replicas is None or not 0 <= rank < num_replicas:
        raise InvalidParameter(
            (
                "rank",
                f"is {rank} and num_replicas is {num_replicas}; give both, rank in 0 … num_replicas - 1, "
                "or neither",
            )
        )
    return rank, num_replicas


def _distributed_by_accelerate() -> bool:
    """Return whether a loader of Accelerate, which gives each rank its part of the indices, is the caller.

    Accelerate also does this to subclasses of `DistributedSampler` and tells samplers nothing about it, so
    the call stack is the only evidence.
    """
    accelerate = sys.modules.get("accelerate.data_loader")
    if accelerate is None:
        return False
    loaders = (accelerate.BatchSamplerShard, accelerate.DataLoaderDispatcher)
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_globals is vars(accelerate) and isinstance(frame.f_locals.get("self"), loaders):
            return True
        frame = frame.f_back
    return False


def _warn_if_ranks_draw_the_same(ranks: int) -> None:
    """Warn if an iterator divides its draws by `ranks` = 1, but the launcher started more processes."""
    initialized = dist.is_available() and dist.is_initialized()
    processes = str(dist.get_world_size()) if initialized else os.environ.get("WORLD_SIZE") or "1"
    if ranks == 1 and processes != "1":
        reason = (
            "num_replicas is 1. Leave out rank and num_replicas"
            if initialized
            else "torch.distributed is not initialized. Call init_process_group before iterating"
        )
        warnings.warn(
            f"each of the {processes} processes draws the same indices, because {reason}",
            UserWarning,
            stacklevel=3,
        )


def _sampling_of(
    source: str | Client | LocalTable | Sampling | None,
    sampler: str,
    dataset: str | None,
    version: int | str | None,
    params: Mapping[str, Any],
) -> Sampling:
    """Return the probabilities of a source, and log the warnings that come with them."""
    if source is None or isinstance(source, str):
        from statsvc.client.client import Client

        source = Client(source)
    if isinstance(source, Sampling):
        if source.sampler != sampler:
            raise InvalidParameter(("source", f"has probabilities for {source.sampler}, not for {sampler}"))
        arguments = {**params, "dataset": dataset, "version": version}
        redundant = [name for name, value in arguments.items() if value is not None]
        if redundant:
            raise InvalidParameter(
                *((name, "is already part of the source; leave it out") for name in redundant)
            )
        return source
    from statsvc.local.scan import LocalTable

    if isinstance(source, LocalTable):
        if version is not None or dataset not in (None, source.dataset):
            raise InvalidParameter(
                ("dataset", f"the source is the scan {source.dataset}; leave out dataset and version")
            )
        sampling = source.sampling(sampler, **params)
    else:
        sampling = source.sampling(dataset, sampler=sampler, version=version, **params)
    for warning in sampling.warnings:
        _log.warning("%s: %s", sampling.dataset, warning["message"])
    return sampling


def _paths_and_splits(
    source: str | Client | LocalTable | Sampling | None, sampling: Sampling
) -> tuple[Sequence[str], Mapping[str, Split]]:
    """Return every path of the version, and the splits of its dataset; both empty if unknown."""
    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    if isinstance(source, Sampling):
        return [], {}
    if isinstance(source, LocalTable):
        return source.rows.path, source.configuration.splits
    client = source if isinstance(source, Client) else Client(source)
    splits = client.dataset(sampling.dataset)["configuration"]["splits"]
    all_images = client.sampling(sampling.dataset, sampler="repeat_factor", version=sampling.version)
    return all_images.paths, from_dict(splits)
