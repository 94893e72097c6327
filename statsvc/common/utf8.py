"""Text that UTF-8 cannot encode: half of a surrogate pair, from JSON or from a name in other bytes.

Neither the catalog, nor a version's group, nor an answer could hold it.
"""

from __future__ import annotations

from typing import Any

HALF = "holds half of a surrogate pair, as \\ud800, or bytes that are not UTF-8; remove or rename it"


def storable(value: Any) -> bool:
    """Whether UTF-8 can encode every text in a JSON value, keys too."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                return False
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
    return True


def shown(text: str) -> str:
    """Return a text that can be printed and sent, `?` in place of each half."""
    return text.encode(errors="replace").decode()
