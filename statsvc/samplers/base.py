"""Draws of an epoch, by rank and from a position on: what all samplers have in common."""

from __future__ import annotations

import hashlib
import logging
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from statsvc.client.distributed import from_rank_zero
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter, nearest
from statsvc.samplers.arguments import checked_integer, checked_rank
from statsvc.samplers.processes import distributed_by_accelerate, warn_if_ranks_draw_the_same
from statsvc.samplers.sources import paths_and_splits, sampling_of
from statsvc.sampling import path_join

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable
    from statsvc.sampling.result import Sampling

    Int64 = NDArray[np.int64]

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
        self._given_rank = checked_rank(rank, num_replicas)
        if unmatched not in path_join.UNMATCHED:
            known = path_join.UNMATCHED
            raise InvalidParameter(
                ("unmatched", f"must be one of {', '.join(known)}{nearest(str(unmatched), known)}")
            )
        self.seed, self.epoch = checked_integer("seed", seed, minimum=0), 0
        sampler = self.sampler

        def request() -> Sampling:
            return sampling_of(source, sampler, dataset, version, params)

        self.sampling = from_rank_zero(request) if sync else request()
        self._scores = path_join.probabilities(
            paths, self.sampling, root, unmatched, lambda: paths_and_splits(source, self.sampling)
        )
        self._items = len(self._scores)
        self._dataset, self._version = self.sampling.dataset, self.sampling.version
        draws = self._default_draws() if num_samples is None else num_samples
        self.num_samples = checked_integer("num_samples", draws, minimum=1)
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
        return inverse_cdf(self._scores, random.random(self.num_samples))

    def _item(self, drawn: Any) -> Any:
        """Return what the iterator yields for one row of `_draw`."""
        return drawn

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._items} items, {self._dataset} version {self._version}: "
            f"{plural(self.num_samples, 'draw')}, seed {self.seed}, epoch {self.epoch}, rank {self.rank} of "
            f"{self.num_replicas}>"
        )

    @property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each item, float64 [len(paths)], in the order of the dataset; the sum is 1."""
        return np.asarray(self._scores / self._scores.sum())

    def __len__(self) -> int:
        """Return how many indices the next iterator of this rank yields; fewer after resuming an epoch."""
        start = 0 if self._finished else self._start
        return math.ceil((self.num_samples - start) / self._share(distributed_by_accelerate())[1])

    def __iter__(self) -> Iterator[int]:
        by_accelerate = distributed_by_accelerate()
        rank, ranks = self._share(by_accelerate)
        if not by_accelerate:
            warn_if_ranks_draw_the_same(ranks)
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


def inverse_cdf(scores: NDArray[np.float64], quantiles: NDArray[np.float64]) -> Int64:
    """Return the index at which the cumulative distribution of the scores exceeds each quantile in [0, 1).

    It is computed in float64, so it has no limit of 2^24 entries, unlike `torch.multinomial`.
    """
    cumulative = np.cumsum(scores)
    last = int(np.flatnonzero(scores)[-1])
    index = np.searchsorted(cumulative, quantiles * cumulative[-1], side="right")
    clipped: Int64 = np.minimum(index, last).astype(np.int64)
    return clipped
