"""The processor time that another process has used."""

from __future__ import annotations

import sys
import time


def processor_seconds(pid: int) -> float | None:
    """Return the processor time of a process in seconds; None where it has ended, and on other systems."""
    if sys.platform != "linux":
        return None
    try:
        # The clock that clock_getcpuclockid(3) returns: MAKE_PROCESS_CPUCLOCK of linux/posix-timers_types.h
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None
