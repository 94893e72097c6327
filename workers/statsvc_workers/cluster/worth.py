"""Whether worker processes would end a scan earlier than the threads that count now, from measurements."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

Times: TypeAlias = tuple[float, float, float]

OWN_START = time.process_time()
"""CPU seconds in which this process has started and loaded what a job needs."""

START_RATIO = 2.0
"""CPU time of starting a worker process over `OWN_START`.

A worker loads the same modules and Dask, and the scheduler works for it. Measured: 0.34 s of CPU time until
it is connected, 0.5 s until it counts, 0.8 s with its share of the scheduler, compared with 0.38 s.
"""

MEASURED_SECONDS = 0.25
"""Shortest time for which threads must have counted."""


class Estimate(Struct, frozen=True):
    """How long the remaining files take, in seconds.

    threads  in the threads of this process
    start    until worker processes are started
    speedup  how many times as fast as the threads the workers count
    """

    threads: float
    start: float
    speedup: float

    @property
    def workers(self) -> float:
        """Seconds if workers are started now."""
        return self.start + self.threads / self.speedup

    def __str__(self) -> str:
        return (
            f"{self.threads:.1f} s in threads, {self.workers:.1f} s in worker processes "
            f"({self.start:.1f} s to start them, then {self.speedup:.2f} times as fast)"
        )


def times() -> Times:
    """Return seconds of wall time, of CPU time, and in which threads were ready but had no core.

    The last are 0 where the system does not report them.
    """
    # https://www.kernel.org/doc/html/latest/scheduler/sched-stats.html
    ready = 0
    with suppress(OSError, ValueError, IndexError):
        for task in Path("/proc/self/task").iterdir():
            ready += int((task / "schedstat").read_text().split()[1])
    return time.monotonic(), time.process_time(), ready / 1e9


class ThreadRate:
    """Measures how fast threads count, and how much of the cores they use.

    Threads that wait for each other leave cores unused, which worker processes would use. A thread that is
    ready to run, but waits for a core on a busy machine, is no sign of that.

    The first batch of each thread is left out, because it loads, or compiles, the loops.

    threads  number of counting threads, and of worker processes that would be started
    cores    number of cores that both may use
    times    returns what `times` returns
    """

    def __init__(self, threads: int, cores: int, times: Callable[[], Times] = times) -> None:
        self._times = times
        self._threads, self._cores = threads, min(threads, cores)
        self._batches, self._bytes, self._seconds = 0, 0, 0.0
        self._start = times()

    def add(self, size: int, seconds: float) -> None:
        """Add a batch of `size` bytes, which took a thread so many seconds."""
        self._batches += 1
        if self._batches <= self._threads:
            self._start = self._times()
        else:
            self._bytes += size
            self._seconds += seconds

    def estimate(self, left: int) -> Estimate | None:
        """Return the estimate for the remaining bytes; None as long as too little is measured."""
        if self._seconds < MEASURED_SECONDS or self._bytes == 0:
            return None
        wall, cpu, ready = (now - start for now, start in zip(self._times(), self._start, strict=True))
        wanted = max(cpu + max(ready, 0.0), 1e-9)  # a thread that has ended took its time with it
        busy = wanted / max(cpu, 1e-9)  # how much longer everything takes because of other processes
        return Estimate(
            threads=left * self._seconds / (self._bytes * self._threads),
            start=START_RATIO * OWN_START * busy * self._threads / self._cores,
            speedup=max(1.0, self._cores * wall / wanted),
        )
