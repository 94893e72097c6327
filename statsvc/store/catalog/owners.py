"""The owner of a job's lease: which process it is, and whether that process is still alive."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statsvc.store.catalog.connection import Row

LEASE_SECONDS = 15.0
"""How long a lease lasts without a heartbeat."""

CLOCK_TOLERANCE_SECONDS = 1.0
"""How much later than expected a stored time may be, before it is one of a clock that was set back since."""


def process_identity() -> str:
    """Return an identity of this process: host, boot, PID namespace, process id and start time.

    Another process on the same host can check with it whether this one is still alive.
    """
    return "/".join((_machine(), str(os.getpid()), _start_time(os.getpid()) or ""))


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        pid_namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return platform.node()
    return f"{platform.node()}/{boot}/{pid_namespace}"


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, or None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 22 of proc(5), counted from the end of the command name, which may contain spaces and ")".
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def may_take_over(row: Row) -> bool:
    """Whether another process may take a running job over: its lease has expired, or its process is dead.

    row  has the columns owner, lease_until and clock (the database's time)
    """
    return has_passed(row.lease_until, row.clock, LEASE_SECONDS) or _process_is_dead(row.owner)


def has_passed(moment: float | None, clock: float, longest: float) -> bool:
    """Whether a stored time, or None, has passed.

    longest  the longest time for which it was set; if it is further away, the clock was set back since, and
             waiting for it could take hours

    Values are in seconds, by the database's clock.
    """
    return moment is None or not clock <= moment <= clock + longest + CLOCK_TOLERANCE_SECONDS


def _process_is_dead(owner: str | None) -> bool:
    """Whether the owner ran on this host and has certainly ended; False for a process on another host."""
    if owner is None:
        return True
    machine, pid, start_time = owner.rsplit("/", 2)
    if machine != _machine() or not start_time or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start_time
