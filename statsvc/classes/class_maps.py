"""Class maps: raw id → training id, and the built-in ones."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from statsvc.classes import tables
from statsvc.errors import InvalidParameter, NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

IGNORE = 255
"""The training id that is ignored by convention."""

MAX_CLASSES = 65536
"""The longest weights vector; a training id is below it."""

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A table raw id → training id.

    name       for answers and messages
    targets    (raw id, training id) with raw ids ascending; training id 255 or below 0 is ignored
    names      names of training ids 0 … n−1, empty where unknown
    colors     RGB of training ids 0 … n−1, empty where unknown
    source     where the table comes from
    otherwise  what becomes of a raw id that is not in `targets`: "unexpected" leaves it unknown;
               "minus_one" makes i of it i−1 (a negative id stays, an id above 255 is unknown)
    """

    name: str
    targets: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    source: str = ""
    otherwise: Literal["unexpected", "minus_one"] = "unexpected"

    def apply(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the training id of each raw id and whether the map knows it: int64 [K] and bool [K].

        An id that the map does not know keeps its raw id.
        """
        ids = np.asarray(ids, np.int64)
        table = np.array(self.targets, np.int64).reshape(-1, 2)
        at = np.minimum(np.searchsorted(table[:, 0], ids), len(table) - 1)
        known = table[at, 0] == ids
        mapped = np.where(known, table[at, 1], ids)
        if self.otherwise == "minus_one":
            # MMSegmentation works on 8-bit maps; beyond them 256 would silently become the ignored 255.
            rest = ~known & (ids <= IGNORE)
            mapped = np.where(rest & (ids >= 0), ids - 1, mapped)
            known |= rest
        return mapped, known

    @property
    def num_classes(self) -> int | None:
        """The highest training id that is not ignored, plus 1; None where the ids that occur decide."""
        if self.otherwise == "minus_one":
            return None
        return max(target for _, target in self.targets if target != IGNORE and target >= 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` reads."""
        return {
            "name": self.name,
            "targets": [list(pair) for pair in self.targets],
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "source": self.source,
            "otherwise": self.otherwise,
        }

    @classmethod
    def from_dict(cls, value: Any) -> ClassMap:
        """Read what `to_dict` wrote. Raises `InvalidParameter` naming what is wrong."""
        return _from_dict(value)


def checked(
    name: str,
    targets: Iterable[tuple[int, int]],
    names: tuple[str, ...] = (),
    colors: tuple[tuple[int, int, int], ...] = (),
    source: str = "",
    otherwise: Literal["unexpected", "minus_one"] = "unexpected",
) -> ClassMap:
    """Return a class map of (raw id, training id) pairs in any order.

    Raises `ValueError` for an id out of range or given twice, and where everything is ignored.
    """
    table: dict[int, int] = {}
    for raw, target in targets:
        if raw not in _INT64:
            raise ValueError(f"raw id {raw} does not fit in 64 bits")
        if raw in table:
            raise ValueError(f"raw id {raw} is given twice, as {table[raw]} and as {target}")
        if not -(2**31) <= target < MAX_CLASSES:
            raise ValueError(f"raw id {raw} becomes {target}: a training id is at most {MAX_CLASSES - 1}")
        table[raw] = target
    if not table:
        raise ValueError("the map is empty: give at least one raw id and its training id")
    result = ClassMap(name, tuple(sorted(table.items())), names, colors, source, otherwise)
    if otherwise == "unexpected":
        if all(target == IGNORE or target < 0 for target in table.values()):
            raise ValueError("every raw id becomes an ignored one: no class is left")
        classes = result.num_classes
        assert classes is not None
        if len(names) > classes:
            raise ValueError(f"{len(names)} names for {classes} training ids (0 to {classes - 1})")
    return result


def _from_dict(value: Any) -> ClassMap:
    if not isinstance(value, dict):
        raise _invalid(f"expected an object with name and targets, not {type(value).__name__}")
    known = ("name", "targets", "names", "colors", "source", "otherwise")
    for key in value:
        if key not in known:
            raise _invalid(f"unknown key {key!r}{nearest(str(key), known)}; it takes {', '.join(known)}")
    name, source = value.get("name", "custom"), value.get("source", "")
    if not isinstance(name, str) or not isinstance(source, str):
        raise _invalid("name and source are texts")
    otherwise = value.get("otherwise", "unexpected")
    if otherwise not in ("unexpected", "minus_one"):
        raise _invalid(f"otherwise is 'unexpected' or 'minus_one', not {otherwise!r}")
    targets = _integer_tuples(value.get("targets", []), "targets", 2)
    colors = _integer_tuples(value.get("colors", []), "colors", 3)
    names = value.get("names", [])
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise _invalid("names is a list of texts")
    try:
        return checked(name, targets, tuple(names), colors, source, otherwise)
    except ValueError as problem:
        raise _invalid(str(problem)) from None


def _invalid(message: str) -> InvalidParameter:
    return InvalidParameter(("class_map", message))


def _integer_tuples(value: Any, key: str, length: int) -> Any:
    form = "[" + ", ".join(["integer"] * length) + "]"
    if not isinstance(value, list):
        raise _invalid(f"{key} is a list of {form}")
    for item in value:
        if not isinstance(item, list) or len(item) != length or any(type(part) is not int for part in item):
            raise _invalid(f"{key}: expected {form}, found {item!r}")
    return tuple(tuple(item) for item in value)


_BUILTIN = {
    "binary": checked("binary", [(0, 0), (1, 1), (255, 1)], source="masks of 0 and 255, or of 0 and 1"),
    "reduce_zero_label": checked(
        "reduce_zero_label",
        [(0, IGNORE), (IGNORE, IGNORE)],
        source="MMSegmentation, LoadAnnotations(reduce_zero_label=True)",
        otherwise="minus_one",
    ),
}

BUILTIN = tuple(sorted((*_BUILTIN, *tables.NAMES)))
"""Names of the built-in class maps."""


def builtin(name: str) -> ClassMap:
    """Return a built-in class map. Raises `NotFound` listing them."""
    if name not in BUILTIN:
        raise NotFound(f"no class map {name!r}{nearest(name, BUILTIN)}; there are {', '.join(BUILTIN)}")
    return _BUILTIN[name] if name in _BUILTIN else _of_table(name)


@functools.cache
def _of_table(name: str) -> ClassMap:
    table = tables.load(name)
    # A class of several raw ids has the colour of the first.
    colours: dict[int, tuple[int, int, int]] = {}
    for raw, target in table.targets.items():
        if raw in table.colours:
            colours.setdefault(target, table.colours[raw])
    classes = range(len(table.classes))
    shown = tuple(colours[k] for k in classes) if all(k in colours for k in classes) else ()
    return checked(name, table.targets.items(), table.classes, shown, table.source)


def load(path: Path) -> ClassMap:
    """Read a class map from a YAML, JSON or CSV file; `statsvc.classes.class_map_files` describes the forms.

    Raises `InvalidParameter` naming the file, the place in it and what is expected there.
    """
    from statsvc.classes.class_map_files import load as load_file

    return load_file(Path(path))


def resolve(text: str) -> ClassMap:
    """Return the class map that a command line means: a built-in name or a path to a file.

    Raises `NotFound` where it is neither, `InvalidParameter` for a malformed file.
    """
    if text in BUILTIN:
        return builtin(text)
    path = Path(text)
    if text and path.exists():
        return load(path)
    raise NotFound(
        f"no class map {text!r}{nearest(text, BUILTIN)}: there is no such file, and the built-in maps "
        f"are {', '.join(BUILTIN)}"
    )
