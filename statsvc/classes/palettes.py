"""Palettes: tables that map colors to class ids, for color-coded label maps.

A custom palette is a CSV file with the columns r, g, b, id and, optionally, name::

    r,g,b,id,name
    128,64,128,0,road
    244,35,232,1,sidewalk

or a class list with colors, such as CVAT's `labelmap.txt` (`statsvc.classes.class_lists`).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.classes import tables
from statsvc.classes.class_maps import IGNORE, MAX_CLASSES
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from statsvc.classes.class_lists import ClassList

FILE_SUFFIXES = (".csv", ".txt", ".json", ".yaml", ".yml")
"""Suffixes of files that can contain a palette."""

UNKNOWN = 1 << 24
"""Offset of the raw id of a color 0xRRGGBB that is not in the palette: above every class, so unexpected."""

OVERLAP = MAX_CLASSES
"""Raw id of a pixel inside the masks of several classes: above every class, so unexpected."""


class Palette(Struct, frozen=True):
    """A table that maps colors to class ids.

    name     name in messages
    colors   (red, green, blue, id) with components 0 … 255; colors are unique, ids can repeat
    names    (id, name) of the classes with a known name
    source   publication or software that the table is copied from
    """

    name: str
    colors: tuple[tuple[int, int, int, int], ...]
    names: tuple[tuple[int, str], ...] = ()
    source: str = ""

    @property
    def num_classes(self) -> int:
        """The highest id plus 1; 255 is not a class but ignored if it is the highest of several ids."""
        ids = {color[3] for color in self.colors}
        return max(ids - {IGNORE} if max(ids) == IGNORE and len(ids) > 1 else ids) + 1

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the ids 0 … n−1, or the id where a name is missing; empty without any name."""
        known = dict(self.names)
        return tuple(known.get(k, str(k)) for k in range(self.num_classes)) if known else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        return {
            "name": self.name,
            "colours": [list(color) for color in self.colors],
            "names": [list(pair) for pair in self.names],
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Palette:
        """Parse the JSON form that `to_dict` returns."""
        return cls(
            value["name"],
            tuple(tuple(color) for color in value["colours"]),
            tuple((pair[0], pair[1]) for pair in value["names"]),
            value["source"],
        )


def unknown_color(raw_id: int) -> str | None:
    """Return the color, as #rrggbb, of a raw id from `UNKNOWN` up; None for an id of the palette."""
    return f"#{raw_id - UNKNOWN:06x}" if UNKNOWN <= raw_id < 2 * UNKNOWN else None


def __getattr__(name: str) -> Any:
    if name == "BUILTIN":
        return tuple(table for table in tables.NAMES if tables.load(table).colors)
    raise AttributeError(name)


def builtin(name: str) -> Palette:
    """Return the palette of a published dataset. Raises `KeyError` if there is no such table."""
    table = tables.load(name)
    id_of: dict[tuple[int, int, int], int] = {}
    for raw, color in table.colors.items():
        id_of.setdefault(color, raw)
    colors = tuple((*color, raw) for color, raw in id_of.items())
    ids = set(id_of.values())
    names = tuple((raw, text) for raw, text in table.names.items() if raw in ids)
    return Palette(name, colors, names, table.source)


def find(text: str, *, files: bool) -> Palette | None:
    """Return the built-in palette with this name or, with `files`, the palette in this file.

    Returns None if it is neither. Raises `InvalidParameter` for a malformed file.
    """
    if text in tables.NAMES and tables.load(text).colors:
        return builtin(text)
    path = Path(text)
    if files and path.suffix.lower() in FILE_SUFFIXES and path.is_file():
        try:
            return _parse_file(path)
        except (OSError, ValueError) as error:
            raise InvalidParameter(("rule", f"{path}: {error}")) from None
    return None


def of_class_list(classes: ClassList, name: str) -> Palette:
    """Return the palette of a class list. Raises `ValueError` if the list defines no colors."""
    if not classes.colors:
        raise ValueError("it lists classes without colors; pass it with --class-names")
    names = tuple(sorted((class_id, text) for class_id, text in classes.names if class_id >= 0))
    return Palette(name, classes.colors, names)


def _parse_file(path: Path) -> Palette:
    from statsvc.classes import class_lists

    content = path.read_bytes()
    header = content[:1024].decode("utf-8-sig", "replace").partition("\n")[0].lower()
    columns = {cell.strip() for cell in header.split(",")}
    # The project's own form, in which several colors can have one id.
    own_form = {"r", "g", "b"} <= columns and not columns & {*class_lists.NAME_COLUMNS} - {"name"}
    if path.suffix.lower() == ".csv" and own_form and ("id" in columns or "name" not in columns):
        return _parse_csv(path.stem, content.decode("utf-8-sig"))
    return of_class_list(class_lists.parse(path.name, content), path.stem)


def _parse_csv(name: str, text: str) -> Palette:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    if not {"r", "g", "b", "id"} <= set(rows.fieldnames or ()):
        raise ValueError(f"expected a header with the columns r,g,b,id, got {rows.fieldnames}")
    id_of: dict[tuple[int, int, int], int] = {}
    names: dict[int, str] = {}
    for row in rows:
        position = f"line {rows.line_num}"
        try:
            red, green, blue, class_id = (int(row[column]) for column in ("r", "g", "b", "id"))
        except (TypeError, ValueError):
            raise ValueError(f"{position}: r, g, b and id must be integers") from None
        color = (red, green, blue)
        if not all(0 <= component <= 255 for component in color):
            raise ValueError(f"{position}: r, g and b must be from 0 to 255, got {red},{green},{blue}")
        if not 0 <= class_id < MAX_CLASSES:
            raise ValueError(f"{position}: the id must be from 0 to {MAX_CLASSES - 1}, got {class_id}")
        if color in id_of:
            raise ValueError(f"{position}: the color {red},{green},{blue} occurs twice; keep one of the rows")
        id_of[color] = class_id
        if row.get("name"):
            names.setdefault(class_id, row["name"].strip())
    if not id_of:
        raise ValueError("the palette is empty; add at least one row of r,g,b,id")
    colors = tuple((*color, class_id) for color, class_id in id_of.items())
    return Palette(name, colors, tuple(sorted(names.items())))
