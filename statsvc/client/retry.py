"""Retries while a server is unavailable: a few attempts within a time limit."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from statsvc.client.http import Unavailable, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.client.http import Parse, Reply

_log = logging.getLogger("statsvc.client")

BACKOFF = (0.5, 1.0, 2.0)
"""Seconds to wait before the second, third and fourth attempt."""

JITTER = 0.25
"""Each wait is randomly up to this fraction shorter or longer."""

TOTAL_TIMEOUTS = 3.0
"""Limit for all attempts and waits together, in timeouts of one attempt.

An attempt that might exceed the limit is not started.
"""

MAX_RETRY_AFTER = 10.0
"""Longest wait in seconds. A server that requests a longer one (Retry-After) counts as unavailable."""

# Jitter keeps trainers that start together from retrying together. It must not advance a trainer's own seeded
# generator.
_random = random.SystemRandom()


def get(url: str, headers: Mapping[str, str], timeout: float, parse: Parse) -> Reply | None:
    """Do what `http.exchange` does, and retry failures that may pass.

    timeout  seconds for one attempt
    """
    end = time.monotonic() + TOTAL_TIMEOUTS * timeout
    attempt = 0
    while True:
        try:
            return exchange(url, headers, timeout, parse)
        except Unavailable as failure:
            wait = _wait(failure, attempt, end - timeout - time.monotonic())
            if wait is None:
                raise
            attempt += 1
            _log.info("%s; attempt %d in %.1f s", failure, attempt + 1, wait)
        time.sleep(wait)


def _wait(failure: Unavailable, attempt: int, limit: float) -> float | None:
    """Return the seconds before the next attempt, or None if no further attempt is worthwhile."""
    if not failure.retry or attempt >= len(BACKOFF):
        return None
    wait = BACKOFF[attempt] * _random.uniform(1 - JITTER, 1 + JITTER)
    wait = max(wait, failure.retry_after or 0.0)
    return wait if wait <= min(MAX_RETRY_AFTER, limit) else None
