"""Caches of the server: values are computed once, and the least recently used ones are evicted."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from statsvc.api.state.single_flight import SingleFlight
from statsvc.common.lru import Lru


def test_concurrent_callers_wait_for_one_computation() -> None:
    threads: list[str] = []

    def make() -> str:
        threads.append(threading.current_thread().name)
        time.sleep(0.05)
        return "value"

    async def call() -> list[str]:
        flight: SingleFlight[str, str] = SingleFlight(Lru(10), threads=4)
        answers = await asyncio.gather(*(flight.get("key", make) for _ in range(1000)))
        return [*answers, await flight.get("key", make)]

    assert set(asyncio.run(call())) == {"value"}
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


def test_an_error_is_raised_for_every_caller_and_not_cached() -> None:
    tries: list[int] = []

    def make() -> str:
        tries.append(1)
        time.sleep(0.02)
        if len(tries) == 1:
            raise ValueError("first")
        return "value"

    async def call() -> None:
        flight: SingleFlight[str, str] = SingleFlight(Lru(10), threads=4)
        answers = await asyncio.gather(*(flight.get("key", make) for _ in range(5)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["first"] * 5
        assert await flight.get("key", make) == "value"

    asyncio.run(call())


def test_a_cancelled_caller_does_not_cancel_the_computation_for_others() -> None:
    started, finish = threading.Event(), threading.Event()

    def make() -> str:
        started.set()
        finish.wait(10)
        return "value"

    async def call() -> None:
        flight: SingleFlight[str, str] = SingleFlight(Lru(10), threads=4)
        first = asyncio.create_task(flight.get("key", make))
        second = asyncio.create_task(flight.get("key", make))
        await asyncio.to_thread(started.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        finish.set()
        assert await second == "value"

    asyncio.run(call())


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: Lru[str, bytes] = Lru(10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"123")
    assert [key for key in "abc" if cache.get(key) is not None] == ["a", "c"]
    cache.put("too large", b"x" * 11)
    assert cache.get("too large") is None
    cache.put("a", b"12")
    cache.put("d", b"12345")
    assert [key for key in "acd" if cache.get(key) is not None] == ["a", "c", "d"]
