"""NumPy and Torch values as plain Python values."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """Return the number of a NumPy or tensor scalar, the list of an array, and any other value unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value
