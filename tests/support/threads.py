"""Threads that run while a block is executed."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def running(*targets: Callable[[], Any], stop: threading.Event) -> Iterator[None]:
    """Run each function in a thread. At the end, set `stop`, which they check, and wait until they return."""
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
