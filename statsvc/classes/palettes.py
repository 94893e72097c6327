"""Palettes: which class id a colour stands for, for label maps that are coded in colours.

A palette of one's own is a CSV file with the columns r, g, b, id and, where wanted, name::

    r,g,b,id,name
    128,64,128,0,road
    244,35,232,1,sidewalk
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statsvc.classes import tables
from statsvc.errors import InvalidParameter

UNKNOWN = 1 << 24
"""Added to a colour 0xRRGGBB that is not in the palette: an id beyond every class, so it is unexpected."""

MOST_CLASSES = 65536
IGNORE = 255


@dataclass(frozen=True, slots=True)
class Palette:
    """A table colour → id.

    name     for messages
    colours  (red, green, blue, id), each colour once; several colours may have one id
    names    (id, name), where known
    source   where the table comes from
    """

    name: str
    colours: tuple[tuple[int, int, int, int], ...]
    names: tuple[tuple[int, str], ...] = ()
    source: str = ""

    @property
    def num_classes(self) -> int:
        """The highest id of a colour, plus 1; 255 is no class where it is the highest, but ignored."""
        ids = {colour[3] for colour in self.colours}
        return max(ids - {IGNORE} if max(ids) == IGNORE and len(ids) > 1 else ids) + 1

    def class_names(self) -> tuple[str, ...]:
        """Return names of the ids 0 … n−1, the id itself where it has none; empty where none is known."""
        known = dict(self.names)
        return tuple(known.get(k, str(k)) for k in range(self.num_classes)) if known else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` reads."""
        return {
            "name": self.name,
            "colours": [list(colour) for colour in self.colours],
            "names": [list(pair) for pair in self.names],
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Palette:
        """Read what `to_dict` wrote."""
        return cls(
            value["name"],
            tuple(tuple(colour) for colour in value["colours"]),
            tuple((pair[0], pair[1]) for pair in value["names"]),
            value["source"],
        )


def unknown_colour(raw_id: int) -> str | None:
    """Return the colour that an id beyond `UNKNOWN` stands for, as #rrggbb."""
    return f"#{raw_id - UNKNOWN:06x}" if UNKNOWN <= raw_id < 2 * UNKNOWN else None


def __getattr__(name: str) -> Any:
    if name == "BUILTIN":
        return tuple(table for table in tables.NAMES if tables.load(table).colours)
    raise AttributeError(name)


def builtin(name: str) -> Palette:
    """Return the palette of a built-in table. Raises `KeyError`."""
    table = tables.load(name)
    seen: dict[tuple[int, int, int], int] = {}
    for raw, colour in table.colours.items():
        seen.setdefault(colour, raw)
    colours = tuple((*colour, raw) for colour, raw in seen.items())
    kept = set(seen.values())
    names = tuple((raw, text) for raw, text in table.names.items() if raw in kept)
    return Palette(name, colours, names, table.source)


def find(text: str, *, files: bool) -> Palette | None:
    """Return a built-in palette or, with `files`, that of a CSV file; None where it is neither.

    Raises `InvalidParameter` for a malformed file.
    """
    if text in tables.NAMES and tables.load(text).colours:
        return builtin(text)
    path = Path(text)
    if files and path.suffix.lower() == ".csv" and path.is_file():
        try:
            return _from_csv(path.stem, path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as problem:
            raise InvalidParameter(("rule", f"{path}: {problem}")) from None
    return None


def _from_csv(name: str, text: str) -> Palette:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = {"r", "g", "b", "id"}
    if not header <= set(rows.fieldnames or ()):
        raise ValueError(f"expected a header with the columns r,g,b,id, found {rows.fieldnames}")
    ids: dict[tuple[int, int, int], int] = {}
    names: dict[int, str] = {}
    for row in rows:
        place = f"line {rows.line_num}"
        try:
            red, green, blue, class_id = (int(row[column]) for column in ("r", "g", "b", "id"))
        except (TypeError, ValueError):
            raise ValueError(f"{place}: r, g, b and id are whole numbers") from None
        if not all(0 <= part <= 255 for part in (red, green, blue)):
            raise ValueError(f"{place}: a colour is three numbers from 0 to 255")
        if not 0 <= class_id < MOST_CLASSES:
            raise ValueError(f"{place}: the id {class_id} is none from 0 to {MOST_CLASSES - 1}")
        if (red, green, blue) in ids:
            raise ValueError(f"{place}: the colour {red},{green},{blue} is given twice")
        ids[red, green, blue] = class_id
        if row.get("name"):
            names.setdefault(class_id, row["name"].strip())
    if not ids:
        raise ValueError("holds no colour")
    colours = tuple((*colour, class_id) for colour, class_id in ids.items())
    return Palette(name, colours, tuple(sorted(names.items())))
