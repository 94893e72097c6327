"""What this process may use of the machine: its cores and its memory."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that this process may run on, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory that this process may use: the container's limit, else the machine's."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)
