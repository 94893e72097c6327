"""NumPy and Torch values as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return the number of a NumPy or tensor scalar, the list of an array, and any other value unchanged.

    Also converts the values of a mapping.
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
