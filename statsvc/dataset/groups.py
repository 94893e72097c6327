"""Groups of samples, such as the city, patient or sequence, derived from their paths.

A group is defined by an expression over the path, by a folder, or by a list of values. It is evaluated when
counts are read, so defining groups needs no scan.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.common.plurals import plural
from statsvc.dataset.splits import path_stem
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_GROUP = re.compile(r"(folder:-?[0-9]{1,3}|[^:]+):(.+)", re.DOTALL)
_FOLDER = re.compile(r"folder:(-?[0-9]{1,3})")

DEFAULT_NAME = "group"
"""Name of a rule that is given without one."""

SUGGESTED = {
    "city": r"^([a-z]+(?:-[a-z]+)*)_\d{6}_\d{6}_",
    "sequence": r"^(\d{4}[A-Z0-9]{2})_f?\d{5,6}\b",
    "drive": r"sequences/(\d{2,4})/",
    "clip": r"(?:^|/)(\d{4})/\d{6}\.",
    "patient": r"^(patient_?\d+)_",
    "case": r"^(case_?\d+)_",
}
"""Rules for paths of Cityscapes, CamVid, SemanticKITTI, KITTI-STEP, ACDC, and slices of nnU-Net cases."""

MIN_COVERED = 0.9
"""Share of the paths that a suggested rule covers."""

MAX_LENGTH = 500
"""Longest expression."""

MAX_LEVEL = 100
"""Deepest folder level."""


class Grouping(Struct, frozen=True):
    """A rule that assigns a value to each path. Exactly one of the three forms is set.

    pattern  regular expression of RE2: the value is its first group, or the whole match without groups. An
             expression that contains "/" is applied to the whole path, any other one to the file name
    folder   level of a folder: 1 is the outermost folder, −1 the one that contains the file
    values   value of each path, or of each name without extension
    """

    pattern: str | None = None
    folder: int | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    def of(self, paths: Sequence[str]) -> list[str | None]:
        """Return the value of each path, None for a path that the rule does not cover."""
        if self.pattern is not None:
            compiled = _compiled(self.pattern)
            whole = "/" in self.pattern
            return [_value(compiled, path if whole else path.rpartition("/")[2]) for path in paths]
        if self.folder is not None:
            return [_folder(path, self.folder) for path in paths]
        return [self._listed(path) for path in paths]

    def _listed(self, path: str) -> str | None:
        if path in self.values:
            return self.values[path]
        stem = path_stem(path)
        return self.values.get(stem, self.values.get(stem.rpartition("/")[2]))

    def describe(self) -> str:
        """Return the rule as text for messages and reports."""
        if self.pattern is not None:
            return self.pattern
        if self.folder is not None:
            return f"folder:{self.folder}"
        return f"list of {plural(len(self.values), 'value')}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        if self.pattern is not None:
            return {"pattern": self.pattern}
        if self.folder is not None:
            return {"folder": self.folder}
        return {"values": dict(sorted(self.values.items()))}

    @classmethod
    def from_dict(cls, name: str, value: Any) -> Grouping:
        """Parse `{"pattern": "^(\\\\w+?)_"}`, `{"folder": 1}` or `{"values": {path: value}}`.

        Raises `InvalidParameter` with the name of the grouping.
        """
        if isinstance(value, dict) and len(value) == 1:
            ((kind, argument),) = value.items()
            if kind == "pattern" and isinstance(argument, str):
                try:
                    _compiled(argument)
                except ValueError as problem:
                    raise _invalid(name, str(problem)) from None
                return cls(pattern=argument)
            if kind == "folder" and isinstance(argument, int) and 0 < abs(argument) <= MAX_LEVEL:
                return cls(folder=argument)
            if kind == "values" and _is_mapping_of_text(argument):
                return cls(values=argument)
        raise _invalid(
            name,
            "expected {'pattern': '^(\\\\w+?)_'}, {'folder': 1} (−1 is the innermost folder), or "
            "{'values': {path: value}}",
        )


def _is_mapping_of_text(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(item, str) and item for item in value.values())
    )


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> Any:
    """Return a compiled expression. Raises `ValueError` with the reason.

    RE2 searches in linear time, so an expression from a request cannot stop the server.
    """
    import re2

    if len(text) > MAX_LENGTH:
        raise ValueError(f"the expression is longer than {MAX_LENGTH} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(f"{text!r} is not a regular expression of RE2: {reason}") from None


def _value(pattern: Any, text: str) -> str | None:
    """Return the first group of the first match, or the whole match without groups; None without one."""
    match = pattern.search(text)
    return None if match is None else match.group(1 if pattern.groups else 0) or None


def _folder(path: str, level: int) -> str | None:
    folders = path.split("/")[:-1]
    index = level - 1 if level > 0 else level
    return folders[index] if -len(folders) <= index < len(folders) else None


def _invalid(name: str, message: str) -> InvalidParameter:
    return InvalidParameter(("groups", f"{name}: {message}"))


class GroupName(Struct, frozen=True):
    """One group of samples, as a request names it: `RULE:VALUE`, or `SPLIT/RULE:VALUE` for those in a split.

    split  name of the split; None for all samples
    rule   name of a rule of the dataset, or its text
    value  value of the group
    """

    split: str | None
    rule: str
    value: str

    @classmethod
    def parse(cls, text: str, splits: Iterable[str]) -> GroupName | None:
        """Return the group that a text names; None if it cannot be one.

        splits  names of the splits of the dataset
        """
        within = [name for name in splits if text.startswith(f"{name}/")]
        split = max(within, key=len, default=None)
        match = _GROUP.fullmatch(text if split is None else text[len(split) + 1 :])
        return None if match is None else cls(split, match[1], match[2])


def from_dict(value: Mapping[str, Any]) -> dict[str, Grouping]:
    """Parse the JSON form of several groupings, name → grouping. Raises `InvalidParameter`."""
    for name in value:
        if not _NAME.fullmatch(name):
            raise _invalid(name, "a name may contain letters, digits, '-', '_' and '.'")
    return {name: Grouping.from_dict(name, item) for name, item in value.items()}


def suggest(paths: Sequence[str]) -> dict[str, Grouping]:
    """Return the rules in `SUGGESTED` that divide these paths into at least two groups of several samples."""
    result = {}
    for name, pattern in SUGGESTED.items():
        grouping = Grouping(pattern=pattern)
        values = [value for value in grouping.of(paths) if value is not None]
        if len(values) >= MIN_COVERED * len(paths) and 2 <= len(set(values)) < len(values):
            result[name] = grouping
    return result


def is_name(text: str) -> bool:
    """Return whether a text can only be the name of a rule: letters, digits, "-" and "_"."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text) is not None


