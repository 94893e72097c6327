"""How long to wait for something that may never come: multiples of one setting, the stall timeout."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STALL_TIMEOUT = 30.0
"""Default stall timeout in seconds: how long a worker or the scheduler may give no sign of life.

Dask's workers send a heartbeat every half second to a few seconds. A busy machine delays it by a few seconds.
"""

CHECKS = 10
"""Checks for a sign of life in one stall timeout."""

NO_WORKER = 2
"""Stall timeouts after which a cluster has failed in which no worker accepts a batch: they may restart."""

BLOCKED = 4
"""Stall timeouts after which a read is given up that does not return."""

ENDLESS = 20
"""Stall timeouts of processor time after which a sample is given up that gets no further."""

_timeout: ContextVar[float] = ContextVar("stall timeout", default=STALL_TIMEOUT)


def stall_timeout() -> float:
    """Return the stall timeout of this context in seconds."""
    return _timeout.get()


@contextmanager
def stalling_after(seconds: float) -> Iterator[None]:
    """Set the stall timeout of this context. A new thread starts with the default."""
    token = _timeout.set(seconds)
    try:
        yield
    finally:
        _timeout.reset(token)


def not_read_in(seconds: float) -> str:
    """Return that a file could not be read, for its owner."""
    return f"could not be read within {seconds:.0f} s; check the disk or network share, and scan again"
