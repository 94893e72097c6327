"""Deviations that no assignment can avoid, because units are never divided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

LARGEST = 4096
"""Number of largest units that the bound considers; leaving out units keeps it valid."""

BISECTIONS = 50
"""Halvings of the interval that contains the bound."""


def smallest_deviation(shares: Float, units: int, share: Float) -> float:
    """Return a lower bound of the worst deviation of one class, relative to the share of each part.

    shares  float64 [U'], shares of the class in some of the units, those with the largest shares included
    units   number of units that contain the class
    share   float64 [k], wanted share of each part

    With deviations up to e, part j contains at most share[j] · (1 + e) of the class, thus at most
    floor(share[j] · (1 + e) / s) of the units that contain s or more. The m largest units must have room, for
    every m. If the class occurs in fewer units than parts, some part has none of it: its deviation is 1.
    """
    largest = np.sort(shares[shares > 0])[::-1][:LARGEST]
    least = 1.0 if units < len(share) else 0.0
    if not len(largest) or _have_room(largest, share, least):
        return least
    low, high = least, max(least, float(largest[0] / share.max()))
    while not _have_room(largest, share, high):
        low, high = high, 2 * high + 1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _have_room(largest, share, middle):
            high = middle
        else:
            low = middle
    return low


def _have_room(largest: Float, share: Float, deviation: float) -> bool:
    # The margin keeps units that fill a part exactly from being rejected by rounding.
    room = np.floor(share * (1 + deviation) / largest[:, None] * (1 + 1e-12)).sum(axis=1)
    return bool((room >= np.arange(1, len(largest) + 1)).all())
