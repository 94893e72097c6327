"""What both forms of an installation have: processes, a disk, a clock and a network that faults hit."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psycopg

from support.chaos.http import send
from support.processes import children, descendants, is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statsvc.store.home import Home
    from support.moved_clock import MovedClock
    from support.silent_proxy import SilentProxy

HEAL_SECONDS = 180.0
FILLER = ".filler"


class Restartable(Protocol):
    """A server process: `support.cluster.Role` or `support.postgres.PostgresServer`."""

    process: subprocess.Popen[bytes] | None

    def start(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Service:
    """A process that is started again when it ends, as an init system does."""

    process: Restartable

    def pids(self) -> list[int]:
        """Return the id of the process, nothing if it does not run."""
        process = self.process.process
        return [process.pid] if process is not None and process.poll() is None else []

    def kill(self) -> None:
        """Kill the process, without its children."""
        self.process.kill()

    def signal(self, number: int) -> None:
        """Send a signal to the process and the processes below it."""
        for pid in self.pids():
            for each in (pid, *descendants(pid)):
                _send(each, number)

    def revive(self) -> bool:
        """Start the process if it has ended; return whether it runs."""
        if not self.pids():
            # PostgreSQL: children of the killed server are still running, or its disk is full.
            with contextlib.suppress(psycopg.OperationalError):
                self.process.start()
        return bool(self.pids())


@dataclass
class Children:
    """Processes that a service started, and starts again. A fault hits the first one.

    find    returns those that run now
    missed  number of faults that found none
    """

    find: Callable[[], list[int]]
    missed: int = 0
    _stopped: list[int] = field(default_factory=list)

    def pids(self) -> list[int]:
        return self.find()

    def kill(self) -> None:
        for pid in self._first():
            _send(pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        if number == signal.SIGSTOP:
            self._stopped = self._first()
        for pid in self._stopped:
            _send(pid, number)

    def revive(self) -> bool:
        return True

    def _first(self) -> list[int]:
        found = self.find()[:1]
        self.missed += not found
        return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class Disk:
    """A small file system in memory. Needs root, as mounting does."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / FILLER

    def fill(self) -> None:
        """Write a file until no byte is free."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20)[: max(4096, self._free())])

    def empty(self) -> None:
        """Remove that file."""
        self._filler.unlink(missing_ok=True)

    def _free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def mounted_disk(path: Path, megabytes: int, user: str = "root") -> Iterator[Disk | None]:
    """Mount a small disk at a folder, which is created; None without root privileges.

    If an error ends it, a copy of the disk stays next to the folder.
    """
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield None
        return
    owner = pwd.getpwnam(user)
    options = f"size={megabytes}m,mode=0700,uid={owner.pw_uid},gid={owner.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield Disk(path)
    except Exception:
        shutil.copytree(
            path, path.with_name(f"{path.name}-of-failure"), ignore=shutil.ignore_patterns(FILLER)
        )
        raise
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@dataclass
class Installation:
    """A running installation.

    home         with which this process opens the catalog and the version store
    environment  of the commands of operators
    proxy        URL of HAProxy
    apis         URL of each API server
    victims      the processes that faults hit, by name
    stored       returns the groups in the version store
    disk         the disk of the catalog; None without root privileges
    network      the connections to the catalog; None for SQLite
    """

    form: str
    home: Home
    environment: dict[str, str]
    proxy: str
    apis: list[str]
    victims: dict[str, Service | Children]
    stored: Callable[[], set[str]]
    clock: MovedClock
    disk: Disk | None
    network: SilentProxy | None = None

    def revive(self) -> bool:
        """Start every service that has ended; return whether all of them run."""
        running = [
            victim.revive() for victim in self.victims.values()
        ]  # all of them, even if one does not start
        return all(running)

    def heal(self) -> None:
        """Wait until every service runs and every server, also through the proxy, is ready."""
        deadline = time.monotonic() + HEAL_SECONDS
        while not (self.revive() and all(_is_ready(url) for url in (*self.apis, self.proxy))):
            assert time.monotonic() < deadline, f"not ready {HEAL_SECONDS:g} s after the last fault"
            time.sleep(0.2)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(OSError):
        return send(f"{url}/readyz").status == 200
    return False


def spawned(pids: list[int]) -> list[int]:
    """Return the children of processes that Python's multiprocessing started: executors, or their workers."""
    return [pid for parent in pids for pid in children(parent) if b"spawn_main" in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() if is_alive(pid) else b""
    return b""
