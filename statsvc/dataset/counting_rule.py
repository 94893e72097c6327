"""What a raw id is: the pixel's value, or the value after a rule, and which array of a file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, nearest

if TYPE_CHECKING:
    from statsvc.classes.palettes import Palette

VALUE = "value"

ROWS = ("array", "index", "chunk")
"""What one row of a version is, of a large array: all of it, an index along its first axis, or a chunk."""

ARITHMETIC = {
    "id // 1000": "ids below 1000 as they are, others divided by 1000: Cityscapes instance ids, KITTI-MOTS",
    "id // 256": "divided by 256: instance ids of the KITTI semantics benchmark",
    "id % 65536": "the lower 16 bits: SemanticKITTI",
}
"""Rules that make a class id of an instance id."""


@dataclass(frozen=True, slots=True)
class Counting:
    """How label maps become raw ids; other counting makes another dataset.

    rule     "value", one of `ARITHMETIC`, or "palette"
    key      which array, member or column holds the labels, where a file has several; None for the only one
    palette  the colours' ids, for the rule "palette"
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
        """Return the JSON form, which `from_dict` reads; nothing in it where all is as by default."""
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
        """Read what `to_dict` wrote."""
        palette = value.get("palette")
        if palette is not None:
            from statsvc.classes.palettes import Palette

            palette = Palette.from_dict(palette)
        return cls(value.get("rule", VALUE), value.get("key"), palette, value.get("rows", "array"))


def read(rule: str | None, key: str | None, rows: str | None = None, *, files: bool = True) -> Counting:
    """Return the counting that options mean; a rule is also the name of a palette or, with `files`, its file.

    Raises `InvalidParameter` listing the rules.
    """
    if key is not None and not key.strip():
        raise InvalidParameter(("key", "is empty; name the array, member or column that holds the labels"))
    rows = "array" if rows is None else rows
    if rows not in ROWS:
        raise InvalidParameter(("rows", f"{rows!r} is none of {', '.join(ROWS)}"))
    if rule is None or rule == VALUE:
        return Counting(key=key, rows=rows)
    plain = "".join(rule.split())
    for known in ARITHMETIC:
        if plain == "".join(known.split()):
            return Counting(known, key, rows=rows)
    from statsvc.classes import palettes

    palette = palettes.find(rule, files=files)
    if palette is None:
        names = (VALUE, *ARITHMETIC, *palettes.BUILTIN)
        own = ", or a CSV file of a palette (r,g,b,id,name)" if files else ""
        raise InvalidParameter(
            ("rule", f"no rule {rule!r}{nearest(rule, names)}; there are {', '.join(names)}{own}")
        )
    if rows != "array":
        raise InvalidParameter(
            ("rows", f"{rows} is for arrays of ids, not for colours; leave rows or rule out")
        )
    return Counting("palette", key, palette)
