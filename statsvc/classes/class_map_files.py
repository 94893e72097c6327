"""Class maps in YAML, JSON and CSV files.

YAML and JSON files contain one of these forms, CSV files have the header `id,train_id` or
`id,train_id,name`::

    {7: 0, 8: 1, 9: ignore}
    {map: {7: 0, 8: 1, 9: ignore}, names: {0: road, 1: sidewalk}, source: "publication"}

Keys are raw ids, values are class ids (`train_id` in CSV); `ignore` means class id 255. `names` can also be
a list. Every scalar is read as text, so YAML's `on`, `010` and `1:30` are errors instead of True, 8 and 90.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statsvc.classes.class_maps import BUILTIN, IGNORE, MAX_CLASSES, builtin, make_class_map
from statsvc.errors import InvalidParameter, NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.classes.class_maps import ClassMap

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_KEYS = ("map", "names", "source")
_MAX_BYTES = 8 * 2**20
_MAX_DEPTH = 3  # the file, its map or names, their entries


class _Malformed(ValueError):
    """A problem in a class map file; the message does not include the file's name."""


class _Object(list[tuple[str, Any, str]]):
    """A mapping as (key, value, position in the file) in file order, so that duplicate keys are detected."""


def resolve(text: str) -> ClassMap:
    """Return the class map that `text` names: a built-in one, or the path of a file.

    Raises `NotFound` if it is neither, and `InvalidParameter` for a malformed file.
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


def load(path: Path) -> ClassMap:
    """Read a class map file, whose suffix (.yaml, .yml, .json, .csv) selects the format.

    Raises `InvalidParameter` with the file, the line or key, and what is expected there.
    """
    readers: dict[str, Callable[[str], Any]] = {
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
        ".json": _read_json,
        ".csv": _read_csv,
    }
    try:
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise _Malformed(f"the suffix of a class map file must be one of {', '.join(readers)}")
        return _parse(path.stem, reader(_read_text(path)))
    except ValueError as error:
        raise InvalidParameter(("class_map", f"{path}: {error}")) from None


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _Malformed(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise _Malformed(f"the file has {len(content)} bytes; a class map has at most {_MAX_BYTES}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Malformed(f"byte {error.start} is not UTF-8; save the file as UTF-8 text") from None


def _parse(name: str, content: Any) -> ClassMap:
    if not isinstance(content, _Object):
        raise _Malformed("expected a mapping of raw id to class id, such as {7: 0, 8: 1}")
    mapping, names, source = _sections(content)
    targets: dict[int, int] = {}
    for key, value, position in mapping:
        raw = _parse_integer(key, position, "a raw id")
        if raw in targets:
            raise _Malformed(f"{position}: raw id {raw} occurs twice; keep one of the entries")
        targets[raw] = _parse_target(value, position)
    return make_class_map(name, targets.items(), _parse_names(names, targets), source=source)


def _sections(content: _Object) -> tuple[_Object, Any, str]:
    """Return the map, the names and the source of a file in either form."""
    if not any(key == "map" for key, _, _ in content):
        return content, [], ""
    mapping, names, source = _Object(), [], ""
    seen = set()
    for key, value, position in content:
        if key not in _KEYS:
            raise _Malformed(
                f"{position}: unknown key {key!r}{nearest(key, _KEYS)}; known keys: {', '.join(_KEYS)}"
            )
        if key in seen:
            raise _Malformed(f"{position}: {key} occurs twice; keep one of the entries")
        seen.add(key)
        if key == "map":
            if not isinstance(value, _Object):
                raise _Malformed(
                    f"{position}: map must contain raw id: class id pairs, such as {{7: 0, 8: 1}}"
                )
            mapping = value
        elif key == "names":
            names = value
        elif not isinstance(value, str):
            raise _Malformed(f"{position}: source must be a string")
        else:
            source = value
    return mapping, names, source


def _parse_integer(value: Any, position: str, expected: str) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise _Malformed(f"{position}: expected {expected}, an integer such as 7, got {_quoted(value)}")
    return int(value)


def _parse_target(value: Any, position: str) -> int:
    if value == "ignore":
        return IGNORE
    return _parse_integer(value, position, "a class id or the word ignore")


def _quoted(value: Any) -> str:
    return "a mapping or list" if isinstance(value, list) else repr(value)


def _parse_names(value: Any, targets: dict[int, int]) -> tuple[str, ...]:
    """Return the names of the class ids 0 … n−1; a class without a name gets its id as its name."""
    if isinstance(value, _Object):
        name_of: dict[int, str] = {}
        for key, name, position in value:
            class_id = _parse_integer(key, position, "a class id")
            if class_id in name_of:
                raise _Malformed(f"{position}: class id {class_id} has two names; keep one of them")
            if class_id not in targets.values():
                raise _Malformed(f"{position}: class id {class_id} has a name, but no raw id is mapped to it")
            name_of[class_id] = _parse_name(name, position)
        name_of = {class_id: name for class_id, name in name_of.items() if 0 <= class_id != IGNORE}
        classes = max(name_of, default=-1) + 1
        if classes > MAX_CLASSES:
            raise _Malformed(f"class id {classes - 1} is too large: a class id is at most {MAX_CLASSES - 1}")
        return tuple(name_of.get(class_id, str(class_id)) for class_id in range(classes))
    if not isinstance(value, list):
        raise _Malformed("names must be a list of strings, or a mapping of class id to string")
    return tuple(_parse_name(name, f"names, entry {k}") for k, name in enumerate(value))


def _parse_name(value: Any, position: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Malformed(f"{position}: expected a name, got {_quoted(value)}")
    return value.strip()


def _read_yaml(text: str) -> Any:
    import yaml

    converted: set[int] = set()

    def convert(node: yaml.Node, depth: int) -> Any:
        if id(node) in converted:
            # An alias of an alias of … is exponentially large.
            raise _Malformed(f"line {node.start_mark.line + 1}: write the value again instead of an alias")
        converted.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return node.value
        if depth == _MAX_DEPTH:
            raise _Malformed(f"line {node.start_mark.line + 1}: too many nested levels for a class map")
        if isinstance(node, yaml.SequenceNode):
            return [convert(item, depth + 1) for item in node.value]
        result = _Object()
        for key, value in node.value:
            position = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise _Malformed(f"{position}: expected a raw id, got {_quoted([])}")
            result.append((key.value, convert(value, depth + 1), position))
        return result

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = "" if mark is None else f"line {mark.line + 1}: "
        raise _Malformed(f"{position}invalid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise _Malformed(f"invalid YAML: {error}") from None
    except RecursionError:
        raise _Malformed("too many nested levels for a class map") from None
    if node is None:
        raise _Malformed("the file is empty; expected lines of raw id: class id, such as 7: 0")
    return convert(node, 0)


def _read_json(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> _Object:
        return _Object((key, value, f"key {key!r}") for key, value in items)

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise _Malformed(f"line {error.lineno}: invalid JSON: {error.msg}") from None
    except RecursionError:
        raise _Malformed("too many nested levels for a class map") from None


def _read_csv(text: str) -> _Object:
    """Return the rows in the structure of the other readers; the first name of a class id wins."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    table, names, named = _Object(), _Object(), set()
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if header not in (["id", "train_id"], ["id", "train_id", "name"]):
            raise _Malformed(f"line 1: expected the header id,train_id or id,train_id,name, got {header}")
        for row in rows:
            cells = [cell.strip() for cell in row]
            position = f"line {rows.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise _Malformed(
                    f"{position}: expected {len(header)} cells ({','.join(header)}), got {len(cells)}"
                )
            table.append((cells[0], cells[1], position))
            target = _parse_target(cells[1], position)
            if len(cells) == 3 and cells[2] and target not in named:
                named.add(target)
                names.append((str(target), cells[2], position))
    except csv.Error as error:
        raise _Malformed(f"line {rows.line_num}: invalid CSV: {error}") from None
    return _Object([("map", table, "map"), ("names", names, "names"), ("source", "", "source")])
