"""A pool of reusable buffers for decompressed data.

A new array of several megabytes is expensive because of the page faults on first access, which take several
times as long as libdeflate takes to fill it. A process that counts thousands of files reuses the memory.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KEPT_BYTES = 1 << 23
"""Largest buffer that stays in the pool: 8 MB for each counting thread."""

_free: list[NDArray[np.uint8]] = []  # `pop` and `append` are atomic, so threads need no lock


@contextlib.contextmanager
def borrowed_buffer(length: int) -> Iterator[NDArray[np.uint8]]:
    """Yield an uninitialized buffer, uint8 [length].

    No view of it may be used after the `with` block, because other code then overwrites it.
    """
    try:
        buffer = _free.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    if len(buffer) < length:
        buffer = np.empty(length, np.uint8)
    try:
        yield buffer[:length]
    finally:
        if len(buffer) <= KEPT_BYTES:
            _free.append(buffer)
