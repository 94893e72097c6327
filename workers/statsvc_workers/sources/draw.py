"""Draw a sample of a listing, without replacement and with equal probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc_workers.sources.listing import Listing

SEED = 0
"""One seed for all samples, so that a larger sample contains every smaller one."""


def draw(listing: Listing, size: int) -> NDArray[np.int64]:
    """Return the rows of a sample of min(size, n) of the n listed samples, int64, ascending.

    The sample has those whose paths have the smallest hashes under the seed, so that each path keeps its
    random number (Ohlsson 1995, "Coordination of samples using permanent random numbers"). A larger sample
    extends a smaller one, and a file that is added to the source replaces at most one file of the sample.
    """
    samples = len(listing.path)
    if size >= samples:
        return np.arange(samples)
    hashes = (xxhash.xxh3_64_intdigest(path.encode("utf-8", "surrogatepass"), SEED) for path in listing.path)
    return np.sort(np.argpartition(np.fromiter(hashes, np.uint64, samples), size)[:size])
