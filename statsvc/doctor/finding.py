"""A finding: what was found, in which files, how it changes the weights, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

if TYPE_CHECKING:
    from collections.abc import Iterable

SERIOUS, NOTICE = "serious", "notice"

MAX_FILES = 5
"""Maximum number of files that a finding names."""


class Finding(Struct, frozen=True):
    """One likely fault of a dataset.

    code   kind of finding, for programs
    level  `SERIOUS`: the weights or the training are wrong; `NOTICE`: check whether it is intended
    saw    what was found, with numbers, and why it matters
    do     what to do next
    files  paths of the first affected files, or of the most affected ones; up to `MAX_FILES`
    count  number of affected files
    ids    affected raw ids; class ids for `absent_from_split` and `hangs_on_one_file`
    moves  the class whose weight would change most if the fault was fixed, with its weight before and after:
           `{"class", "name", "weight", "mended"}`; None if no weight changes or the fix is not known
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


def list_first(values: Iterable[object], most: int = 8, total: int | None = None) -> str:
    """Return the first values separated by commas, and how many follow: `0, 1, 2 and 5 more`.

    total  number of values if `values` is not complete; None for all of them
    """
    values = list(values)
    others = (len(values) if total is None else total) - len(values[:most])
    return ", ".join(map(str, values[:most])) + (f" and {others:,} more" if others > 0 else "")
