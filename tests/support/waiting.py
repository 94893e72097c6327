"""Waiting for an event: polls a condition until a timeout that a busy machine does not reach.

A wait ends as soon as the condition holds, so a long timeout slows down failing tests only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statsvc.weighting.class_weights import ClassWeights

TIMEOUT = 120.0
POLL_INTERVAL = 0.05
STABLE_SECONDS = 2.1
"""Age at which a scan no longer expects a file to change: a little more than the 2 s of the product."""


def wait_for(condition: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Poll until the condition returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:g} s"
        time.sleep(POLL_INTERVAL)


def wait_for_version(version: int, get: Callable[[], ClassWeights]) -> ClassWeights:
    """Return the weights as soon as they come from a version: the server polls its catalog for new ones."""
    deadline = time.monotonic() + TIMEOUT
    while (weights := get()).version != version:
        assert time.monotonic() < deadline, f"still version {weights.version} after {TIMEOUT:g} s"
        time.sleep(POLL_INTERVAL)
    return weights


def wait_until_stable(folder: Path) -> None:
    """Wait until the files below a folder are too old to be racy: scans trust rows of such files only."""
    newest = max(file.stat().st_ctime for file in folder.rglob("*") if file.exists())
    time.sleep(max(0.0, newest + STABLE_SECONDS - time.time()))
