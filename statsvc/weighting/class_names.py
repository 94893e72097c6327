"""Class names in responses and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def class_name(names: Sequence[str], class_id: int) -> str:
    """Return a class's name, or its id as text where it has none."""
    return names[class_id] if class_id < len(names) else str(class_id)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return the first names and the number of further ones."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
