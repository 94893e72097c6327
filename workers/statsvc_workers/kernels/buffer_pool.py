"""Memory for inflated data that is used again.

What a new array of megabytes costs is not its allocation but the first touch of its pages, several times what
libdeflate takes to fill them; a process that counts thousands of files needs the same memory each time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KEPT_BYTES = 1 << 23
"""Longest piece that is kept for the next user: 8 MB for each thread that counts."""

_kept: list[NDArray[np.uint8]] = []  # in nobody's hands; `pop` and `append` are safe between threads


@contextlib.contextmanager
def room(length: int) -> Iterator[NDArray[np.uint8]]:
    """Lend uint8 [length] of any content. No view of it may outlive the `with`: another will write there."""
    try:
        piece = _kept.pop()
    except IndexError:
        piece = np.empty(0, np.uint8)
    if len(piece) < length:
        piece = np.empty(length, np.uint8)
    try:
        yield piece[:length]
    finally:
        if len(piece) <= KEPT_BYTES:
            _kept.append(piece)