def read_option(text: str, *, files: bool) -> tuple[str, Grouping]:
    """Return the name and the rule that a text defines.

    The text is `NAME=EXPRESSION`, `NAME=folder:LEVEL` or `NAME=FILE.csv`. Without `NAME=`, the name is
    `DEFAULT_NAME`.

    files  whether the text may name a file to read

    Raises `InvalidParameter`.
    """
    name, equals, rule = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        name, rule = DEFAULT_NAME, text
    if match := _FOLDER.fullmatch(rule):
        return name, Grouping.from_dict(name, {"folder": int(match[1])})
    if files and rule.lower().endswith(".csv"):
        return name, Grouping.from_dict(name, {"values": _read_csv(name, Path(rule))})
    return name, Grouping.from_dict(name, {"pattern": rule})


def _read_csv(name: str, file: Path) -> dict[str, str]:
    """Return the values of a CSV file with the columns path and value; a header is optional."""
    import csv

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _invalid(name, f"{file} cannot be read as CSV: {error}") from error
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2 or not all(row)), None)
    if wrong is not None or not rows:
        raise _invalid(name, f"{file}: expected two columns, path and value, in row {wrong or 1}")
    if rows[0][0].lower() in ("path", "file", "name", "image"):
        del rows[0]
    return {row[0]: row[1] for row in rows}
