"""Memory and open files of each victim's processes over time, from /proc."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.chaos.installation import Children, Service

INTERVAL = 2.0
MEBIBYTE = 2**20
FACTOR, MORE_FILES, MORE_MEMORY = 1.5, 40, 100 * MEBIBYTE
"""A role may use this many times as much after the run as before, and this much more: caches, threads
and connections."""

POOLED_FILES = 5 * 27
"""Files that PostgreSQL has open for a full pool of a client: 27 in the process of each connection."""


class Usage(NamedTuple):
    """What the processes of a role use together.

    rss, pss  resident memory in bytes; PSS divides shared pages among the processes that share them
    files     open file descriptors
    """

    rss: int
    pss: int
    files: int


@dataclass
class Resources:
    """The usage of each role.

    first  before the first fault
    peak   the largest value of each number
    last   after the last fault, when no job runs
    """

    first: dict[str, Usage] = field(default_factory=dict)
    peak: dict[str, Usage] = field(default_factory=dict)
    last: dict[str, Usage] = field(default_factory=dict)

    def sample(self, victims: Mapping[str, Service | Children]) -> dict[str, Usage]:
        """Measure every role that runs."""
        now = {
            name: usage for name, victim in victims.items() if (usage := _usage(victim.pids())) is not None
        }
        for name, usage in now.items():
            self.peak[name] = Usage(*map(max, usage, self.peak.get(name, usage)))
        return now

    def leaks(self) -> list[str]:
        """Return the roles that use much more after the run than before."""
        clients = sum(name.startswith(("api", "runner")) for name in self.last)
        found = []
        for name, after in self.last.items():
            if (before := self.first.get(name)) is None:
                continue
            # Before the run, the pools of the clients may be nearly empty.
            more = MORE_FILES + (clients * POOLED_FILES if name == "postgresql" else 0)
            if after.files > FACTOR * before.files + more or after.pss > FACTOR * before.pss + MORE_MEMORY:
                found.append(f"{name} used {before} and now uses {after}")
        return found


def _usage(pids: list[int]) -> Usage | None:
    found = [_of_process(each) for pid in pids for each in (pid, *descendants(pid))]
    known = [usage for usage in found if usage is not None]
    return Usage(*map(sum, zip(*known, strict=True))) if known else None


def _of_process(pid: int) -> Usage | None:
    """Return the usage of one process, None if it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Usage(kibibytes["Rss"] * 1024, kibibytes["Pss"] * 1024, files)
    return None
