"""What the server keeps in memory: made once, bounded, the least used leaving first."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from statsvc.api.state.lru import Lru
from statsvc.api.state.single_flight import Once


def test_many_who_ask_at_once_wait_for_one_making() -> None:
    made: list[str] = []

    def make() -> str:
        made.append(threading.current_thread().name)
        time.sleep(0.05)
        return "value"

    async def ask() -> list[str]:
        once: Once[str, str] = Once(Lru(10), threads=4)
        answers = await asyncio.gather(*(once.get("key", make) for _ in range(1000)))
        return [*answers, await once.get("key", make)]

    assert set(asyncio.run(ask())) == {"value"}
    assert len(made) == 1
    assert made[0] != threading.main_thread().name


def test_an_error_reaches_everybody_and_is_not_kept() -> None:
    tries: list[int] = []

    def make() -> str:
        tries.append(1)
        time.sleep(0.02)
        if len(tries) == 1:
            raise ValueError("first")
        return "value"

    async def ask() -> None:
        once: Once[str, str] = Once(Lru(10), threads=4)
        answers = await asyncio.gather(*(once.get("key", make) for _ in range(5)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["first"] * 5
        assert await once.get("key", make) == "value"

    asyncio.run(ask())


def test_one_who_hangs_up_does_not_end_the_making_for_the_others() -> None:
    started, go_on = threading.Event(), threading.Event()

    def make() -> str:
        started.set()
        go_on.wait(10)
        return "value"

    async def ask() -> None:
        once: Once[str, str] = Once(Lru(10), threads=4)
        first = asyncio.create_task(once.get("key", make))
        second = asyncio.create_task(once.get("key", make))
        await asyncio.to_thread(started.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        assert await second == "value"

    asyncio.run(ask())


def test_the_least_used_leaves_first_when_the_cost_is_too_high() -> None:
    kept: Lru[str, bytes] = Lru(10, len)
    kept.put("a", b"1234")
    kept.put("b", b"1234")
    assert kept.get("a") == b"1234"
    kept.put("c", b"123")
    assert [key for key in "abc" if kept.get(key) is not None] == ["a", "c"]
    kept.put("too large", b"x" * 11)
    assert kept.get("too large") is None
    kept.put("a", b"12")
    kept.put("d", b"12345")
    assert [key for key in "acd" if kept.get(key) is not None] == ["a", "c", "d"]
