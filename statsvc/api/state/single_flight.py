"""Making a value once for everybody who asks for it at the same time, and keeping it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from statsvc.api.state.lru import Lru

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Once(Generic[K, V]):
    """Values made in a worker thread, one making a key at a time however many wait for it.

    `kept` holds finished values; an exception goes to everybody who waits, and is not kept.
    """

    def __init__(self, kept: Lru[K, V], threads: int) -> None:
        self._kept = kept
        self._threads = anyio.CapacityLimiter(threads)
        self._running: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of `key`, made by `make` where it is not kept."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, make))
            self._running[key] = task
        # Shielded: a client that hangs up must not end the work that others wait for.
        return await asyncio.shield(task)

    async def _make(self, key: K, make: Callable[[], V]) -> V:
        try:
            value = await anyio.to_thread.run_sync(make, limiter=self._threads)
            self._kept.put(key, value)
            return value
        finally:
            del self._running[key]
