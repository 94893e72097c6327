"""Who holds a job's lease, and whether that process still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa


def process_identity() -> str:
    """Return host, process namespace, id and start time: who holds a lease, and whether it still lives."""
    return "/".join((_machine(), str(os.getpid()), _started(os.getpid()) or ""))


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{space}"


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, or None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 22, counted after the command name, which may itself hold spaces and parentheses: proc(5).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def may_take_over(row: sa.Row[Any]) -> bool:
    """Whether a running job's lease, with the database's `clock` beside it, has ended or its process has."""
    return bool(row.lease_until is None or row.lease_until < row.clock or _process_is_dead(row.owner))


def _process_is_dead(owner: str | None) -> bool:
    """Whether a lease's owner ran here and is certainly gone; elsewhere only the lease's end tells."""
    if owner is None:
        return True
    machine, pid, started = owner.rsplit("/", 2)
    if machine != _machine() or not started or not pid.isdigit():
        return False
    return _started(int(pid)) != started
