"""The counting rule: how the pixels of a label map become raw ids, and which array of a file is counted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.errors import Inapplicable, InvalidParameter, nearest

if TYPE_CHECKING:
    from statsvc.classes.palettes import Palette
    from statsvc.dataset.grid import Grid

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

CHANNEL = "channel:"
"""Start of the rules that count one channel of an image."""

CHANNELS = ("r", "g", "b", "a")
"""Names of the first four channels, which numbers from 0 select as well."""

ARGMAX = "argmax:"
"""Start of the rules that count the position of the largest value along an axis."""

MASKS = "mask-per-class"
"""The rule that merges one binary mask per class; the text after ":" says what names the class."""

MASKS_BY = ("file", "folder", "suffix", "tag")
"""What can name the class of a mask."""


class Counting(Struct, frozen=True):
    """How label maps become raw ids. It is fixed, except `grid`: a different rule requires a new dataset.

    rule     "value", a key of `ARITHMETIC`, "palette", "channel:N", "argmax:AXIS", or
             "mask-per-class", also with ":" and one of `MASKS_BY`
    key      name of the array, member or column with the labels; None if a file has only one
    palette  maps colors to raw ids, for the rule "palette"; otherwise None
    rows     one of `ROWS`
    classes  names of the ids 1 … n, for the rule "mask-per-class"; empty before the first scan
    grid     tiles whose histograms are also counted; a different grid counts every sample again
    """

    rule: str = VALUE
    key: str | None = None
    palette: Palette | None = None
    rows: str = "array"
    classes: tuple[str, ...] = ()
    grid: Grid | None = None

    @property
    def masks(self) -> bool:
        """Whether a sample consists of one binary mask per class."""
        return self.rule.startswith(MASKS)

    @property
    def channel(self) -> int | None:
        """The channel that contains the ids, from 0; None for every other rule."""
        return int(self.rule.removeprefix(CHANNEL)) if self.rule.startswith(CHANNEL) else None

    @property
    def axis(self) -> int | None:
        """The axis of an array along which the largest value is the class; None for every other rule."""
        return int(self.rule.removeprefix(ARGMAX)) if self.rule.startswith(ARGMAX) else None

    def __str__(self) -> str:
        rule = f"palette {self.palette.name}" if self.palette is not None else self.rule
        rows = "" if self.rows == "array" else f", rows {self.rows}"
        grid = "" if self.grid is None else f", grid {self.grid}"
        return (rule if self.key is None else f"{rule}, key {self.key}") + rows + grid

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
        if self.classes:
            value["classes"] = list(self.classes)
        if self.grid is not None:
            value["grid"] = str(self.grid)
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Counting:
        """Parse the JSON form that `to_dict` returns."""
        palette, grid = value.get("palette"), None
        if palette is not None:
            from statsvc.classes.palettes import Palette

            palette = Palette.from_dict(palette)
        if "grid" in value:
            from statsvc.dataset.grid import parse

            grid = parse(value["grid"])
        return cls(
            value.get("rule", VALUE),
            value.get("key"),
            palette,
            value.get("rows", "array"),
            tuple(value.get("classes", ())),
            grid,
        )


def read(rule: str | None, key: str | None, rows: str | None = None, *, files: bool = True) -> Counting:
    """Return the counting that the options describe.

    rule   "value", a key of `ARITHMETIC`, "channel:r", "argmax:0", "mask-per-class", the name of a built-in
           palette or, with `files`, the path of a file with a palette; None for "value"
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
    if (stack := _stack_rule(without_spaces)) is not None:
        if rows != "array":
            raise Inapplicable(("rows", f"{rows!r} does not apply to {stack}; omit rows, or omit rule"))
        return Counting(stack, key)
    from statsvc.classes import palettes

    palette = palettes.find(rule, files=files)
    if palette is None:
        names = (VALUE, *ARITHMETIC, "channel:r", "argmax:0", MASKS, *palettes.BUILTIN)
        or_file = (
            ", or the path of a palette (CSV r,g,b,id,name; labelmap.txt; class_dict.csv)" if files else ""
        )
        raise InvalidParameter(
            ("rule", f"no rule {rule!r}{nearest(rule, names)}; the rules are {', '.join(names)}{or_file}")
        )
    if rows != "array":
        raise Inapplicable(
            ("rows", f"{rows!r} does not apply to color-coded label maps; omit rows, or omit rule")
        )
    return Counting("palette", key, palette)


def _stack_rule(text: str) -> str | None:
    """Return a rule for a channel, an axis of classes or masks of classes; None for any other text."""
    if text == MASKS or text.removeprefix(f"{MASKS}:") in MASKS_BY:
        return text
    if match := re.fullmatch(r"channel:([rgba]|[0-9]{1,4})", text.lower()):
        channel = match[1]
        return f"{CHANNEL}{CHANNELS.index(channel) if channel in CHANNELS else int(channel)}"
    if match := re.fullmatch(r"argmax:(-?[0-9])", text.lower()):
        return f"{ARGMAX}{int(match[1])}"
    return None
