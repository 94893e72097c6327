"""The decision between threads and worker processes."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from statsvc_workers.cluster.machine import cores
from statsvc_workers.cluster.worth import OWN_START, START_RATIO, Estimate, ThreadRate, times

BLOCK = bytes(1 << 24)


def estimate(threads: int, cores: int, wall: float, cpu: float, ready: float = 0.0) -> Estimate:
    """Return the estimate for ten times the bytes that threads have counted in `wall` seconds."""
    now = (3.0, 2.0, 1.0)
    rate = ThreadRate(threads, cores, times=lambda: now)
    for _ in range(threads):
        rate.add(1, 5.0)  # loads the loops
    assert rate.estimate(1000) is None
    now = (3.0 + wall, 2.0 + cpu, 1.0 + ready)
    for _ in range(threads):
        rate.add(100, wall)
    found = rate.estimate(1000 * threads)
    assert found is not None
    assert found.threads == pytest.approx(10 * wall)
    return found


@pytest.mark.parametrize(
    ("cores", "cpu", "ready", "speedup"),
    [
        (2, 1.0, 0.0, 2.0),  # one thread at a time
        (2, 2.0, 0.0, 1.0),
        (2, 1.0, 1.0, 1.0),  # a busy machine, from which processes get no more
        (64, 4.0, 0.0, 16.0),
        (64, 70.0, 0.0, 1.0),
    ],
)
def test_processes_are_faster_by_the_cores_that_threads_leave_unused(
    cores: int, cpu: float, ready: float, speedup: float
) -> None:
    found = estimate(cores, cores, 1.0, cpu, ready)
    assert found.speedup == pytest.approx(speedup)
    assert found.start == pytest.approx(START_RATIO * OWN_START * (cpu + ready) / cpu)


def test_more_workers_than_cores_take_longer_to_start_and_are_no_faster() -> None:
    assert estimate(4, 2, 1.0, 1.0).start == pytest.approx(2 * estimate(2, 2, 1.0, 1.0).start)
    assert estimate(4, 2, 1.0, 1.0).speedup == pytest.approx(2)


def test_workers_are_worth_their_start_only_for_enough_work() -> None:
    short, long = Estimate(threads=1.5, start=0.8, speedup=2.0), Estimate(threads=2, start=0.8, speedup=2.0)
    assert short.workers > short.threads
    assert long.workers < long.threads
    assert Estimate(threads=1e6, start=0.8, speedup=1.0).workers > 1e6


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not report it")
def test_the_time_in_which_threads_wait_for_a_core_is_measured() -> None:
    def work(end: float) -> None:
        while time.monotonic() < end:
            hashlib.sha256(BLOCK)  # releases the interpreter

    threads = cores() + 2
    with ThreadPoolExecutor(threads) as pool:
        before, start = times(), time.monotonic()
        list(pool.map(work, [start + 1] * threads))
        wall, cpu, ready = (b - a for a, b in zip(before, times(), strict=True))
    assert wall >= 1
    assert cpu < (cores() + 0.5) * wall
    assert ready > 0.5 * wall  # about two threads at any time
