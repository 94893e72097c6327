"""The cores and the memory that this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the number of cores that this process may use; all cores if the system does not report it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the memory that this process may use, in bytes: the limit of the container or of the machine."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)
