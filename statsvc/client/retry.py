"""Asking again while a server is away: few times, and never for long."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from statsvc.client.http import Away, Reply, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.client.http import Read

_log = logging.getLogger("statsvc.client")

WAITS = (0.5, 1.0, 2.0)
"""Seconds before the second, third and fourth attempt; each a quarter shorter or longer, by chance."""

TOTAL = 3.0
"""All attempts and waits together take at most this many times the timeout of one attempt.

An attempt that might not end in time is not made.
"""

LONGEST_WAIT = 10.0
"""A server that asks for more patience (Retry-After, in seconds) is called away at once."""

# Many trainers that start together must not come back together. Not the trainer's own seeded generator.
_chance = random.SystemRandom()


def ask(url: str, headers: Mapping[str, str], timeout: float, read: Read) -> Reply | None:
    """Return what `exchange` returns, asking again where that may help; raise as it does."""
    end = time.monotonic() + TOTAL * timeout
    attempt = 0
    while True:
        try:
            return exchange(url, headers, timeout, read)
        except Away as away:
            wait = _wait(away, attempt, end - timeout - time.monotonic())
            if wait is None:
                raise
            attempt += 1
            _log.info("%s; attempt %d in %.1f s", away, attempt + 1, wait)
        time.sleep(wait)


def _wait(away: Away, attempt: int, longest: float) -> float | None:
    """Return the seconds before the next attempt, or None where there is none."""
    if not away.again or attempt >= len(WAITS):
        return None
    wait = max(WAITS[attempt] * _chance.uniform(0.75, 1.25), away.after or 0.0)
    return wait if wait <= min(LONGEST_WAIT, longest) else None
