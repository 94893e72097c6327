"""Waiting for a server's state, with a timeout that suits a busy machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.weighting.class_weights import ClassWeights

TIMEOUT = 60.0
POLL_INTERVAL = 0.1


def wait_for_version(version: int, get: Callable[[], ClassWeights]) -> ClassWeights:
    """Return the weights as soon as they come from a version: the server polls its catalog for new ones."""
    deadline = time.monotonic() + TIMEOUT
    while (weights := get()).version != version:
        assert time.monotonic() < deadline, f"still version {weights.version} after {TIMEOUT:g} s"
        time.sleep(POLL_INTERVAL)
    return weights
