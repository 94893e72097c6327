"""Class maps: tables that map raw ids to class ids, and the built-in ones.

`statsvc.classes.class_map_files` reads class maps from files.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from statsvc.classes import tables
from statsvc.common.plurals import plural
from statsvc.errors import Inapplicable, InvalidParameter, NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

IGNORE = 255
"""The class id that datasets ignore by convention."""

MAX_CLASSES = 65536
"""Maximum number of classes, the length of a weights vector; every class id is below it."""

_INT64 = range(-(2**63), 2**63)
MIN_CLASS_ID = -(2**31)


class ClassMap(Struct, frozen=True):
    """A table that maps raw ids to class ids.

    name       name in responses and messages
    targets    (raw id, class id) pairs, raw ids ascending; class id 255 and negative ones mean ignored
    names      names of the class ids 0 … n−1; empty if unknown
    colors     RGB of the class ids 0 … n−1, each 0 … 255; empty if unknown
    source     publication or software that the table is copied from
    otherwise  treatment of raw ids that are not in `targets`: "unexpected" leaves them unmapped;
               "minus_one" maps 0 … 255 to i−1, keeps negative ids, and leaves ids above 255 unmapped
    """

    name: str
    targets: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    source: str = ""
    otherwise: Literal["unexpected", "minus_one"] = "unexpected"

    def apply(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the class id of each raw id, int64 [K], and whether the map contains it, bool [K].

        A raw id that the map does not contain is returned unchanged.
        """
        import numpy as np  # not for reading a configuration, of which a class map is a part

        ids = np.asarray(ids, np.int64)
        table = np.array(self.targets, np.int64).reshape(-1, 2)
        row = np.minimum(np.searchsorted(table[:, 0], ids), len(table) - 1)
        known = table[row, 0] == ids
        mapped = np.where(known, table[row, 1], ids)
        if self.otherwise == "minus_one":
            # MMSegmentation subtracts 1 from 8-bit maps. In wider types 256 would become the ignored 255.
            others = ~known & (ids <= IGNORE)
            mapped = np.where(others & (ids >= 0), ids - 1, mapped)
            known |= others
        return mapped, known

    @property
    def num_classes(self) -> int | None:
        """The highest class id that is not ignored, plus 1; None if it depends on the ids that occur."""
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
        """Parse the JSON form that `to_dict` returns. Raises `InvalidParameter` with the malformed key."""
        return _parse_dict(value)


def make_class_map(
    name: str,
    targets: Iterable[tuple[int, int]],
    names: tuple[str, ...] = (),
    colors: tuple[tuple[int, int, int], ...] = (),
    source: str = "",
    otherwise: Literal["unexpected", "minus_one"] = "unexpected",
) -> ClassMap:
    """Return the class map of (raw id, class id) pairs, which may be in any order.

    Raises `ValueError` for an id out of range, a duplicate raw id, more names than classes, and a map that
    ignores every raw id.
    """
    table: dict[int, int] = {}
    for raw, target in targets:
        if raw not in _INT64:
            raise ValueError(f"raw id {raw} does not fit in 64 bits; give an id below 2^63")
        if raw in table:
            raise ValueError(f"raw id {raw} occurs twice, mapped to {table[raw]} and to {target}; keep one")
        if not MIN_CLASS_ID <= target < MAX_CLASSES:
            raise ValueError(
                f"raw id {raw} is mapped to {target}, but class ids range from {MIN_CLASS_ID} to "
                f"{MAX_CLASSES - 1}"
            )
        table[raw] = target
    if not table:
        raise ValueError("the class map is empty; give at least one raw id and its class id")
    result = ClassMap(name, tuple(sorted(table.items())), names, colors, source, otherwise)
    if otherwise == "unexpected":
        if all(target == IGNORE or target < 0 for target in table.values()):
            raise ValueError("every raw id is ignored; map at least one to a class id from 0 to 254")
        classes = result.num_classes
        assert classes is not None
        if len(names) > classes:
            raise ValueError(
                f"there are {len(names)} names for {plural(classes, 'class id')} (0 to {classes - 1}); "
                "remove names, or map raw ids to the other classes"
            )
    return result


def _parse_dict(value: Any) -> ClassMap:
    if not isinstance(value, dict):
        raise _invalid(f"expected an object with name and targets, got {type(value).__name__}")
    known = ("name", "targets", "names", "colors", "source", "otherwise")
    for key in value:
        if key not in known:
            raise _invalid(f"unknown key {key!r}{nearest(str(key), known)}; known keys: {', '.join(known)}")
    name, source = value.get("name", "custom"), value.get("source", "")
    if not isinstance(name, str) or not isinstance(source, str):
        raise _invalid("name and source must be strings")
    otherwise = value.get("otherwise", "unexpected")
    if otherwise not in ("unexpected", "minus_one"):
        raise _invalid(f"otherwise must be 'unexpected' or 'minus_one', got {otherwise!r}")
    targets = _parse_integer_lists(value.get("targets", []), "targets", 2)
    colors = _parse_integer_lists(value.get("colors", []), "colors", 3)
    names = value.get("names", [])
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise _invalid("names must be a list of strings")
    try:
        return make_class_map(name, targets, tuple(names), colors, source, otherwise)
    except ValueError as error:
        raise Inapplicable(("class_map", str(error))) from None


def _invalid(message: str) -> InvalidParameter:
    return InvalidParameter(("class_map", message))


def _parse_integer_lists(value: Any, key: str, length: int) -> Any:
    form = "[" + ", ".join(["integer"] * length) + "]"
    if not isinstance(value, list):
        raise _invalid(f"{key} must be a list of {form}")
    for item in value:
        if not isinstance(item, list) or len(item) != length or any(type(part) is not int for part in item):
            raise _invalid(f"{key}: expected {form}, got {item!r}")
    return tuple(tuple(item) for item in value)


_BUILTIN = {
    "binary": make_class_map(
        "binary", [(0, 0), (1, 1), (255, 1)], source="masks of 0 and 255, or of 0 and 1"
    ),
    "reduce_zero_label": make_class_map(
        "reduce_zero_label",
        [(0, IGNORE), (IGNORE, IGNORE)],
        source="MMSegmentation, LoadAnnotations(reduce_zero_label=True)",
        otherwise="minus_one",
    ),
}

BUILTIN = tuple(sorted((*_BUILTIN, *tables.NAMES)))
"""Names of the built-in class maps."""


def builtin(name: str) -> ClassMap:
    """Return a built-in class map. Raises `NotFound` with the list of them."""
    if name not in BUILTIN:
        raise NotFound(
            f"no class map {name!r}{nearest(name, BUILTIN)}; the built-in maps are {', '.join(BUILTIN)}"
        )
    return _BUILTIN[name] if name in _BUILTIN else _from_table(name)


@functools.cache
def _from_table(name: str) -> ClassMap:
    table = tables.load(name)
    # A class that merges several raw ids gets the color of the first one.
    color_of: dict[int, tuple[int, int, int]] = {}
    for raw, target in table.targets.items():
        if raw in table.colors:
            color_of.setdefault(target, table.colors[raw])
    classes = range(len(table.classes))
    colors = tuple(color_of[k] for k in classes) if all(k in color_of for k in classes) else ()
    return make_class_map(name, table.targets.items(), table.classes, colors, table.source)
