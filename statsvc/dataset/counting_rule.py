"""The counting rule: how the pixels of a label map become raw ids, and which array of a file is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, nearest

if TYPE_CHECKING:
    from statsvc.classes.palettes import Palette

VALUE = "value"
"""The default rule: the raw id is the pixel's value."""

ROWS = ("array", "index", "chunk")
"""What one sample is: a whole array, one index along its first axis, or one chunk."""

ARITHMETIC = {
    "id // 1000": "ids below 1000 unchanged, others divided by 1000: Cityscapes instance ids, KITTI-MOTS",
    "id // 256": "divided by 256: instance ids of the KITTI semantics benchmark",
    "id % 65536": "the lower 16 bits: SemanticKITTI",
}
"""Rules that extract the class id from an instance id, and the datasets that need them."""


@dataclass(frozen=True, slots=True)
class Counting:
    """How label maps become raw ids. It is fixed: a different rule requires a new dataset.

    rule     "value", a key of `ARITHMETIC`, or "palette"
    key      name of the array, member or column with the labels; None if a file has only one
    palette  maps colors to raw ids, for the rule "palette"; otherwise None
    rows     one of `ROWS`
    """

    rule: str = VALUE
    key: str | None = None
    palette: Palette | None = None
    rows: str = "array"

    def __str__(self) -> str:
        rule = f"palette {self.palette.name}" if self.palette is not None else self.rule
        rows = "" if self.rows == "array" else f", rows {self.rows}"
        return (rule if self.key is None else f"{rule}, key {self.key}") + rows

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses; it contains only what differs from the default."""
        value: dict[str, Any] = {}
        if self.rule != VALUE:
            value["rule"] = self.rule
        if self.key is not None:
            value["key"] = self.key
        if self.palette is not None:
            value["palette"] = self.palette.to_dict()
        if self.rows != "array":
            value["rows"] = self.rows
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Counting:
        """Parse the JSON form that `to_dict` returns."""
        palette = value.get("palette")
        if palette is not None:
            from statsvc.classes.palettes import Palette

            palette = Palette.from_dict(palette)
        return cls(value.get("rule", VALUE), value.get("key"), palette, value.get("rows", "array"))


def read(rule: str | None, key: str | None, rows: str | None = None, *, files: bool = True) -> Counting:
    """Return the counting that the options describe.

    rule   "value", a key of `ARITHMETIC`, the name of a built-in palette or, with `files`, the path of a
           file with a palette; None for "value"
    key    name of the array, member or column with the labels, or None
    rows   one of `ROWS`; None for "array"

    Raises `InvalidParameter` with the list of rules.
    """
    if key is not None and not key.strip():
        raise InvalidParameter(
            (
                "key",
                "the name is empty; give the name of the array, member or column that contains the labels",
            )
        )
    rows = "array" if rows is None else rows
    if rows not in ROWS:
        raise InvalidParameter(("rows", f"{rows!r} is not one of {', '.join(ROWS)}"))
    if rule is None or rule == VALUE:
        return Counting(key=key, rows=rows)
    without_spaces = "".join(rule.split())
    for known in ARITHMETIC:
        if without_spaces == "".join(known.split()):
            return Counting(known, key, rows=rows)
    from statsvc.classes import palettes

    palette = palettes.find(rule, files=files)
    if palette is None:
        names = (VALUE, *ARITHMETIC, *palettes.BUILTIN)
        or_file = (
            ", or the path of a palette (CSV r,g,b,id,name; labelmap.txt; class_dict.csv)" if files else ""
        )
        raise InvalidParameter(
            ("rule", f"no rule {rule!r}{nearest(rule, names)}; the rules are {', '.join(names)}{or_file}")
        )
    if rows != "array":
        raise InvalidParameter(
            ("rows", f"{rows!r} does not apply to color-coded label maps; omit rows, or omit rule")
        )
    return Counting("palette", key, palette)
