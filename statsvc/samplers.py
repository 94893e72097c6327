"""Samplers for `torch.utils.data.DataLoader` that draw images with rare classes more often.

::

    from statsvc.samplers import RareClassSampler

    sampler = RareClassSampler(label_paths, "http://stats:8000", dataset="camvid", split="train")
    loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        for images, labels in loader: ...

`label_paths[i]` is the path of the label map of `dataset[i]`. See `docs/samplers.md`.
"""

from __future__ import annotations

import hashlib
import logging
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.client.distributed import from_rank_zero
from statsvc.dataset.splits import from_dict
from statsvc.errors import InvalidParameter, nearest
from statsvc.sampling import path_join
from statsvc.sampling.result import Sampling

try:
    from torch.utils.data import Sampler
except ModuleNotFoundError as problem:
    raise ImportError("statsvc.samplers needs PyTorch: pip install 'statsvc[torch]'") from problem

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.client.client import Client
    from statsvc.dataset.splits import Split
    from statsvc.local.scan import LocalTable

    Int64 = NDArray[np.int64]

__all__ = ["ImageWeightSampler", "RareClassSampler", "RepeatFactorSampler", "StatisticsSampler"]

_log = logging.getLogger("statsvc.samplers")


class StatisticsSampler(Sampler[int]):
    """Indices of a dataset, drawn with the probabilities that its statistics give. Use one of its classes.

    paths         path of the label map of each item of the dataset, in its order
    source        URL of a server, a `Client`, what `statsvc.scan` returned, or a `Sampling`; STATSVC_URL
                  where it is left out
    dataset, version  which of the server's; version numbers never change, tags may be moved
    sync          a collective of torch.distributed, as in `Client.weights`: rank 0 asks, and every rank draws
                  by its answer. Without it each rank asks for itself, and they may get different versions
    seed          with the epoch, decides every draw: the same on each rank, whatever their number
    num_samples   draws in an epoch over all ranks; by default one for each path
    rank, num_replicas  of this process; by default those of torch.distributed, else 0 and 1
    root          the folder that was scanned, where paths alone are ambiguous (`statsvc.sampling.path_join`)
    unmatched     what becomes of a path without statistics: "error", "skip" (never drawn), or "average"
                  (drawn as often as an average image)
    params        of `GET /datasets/{name}/sampling`: split, ignore_index, and the sampler's own

    Rank r of R takes every R-th draw of the epoch, from the r-th on; where R does not divide their
    number, the first draws are drawn again at the end, so that all ranks have the same number.

    Raises `InvalidParameter` for paths without statistics and malformed arguments, and as
    `Client.sampling` does.
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
        self.rank, self.num_replicas = _place(rank, num_replicas)
        if unmatched not in path_join.UNMATCHED:
            known = path_join.UNMATCHED
            raise InvalidParameter(
                ("unmatched", f"expected one of {', '.join(known)}{nearest(str(unmatched), known)}")
            )
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InvalidParameter(("seed", f"{seed!r} is not an integer from 0 on"))
        self.seed, self.epoch = int(seed), 0
        name = self.sampler

        def ask() -> Sampling:
            return _sampling(source, name, dataset, version, params)

        self.sampling = from_rank_zero(ask) if sync else ask()
        self._scores = path_join.probabilities(
            paths, self.sampling, root, unmatched, lambda: _whole(source, self.sampling)
        )
        length = self._default_length() if num_samples is None else num_samples
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
            raise InvalidParameter(("num_samples", f"{length!r} is not a number of draws; give 1 or more"))
        self.num_samples = int(length)
        self._start = 0  # draws of the epoch, over all ranks, that were made before the iterator began
        self._given = 0  # indices that this rank's iterator has given since
        self._finished = False
        if self.num_replicas > 1:
            _log.info("rank %d: %r, digest %s", self.rank, self, self.digest)

    def _default_length(self) -> int:
        return len(self._scores)

    def _draw(self, random: np.random.Generator) -> Int64:
        """Return the indices of one epoch, int64 [num_samples], the same on every rank."""
        return _inverse(self._scores, random.random(self.num_samples))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {len(self._scores)} items, {self.sampling.dataset} version "
            f"{self.sampling.version}: {self.num_samples} draws, seed {self.seed}, epoch {self.epoch}, "
            f"rank {self.rank} of {self.num_replicas}>"
        )

    @property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each item of the dataset, in its order; float64, adding up to 1."""
        return np.asarray(self._scores / self._scores.sum())

    def __len__(self) -> int:
        """Return how many indices this rank gets when it is iterated: fewer only where it resumes."""
        start = 0 if self._finished else self._start
        return math.ceil((self.num_samples - start) / self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        if self._finished:
            self._start, self._finished = 0, False
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch])))
        rest = self._draw(random)[self._start :]
        short = -len(rest) % self.num_replicas
        mine = np.resize(rest, len(rest) + short)[self.rank :: self.num_replicas]
        self._given = 0
        for index in mine.tolist():
            self._given += 1
            yield index
        self._finished = True

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws come next, from their beginning.

        For the epoch that `load_state_dict` resumed, it leaves the place where it is.
        """
        if epoch != self.epoch:
            self._go_to(epoch, 0)

    def _go_to(self, epoch: int, start: int) -> None:
        self.epoch, self._start, self._given, self._finished = epoch, start, 0, False

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the epoch is, to go on from there after `load_state_dict`.

        consumed  indices that this rank has trained on since the epoch began, or was resumed; by default
                  those that the iterator has given, which is more where a `DataLoader` has workers, since
                  they fetch ahead. Give the batches trained on times the batch size then.
        """
        given = self._given if consumed is None else consumed
        return {
            "epoch": self.epoch,
            "done": min(self._start + given * self.num_replicas, self.num_samples),
            "seed": self.seed,
            "num_samples": self.num_samples,
            "sampler": self.sampler,
            "dataset": self.sampling.dataset,
            "version": self.sampling.version,
            "digest": self.digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, on any number of ranks; after a whole epoch, with the next.

        Raises `InvalidParameter` where the draws would be others: another sampler, seed, number of draws,
        other probabilities or another order of paths.
        """
        mine = self.state_dict()
        for name in ("sampler", "seed", "num_samples", "digest"):
            if state.get(name) != mine[name]:
                raise InvalidParameter(
                    (
                        name,
                        f"the state has {state.get(name)!r} and this sampler {mine[name]!r}; the state is of "
                        f"{state.get('sampler')} with {state.get('dataset')} version {state.get('version')}, "
                        f"seed {state.get('seed')}, and its paths in their order",
                    )
                )
        epoch, done = int(state["epoch"]), int(state["done"])
        self._go_to(*((epoch, done) if done < self.num_samples else (epoch + 1, 0)))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the probability of each item, in the dataset's order."""
        # To 12 digits: the last bits may differ between processors.
        text = ",".join(f"{q:.12g}" for q in self.probability.tolist())
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class RareClassSampler(StatisticsSampler):
    """DAFormer's rare class sampling: a class by softmax((1 − p)/temperature), then an image with it.

    Arguments as `StatisticsSampler`; params: temperature 0.01, min_pixels "auto". Draws are independent:
    an image comes any number of times in an epoch.
    """

    sampler = "rare_class"


class ImageWeightSampler(StatisticsSampler):
    """Images in proportion to the mean class weight of their pixels.

    Arguments as `StatisticsSampler`; params: those of class weights, such as `method="inverse_freq"`.
    Draws are those of `WeightedRandomSampler` with replacement, without its limit of 2^24 images.
    """

    sampler = "image_weights"


class RepeatFactorSampler(StatisticsSampler):
    """LVIS's repeat factor sampling: every image once, and those with a rare class more than once.

    Arguments as `StatisticsSampler`; params: threshold 0.001. An epoch has as many draws as all repeat
    factors add up to, rounded up, so that every epoch is equally long; an image with factor r comes ⌊r'⌋
    or ⌈r'⌉ times, r' times on average, where r' is r times `num_samples` over the sum of all factors.
    """

    sampler = "repeat_factor"

    def _default_length(self) -> int:
        # Probabilities over the images of the statistics times `epoch` are the repeat factors themselves.
        return math.ceil(round(float(self._scores.sum() * self.sampling.epoch), 6))

    def _draw(self, random: np.random.Generator) -> Int64:
        # Systematic sampling over the images in random order: one random offset, equal steps.
        order = random.permutation(len(self._scores))
        steps = (np.arange(self.num_samples) + random.random()) / self.num_samples
        drawn: Int64 = order[_inverse(self._scores[order], steps)]
        return drawn[random.permutation(self.num_samples)]


def _inverse(scores: NDArray[np.float64], at: NDArray[np.float64]) -> Int64:
    """Return the index at which the cumulative distribution of the scores passes each number in [0, 1).

    In float64, so that there is no limit of 2^24 entries, as `torch.multinomial` has it.
    """
    up_to = np.cumsum(scores)
    last = int(np.flatnonzero(scores)[-1])
    found = np.searchsorted(up_to, at * up_to[-1], side="right")
    index: Int64 = np.minimum(found, last).astype(np.int64)
    return index


def _place(rank: int | None, num_replicas: int | None) -> tuple[int, int]:
    if rank is None and num_replicas is None:
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return 0, 1
        return dist.get_rank(), dist.get_world_size()
    if rank is None or num_replicas is None or not 0 <= rank < num_replicas:
        raise InvalidParameter(
            ("rank", f"rank {rank} of {num_replicas}: give both, rank from 0 to num_replicas - 1, or neither")
        )
    return rank, num_replicas


def _sampling(
    source: str | Client | LocalTable | Sampling | None,
    sampler: str,
    dataset: str | None,
    version: int | str | None,
    params: Mapping[str, Any],
) -> Sampling:
    if source is None or isinstance(source, str):
        from statsvc.client.client import Client

        source = Client(source)
    if isinstance(source, Sampling):
        if source.sampler != sampler:
            raise InvalidParameter(("source", f"it is for {source.sampler}, not for {sampler}"))
        given = [name for name, value in params.items() if value is not None]
        given += [n for n, v in (("dataset", dataset), ("version", version)) if v is not None]
        if given:
            raise InvalidParameter(*((name, "the source has it settled: leave it out") for name in given))
        return source
    from statsvc.local.scan import LocalTable

    if isinstance(source, LocalTable):
        if version is not None or dataset not in (None, source.dataset):
            raise InvalidParameter(("dataset", f"the source is {source.dataset}: leave both out"))
        found = source.sampling(sampler, **params)
    else:
        found = source.sampling(dataset, sampler=sampler, version=version, **params)
    for warning in found.warnings:
        _log.warning("%s: %s", found.dataset, warning["message"])
    return found


def _whole(
    source: str | Client | LocalTable | Sampling | None, sampling: Sampling
) -> tuple[Sequence[str], Mapping[str, Split]]:
    """Return all paths of the version that was asked, and the splits of its dataset; none where unknown."""
    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    if isinstance(source, Sampling):
        return [], {}
    if isinstance(source, LocalTable):
        return source.rows.path, source.configuration.splits
    client = source if isinstance(source, Client) else Client(source)
    splits = client.dataset(sampling.dataset)["configuration"]["splits"]
    every = client.sampling(sampling.dataset, sampler="repeat_factor", version=sampling.version)
    return every.paths, from_dict(splits)
