"""How many cores there are for this process."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that this process may run on, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
