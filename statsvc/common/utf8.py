"""Detection of text that UTF-8 cannot encode: lone surrogates, from JSON or from file names in other bytes.

The catalog, the attributes of a version and HTTP responses store UTF-8, so such text is rejected on input.
"""

from __future__ import annotations

from typing import Any

NOT_ENCODABLE = (
    "contains a lone surrogate such as \\ud800, or bytes that are not UTF-8; remove the character or rename "
    "the file"
)
"""Error message for text that is not encodable."""


def is_encodable(value: Any) -> bool:
    """Return whether UTF-8 can encode every string in a JSON value, including object keys."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                return False
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
    return True


def printable(text: str) -> str:
    """Return the text with "?" in place of each lone surrogate, so that it can be printed and sent."""
    return text.encode(errors="replace").decode()
