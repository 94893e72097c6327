"""Texts from users as one line, for logs and messages."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return a text with every character that is not printable as an escape, such as `\\n` or `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
