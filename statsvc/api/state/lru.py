"""A bounded memory: what was used longest ago leaves first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Values by key up to a total cost, 1 each unless `cost` says otherwise; safe between threads."""

    def __init__(self, capacity: int, cost: Callable[[V], int] = lambda _value: 1) -> None:
        self._capacity, self._cost, self._total = capacity, cost, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value kept under `key`, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V) -> None:
        """Keep a value; one that costs more than the whole capacity is not kept."""
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
