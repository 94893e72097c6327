"""Class maps from files of one's own.

YAML and JSON take either form, CSV the header `id,train_id` or `id,train_id,name`::

    {7: 0, 8: 1, 9: ignore}
    {map: {7: 0, 8: 1, 9: ignore}, names: {0: road, 1: sidewalk}, source: "where it is from"}

`names` may be a list as well. `ignore` is training id 255. Every scalar is read as text, so that YAML's
`on`, `010` and `1:30` are refused instead of becoming True, 8 and 90.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

from statsvc.classes.class_maps import IGNORE, checked
from statsvc.errors import InvalidParameter, nearest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statsvc.classes.class_maps import ClassMap

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_KEYS = ("map", "names", "source")
_LARGEST = 8 * 2**20


class _Malformed(ValueError):
    """What is wrong in a class map file, without the file's name."""


class _Object(list[tuple[str, Any, str]]):
    """A mapping as (key, value, place) in file order, so that a key given twice is seen."""


def load(path: Path) -> ClassMap:
    """Read a class map file; its suffix (.yaml, .yml, .json, .csv) says which form.

    Raises `InvalidParameter` naming the file, the line or key, and what is expected there.
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
            raise _Malformed(f"a class map is a file ending in {', '.join(readers)}")
        return _class_map(path.stem, reader(_text(path)))
    except ValueError as problem:
        raise InvalidParameter(("class_map", f"{path}: {problem}")) from None


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise _Malformed(f"cannot be read: {problem.strerror}") from None
    if len(content) > _LARGEST:
        raise _Malformed(f"{len(content)} bytes are too many for a class map")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise _Malformed(f"byte {problem.start} is not UTF-8: save the file as UTF-8 text") from None


def _class_map(name: str, top: Any) -> ClassMap:
    if not isinstance(top, _Object):
        raise _Malformed("expected a mapping of raw id to training id, such as {7: 0, 8: 1}")
    names: Any = []
    source = ""
    table = top
    if any(key == "map" for key, _, _ in top):
        table = _Object()
        seen = set()
        for key, value, place in top:
            if key not in _KEYS:
                raise _Malformed(
                    f"{place}: unknown key {key!r}{nearest(key, _KEYS)}; it takes map, names, source"
                )
            if key in seen:
                raise _Malformed(f"{place}: {key} is given twice")
            seen.add(key)
            if key == "map":
                if not isinstance(value, _Object):
                    raise _Malformed(f"{place}: map holds raw id: training id pairs, such as {{7: 0, 8: 1}}")
                table = value
            elif key == "names":
                names = value
            elif not isinstance(value, str):
                raise _Malformed(f"{place}: source is a text")
            else:
                source = value
    targets: dict[int, int] = {}
    for key, value, place in table:
        raw = _integer(key, place, "a raw id")
        if raw in targets:
            raise _Malformed(f"{place}: raw id {raw} is given twice")
        targets[raw] = _target(value, place)
    return checked(name, targets.items(), _names(names, targets), source=source)


def _integer(value: Any, place: str, what: str) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise _Malformed(f"{place}: expected {what}, an integer such as 7, found {_shown(value)}")
    return int(value)


def _target(value: Any, place: str) -> int:
    if value == "ignore":
        return IGNORE
    return _integer(value, place, "a training id or the word ignore")


def _shown(value: Any) -> str:
    return "a mapping or list" if isinstance(value, list) else repr(value)


def _names(value: Any, targets: dict[int, int]) -> tuple[str, ...]:
    """Return names of training ids 0 … n−1; a gap in a mapping of names is filled with the id."""
    if isinstance(value, _Object):
        given: dict[int, str] = {}
        for key, name, place in value:
            train_id = _integer(key, place, "a training id")
            if train_id in given:
                raise _Malformed(f"{place}: training id {train_id} has two names")
            if train_id not in targets.values():
                raise _Malformed(f"{place}: names training id {train_id}, which no raw id becomes")
            given[train_id] = _name(name, place)
        given = {train_id: name for train_id, name in given.items() if 0 <= train_id != IGNORE}
        return tuple(given.get(train_id, str(train_id)) for train_id in range(max(given, default=-1) + 1))
    if not isinstance(value, list):
        raise _Malformed("names is a list of texts, or a mapping of training id to text")
    return tuple(_name(name, f"names, entry {k}") for k, name in enumerate(value))


def _name(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Malformed(f"{place}: expected a name, found {_shown(value)}")
    return value.strip()


def _read_yaml(text: str) -> Any:
    import yaml

    def convert(node: yaml.Node, depth: int) -> Any:
        line = f"line {node.start_mark.line + 1}"
        if isinstance(node, yaml.ScalarNode):
            return node.value
        if depth == 3:
            raise _Malformed(f"{line}: nested too deeply for a class map")
        if isinstance(node, yaml.SequenceNode):
            return [convert(item, depth + 1) for item in node.value]
        result = _Object()
        for key, value in node.value:
            place = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise _Malformed(f"{place}: expected a raw id, found {_shown([])}")
            result.append((key.value, convert(value, depth + 1), place))
        return result

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise _Malformed(f"{where}not YAML: {problem.problem or problem.context}") from None
    except yaml.YAMLError as problem:
        raise _Malformed(f"not YAML: {problem}") from None
    except RecursionError:
        raise _Malformed("nested too deeply for a class map") from None
    if node is None:
        raise _Malformed("the file is empty: expected raw id: training id lines, such as 7: 0")
    return convert(node, 0)


def _read_json(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> _Object:
        return _Object((key, value, f"key {key!r}") for key, value in items)

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as problem:
        raise _Malformed(f"line {problem.lineno}: not JSON: {problem.msg}") from None
    except RecursionError:
        raise _Malformed("nested too deeply for a class map") from None


def _read_csv(text: str) -> _Object:
    """Return the same structure as the other readers; the first name given to a training id is its name."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    table, names, named = _Object(), _Object(), set()
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if header not in (["id", "train_id"], ["id", "train_id", "name"]):
            raise _Malformed(f"line 1: expected the header id,train_id or id,train_id,name, found {header}")
        for row in rows:
            cells = [cell.strip() for cell in row]
            place = f"line {rows.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise _Malformed(
                    f"{place}: expected {len(header)} cells ({','.join(header)}), found {len(cells)}"
                )
            table.append((cells[0], cells[1], place))
            target = _target(cells[1], place)
            if len(cells) == 3 and cells[2] and target not in named:
                named.add(target)
                names.append((str(target), cells[2], place))
    except csv.Error as problem:
        raise _Malformed(f"line {rows.line_num}: not CSV: {problem}") from None
    return _Object([("map", table, "map"), ("names", names, "names"), ("source", "", "source")])
