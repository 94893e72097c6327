"""Processes of this machine, read from /proc."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LISTENING = "0A"
"""State of a TCP socket in /proc/net/tcp."""


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process; nothing if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the process ids of the children of a process, their children, and so on."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def open_files(pid: int) -> list[Path]:
    """Return what a process has open: the paths of files, and names such as `socket:[INODE]`."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed in the meantime
                found.append(link.readlink())
    return found


def listening_ports(pids: Iterable[int]) -> list[int]:
    """Return the TCP ports that processes listen on, in ascending order."""
    sockets = {str(target) for pid in pids for target in open_files(pid)}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)
