"""A finding: what was seen, where, how far it moves the weights, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SERIOUS, NOTICE = "serious", "notice"

NAMED = 5
"""How many files a finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong.

    code   its kind, for programs
    level  `SERIOUS`: weights or training are wrong as it is; `NOTICE`: look whether it is meant
    saw    what was seen, in numbers
    do     what to do about it
    files  names of the first or worst files; `count` is how many there are
    ids    raw ids that it is about
    moves  the class whose weight it moves most: `{"class", "name", "weight", "mended"}`, by
           `Basis.moved`; None where it moves none
    """

    code: str
    level: str
    saw: str
    do: str
    files: tuple[str, ...] = ()
    count: int = 0
    ids: tuple[int, ...] = ()
    moves: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"files": list(self.files), "ids": list(self.ids)}


def listed(values: Iterable[object], most: int = 8) -> str:
    """Return the first values, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def plural(number: int, noun: str) -> str:
    """Return `1 file`, `1,200 files`."""
    many = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else many}"


def subject(number: int, noun: str, one: str, many: str) -> str:
    """Return a count with its verb: `1 file holds`, `3 files hold`."""
    return f"{plural(number, noun)} {one if number == 1 else many}"
