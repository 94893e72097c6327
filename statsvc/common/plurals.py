"""Numbers with their nouns and verbs, for messages: `1 file is`, `1,200 files are`."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `1,200 files`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def plural_with_verb(number: int, noun: str, singular: str, plural_form: str) -> str:
    """Return a number with its noun and verb: `1 file contains`, `3 files contain`."""
    return f"{plural(number, noun)} {singular if number == 1 else plural_form}"


def part_with_verb(number: int, total: int, noun: str, singular: str, plural_form: str) -> str:
    """Return a part of a number with its noun and verb: `1 of 3 files is`, `2 of 3 files are`."""
    return f"{number:,} of {plural(total, noun)} {singular if number == 1 else plural_form}"
