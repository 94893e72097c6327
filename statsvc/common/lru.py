"""A bounded cache that evicts the least recently used values."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Values by key up to a total cost, by default 1 each. Thread-safe."""

    def __init__(self, capacity: int, cost: Callable[[V], int] = lambda _value: 1) -> None:
        self._capacity, self._cost, self._total = capacity, cost, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None if it is not cached."""
        with self._lock:
            entry = self._values.get(key)
            if entry is None:
                return None
            self._values.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V) -> None:
        """Cache a value, unless it costs more than the whole capacity."""
        cost = self._cost(value)
        if cost > self._capacity:
            return
        with self._lock:
            if key in self._values:
                self._total -= self._values.pop(key)[1]
            self._values[key] = (value, cost)
            self._total += cost
            while self._total > self._capacity:
                self._total -= self._values.popitem(last=False)[1][1]
