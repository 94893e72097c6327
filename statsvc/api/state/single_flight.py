"""Computing a value once for all concurrent requests (single flight), and caching it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from statsvc.common.lru import Lru

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Values computed in worker threads, each key by at most one thread at a time.

    An exception is raised for every waiting caller and is not cached.
    """

    def __init__(self, cache: Lru[K, V], threads: int) -> None:
        self._cache = cache
        self._threads = anyio.CapacityLimiter(threads)
        self._running: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of `key`, computed by `make` unless it is cached."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, make))
            self._running[key] = task
        # Shielded: a client that disconnects must not cancel the work that other clients wait for.
        return await asyncio.shield(task)

    async def _make(self, key: K, make: Callable[[], V]) -> V:
        try:
            value = await anyio.to_thread.run_sync(make, limiter=self._threads)
            self._cache.put(key, value)
            return value
        finally:
            del self._running[key]
