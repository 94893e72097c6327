"""Class lists: files that list the classes of a dataset, as datasets and annotation tools write them.

========================  =====================================================================
`_classes.csv`            Roboflow: `Pixel Value, Class`
`labelmap.txt`            CVAT, Datumaro: `label:color_rgb:parts:actions`, ids by line
`class_dict.csv`          DeepGlobe, SegNet: `name,r,g,b`, ids by line
`label_colors.txt`        CamVid: `r g b name`, ids by line
`dataset.json`            nnU-Net: `labels`, name → id or id → name
`data.yaml`               Ultralytics: `names`, a list or id → name
`*.aux.xml`               GDAL: category names, raster attribute table
other CSV                 a header with a column of names and, optionally, of ids and colors
other JSON, YAML          a list of names, id → name, name → id, COCO's `categories`
other text                one name per line, or an id and a name per line
========================  =====================================================================
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from statsvc.classes.class_maps import IGNORE, MAX_CLASSES
from statsvc.common.sealed import Sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FILE_NAMES = (
    "_classes.csv",
    "labelmap.txt",
    "class_dict.csv",
    "class_dict_seg.csv",
    "label_colors.txt",
    "dataset.json",
    "data.yaml",
    "data.yml",
    "classes.csv",
    "classes.json",
    "classes.yaml",
    "id2label.json",
    "classes.txt",
    "class_names.txt",
)
"""Usual names of class lists, the most explicit first."""

MAX_BYTES = 8 * 2**20
"""Largest size of a class list."""

MAX_NAME_LENGTH = 200

ID_COLUMNS = ("id", "pixel value", "value", "index", "idx", "class_id", "class id", "label_id", "pixel_value")
NAME_COLUMNS = (
    "name",
    "class",
    "class_name",
    "class name",
    "label",
    "classes",
    "names",
    "labels",
    "category",
)
COLOR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
_CVAT_LINE = re.compile(r"([^:]*):\s*([0-9]+\s*,\s*[0-9]+\s*,\s*[0-9]+)?\s*:[^:]*:.*")
_ID_AND_NAME = re.compile(r"([0-9]{1,10})(?:\s*[:;,\t]\s*|\s+)(\S.*)")
_COLOR_AND_NAME = re.compile(r"([0-9]{1,3})[\s,]+([0-9]{1,3})[\s,]+([0-9]{1,3})[\s,]+([^\s\d].*)")
_LABELME_IGNORED = "__ignore__"
"""First line of labelme's `labels.txt`, whose id is −1: https://github.com/wkentaro/labelme."""

_FILE = re.compile(r"\.(png|jpe?g|tiff?|npy|npz|nii|bmp|gif|webp|h5)\b", re.IGNORECASE)


class ClassList(Sealed, frozen=True):
    """The classes that a file lists.

    names     (id, name), ids unique and in the order of the file
    colors    (red, green, blue, id), each color once; empty if the file defines none
    ignored   ids that the file marks as ignored
    explicit  whether the file states the ids; otherwise the id is the position in the file
    """

    names: tuple[tuple[int, str], ...]
    colors: tuple[tuple[int, int, int, int], ...] = ()
    ignored: tuple[int, ...] = ()
    explicit: bool = True

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the ids 0 … n−1, or the id where the file names none.

        255 is not a class but ignored if it is the highest of several ids, and neither are ignored ids.
        """
        known = {class_id: name for class_id, name in self.names if class_id >= 0}
        if len(known) > 1 and max(known) == IGNORE:
            del known[IGNORE]
        for class_id in sorted(self.ignored, reverse=True):
            if class_id in known and class_id == max(known):
                del known[class_id]
        return tuple(known.get(k, str(k)) for k in range(max(known, default=-1) + 1))


def parse(file_name: str, content: bytes) -> ClassList:
    """Parse the class list in a file; the suffix of its name selects the format.

    Raises `ValueError`, whose message does not include the name of the file, for a malformed file and for
    anything that is not a class list.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"the file has {len(content)} bytes; a class list has at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if "\0" in text:
        raise ValueError("it is a binary file, not a list of classes")
    suffix = PurePath(file_name).suffix.lower()
    # A list in JSON is recognized whatever the file is called.
    reader = _parse_json if text.lstrip().startswith(("{", "[")) else _READERS.get(suffix, _parse_text)
    result = reader(text)
    if not result.names:
        raise ValueError("it lists no classes")
    return result


def _class_list(
    entries: Iterable[tuple[str, int, Any, Sequence[int] | None]],
    ignored: Iterable[int] = (),
    *,
    explicit: bool,
) -> ClassList:
    """Check entries (position in the file, id, name, color or None), and return them as a class list."""
    names: dict[int, str] = {}
    colors: dict[tuple[int, int, int], int] = {}
    for position, class_id, name, color in entries:
        if class_id >= MAX_CLASSES:
            raise ValueError(f"{position}: the id must be below {MAX_CLASSES}, got {class_id}")
        if class_id in names:
            raise ValueError(f"{position}: the id {class_id} occurs twice; keep one of the entries")
        names[class_id] = _checked_name(name, position)
        if color is not None:
            red, green, blue = color
            if not all(0 <= component <= 255 for component in color):
                raise ValueError(f"{position}: colors must be from 0 to 255, got {red},{green},{blue}")
            if (red, green, blue) in colors:
                raise ValueError(
                    f"{position}: the color {red},{green},{blue} occurs twice; keep one of the entries"
                )
            colors[red, green, blue] = class_id
    rows = tuple((*color, class_id) for color, class_id in colors.items())
    return ClassList(tuple(names.items()), rows, tuple(ignored), explicit)


def _checked_name(name: Any, position: str) -> str:
    text = name.strip() if isinstance(name, str) else ""
    if not text or not text.isprintable() or len(text) > MAX_NAME_LENGTH:
        # A list can be exponentially large, because YAML has aliases.
        shown = repr(name[:40]) if isinstance(name, str) else f"a value of type {type(name).__name__}"
        raise ValueError(f"{position}: expected the name of a class, got {shown}")
    if _FILE.search(text):
        raise ValueError(f"{position}: {text[:40]!r} is the name of a file, so this is not a list of classes")
    return text


def _parse_json(text: str) -> ClassList:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: invalid JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("it has too many nested levels") from None
    return _parse_structure(content)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice; keep one of the entries")
        result[key] = value
    return result


def _parse_yaml(text: str) -> ClassList:
    import yaml

    try:
        # The base loader reads every scalar as text, so that `on` and `010` stay names.
        content = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - it creates nothing but str, list and dict
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = "" if mark is None else f"line {mark.line + 1}: "
        raise ValueError(f"{position}invalid YAML: {getattr(error, 'problem', error)}") from None
    except RecursionError:
        raise ValueError("it has too many nested levels") from None
    return _parse_structure(content)


def _parse_structure(content: Any) -> ClassList:
    """Return the class list in the content of a JSON or YAML file."""
    if isinstance(content, dict):
        for key in ("names", "labels", "categories", "id2label", "classes"):
            if isinstance(content.get(key), (dict, list)):
                return _parse_classes(content[key], key)
    return _parse_classes(content, "the file")


def _parse_classes(classes: Any, where: str) -> ClassList:
    if isinstance(classes, dict):
        return _parse_mapping(classes, where)
    if not isinstance(classes, list):
        raise ValueError("expected a list of names, or a mapping of id to name")  # noqa: TRY004
    if all(isinstance(item, dict) for item in classes):
        return _parse_records(classes, where)
    return _class_list(
        ((f"{where}, entry {k}", k, name, None) for k, name in enumerate(classes)), explicit=False
    )


def _parse_mapping(classes: dict[Any, Any], where: str) -> ClassList:
    """Return the classes of id → name or name → id; nnU-Net's regions, lists of ids, are skipped."""
    if all(_is_integer(key) for key in classes):
        entries = [(f"{where}, key {key}", int(key), name, None) for key, name in classes.items()]
    elif _is_name_to_id(classes, where):
        named = [(name, int(value)) for name, value in classes.items() if _is_integer(value)]
        entries = [(f"{where}, key {name!r}", class_id, name, None) for name, class_id in named]
    else:
        raise ValueError(f"{where}: expected a list of names, a mapping of id to name, or of name to id")
    ignored = [class_id for _, class_id, name, _ in entries if name == "ignore"]
    return _class_list(entries, ignored, explicit=True)


def _is_name_to_id(classes: dict[Any, Any], where: str) -> bool:
    """Whether a mapping is name → id. A single number is not, unless in a section."""
    values = classes.values()
    return all(_is_integer(value) or isinstance(value, list) for value in values) and (
        len(classes) > 1 or where != "the file"
    )


def _parse_records(records: list[dict[str, Any]], where: str) -> ClassList:
    """Return the classes of a list of objects, such as COCO's categories or Mapillary's labels."""
    entries = []
    explicit = all(_is_integer(record.get("id")) for record in records)
    for k, record in enumerate(records):
        name = record.get("readable") or record.get("name")
        if name is None:
            raise ValueError(f"{where}, entry {k}: expected an object with a name, got {list(record)[:5]}")
        color = record.get("color")
        if not (isinstance(color, list) and len(color) == 3 and all(map(_is_integer, color))):
            color = None
        position = f"{where}, entry {k}"
        entries.append((position, int(record["id"]) if explicit else k, name, color and [*map(int, color)]))
    if len({tuple(color) for *_, color in entries if color}) < len(entries):
        # Without a color of its own for each class, colors do not identify classes.
        entries = [(position, class_id, name, None) for position, class_id, name, _ in entries]
    return _class_list(entries, explicit=explicit)


def _parse_csv(text: str) -> ClassList:
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        lines = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: invalid CSV: {error}") from None
    if not rows:
        raise ValueError("it lists no classes")
    header = [cell.lower() for cell in rows[0][1]]
    if "train_id" in header:
        raise ValueError("it is a class map (id,train_id); pass it with --class-map")
    if any(cell in NAME_COLUMNS for cell in header):
        return _parse_table(header, rows[1:])
    cells = [row for _, row in rows]
    if all(len(row) == 1 for row in cells):
        return _class_list(
            ((f"line {n}", k, row[0], None) for k, (n, row) in enumerate(rows)), explicit=False
        )
    if all(len(row) == 2 and _is_integer(row[0]) for row in cells):
        return _class_list(((f"line {n}", int(row[0]), row[1], None) for n, row in rows), explicit=True)
    raise ValueError(
        f"line {rows[0][0]}: expected a header with a column of names ({', '.join(NAME_COLUMNS[:4])}) and, "
        f"optionally, of ids ({', '.join(ID_COLUMNS[:4])}) and colors (r,g,b), got {','.join(rows[0][1])!r}"
    )


def _parse_table(header: list[str], rows: list[tuple[int, list[str]]]) -> ClassList:
    """Return the classes of a table with a header; further columns are ignored."""
    id_column = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    name_column = header.index(next(name for name in NAME_COLUMNS if name in header))
    colors = next((columns for columns in COLOR_COLUMNS if set(columns) <= set(header)), ())
    entries = []
    for k, (line, row) in enumerate(rows):
        position = f"line {line}"
        if len(row) != len(header):
            raise ValueError(f"{position}: expected {len(header)} cells ({','.join(header)}), got {len(row)}")
        numbers = [row[header.index(column)] for column in colors]
        if id_column is not None:
            numbers.append(row[id_column])
        if not all(map(_is_integer, numbers)):
            raise ValueError(f"{position}: ids and colors must be integers, got {','.join(numbers)}")
        class_id = k if id_column is None else int(row[id_column])
        color = [*map(int, numbers[:3])] if colors else None
        entries.append((position, class_id, row[name_column], color))
    return _class_list(entries, explicit=id_column is not None)


def _parse_text(text: str) -> ClassList:
    """Return the classes of a text file: CVAT's label map, or a name, `id name` or `r g b name` per line."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError("it lists no classes")
    if ":" in lines[0][1] and (_CVAT_LINE.fullmatch(lines[0][1]) or "color_rgb" in text):
        return _parse_cvat(lines)
    header = [cell.strip().lower() for cell in re.split(r"[,;\t]", lines[0][1])]
    if len(lines) > 1 and any(cell in NAME_COLUMNS for cell in header):
        return _parse_csv("\n".join(line for _, line in lines))
    if colored := _all_match(_COLOR_AND_NAME, lines):
        return _class_list(
            (
                (f"line {n}", k, name, (int(r), int(g), int(b)))
                for k, (n, (r, g, b, name)) in enumerate(colored)
            ),
            explicit=False,
        )
    if numbered := _all_match(_ID_AND_NAME, lines):
        return _class_list(((f"line {n}", int(i), name, None) for n, (i, name) in numbered), explicit=True)
    first = -1 if lines[0][1] == _LABELME_IGNORED else 0
    return _class_list(
        ((f"line {n}", k, line, None) for k, (n, line) in enumerate(lines, first)), explicit=False
    )


def _all_match(pattern: re.Pattern[str], lines: list[tuple[int, str]]) -> list[tuple[int, tuple[str, ...]]]:
    """Return (line number, groups) of each line; empty unless every line matches."""
    matches = [(n, pattern.fullmatch(line)) for n, line in lines]
    return [(n, match.groups()) for n, match in matches if match] if all(m for _, m in matches) else []


def _parse_cvat(lines: list[tuple[int, str]]) -> ClassList:
    """Return the classes of a label map of CVAT and Datumaro; ids are the positions of the lines.

    Format: https://docs.cvat.ai/docs/dataset_management/formats/format-smask/.
    """
    entries = []
    for k, (n, line) in enumerate(lines):
        match = _CVAT_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {n}: expected label:red,green,blue:parts:actions, got {line[:60]!r}")
        color = None if match[2] is None else [int(component) for component in match[2].split(",")]
        entries.append((f"line {n}", k, match[1], color))
    uncolored = [position for position, _, _, color in entries if color is None]
    if uncolored and len(uncolored) < len(entries):
        raise ValueError(f"{uncolored[0]}: the color is missing, but other labels have one")
    return _class_list(entries, explicit=False)


def _parse_gdal(text: str) -> ClassList:
    """Return the classes of GDAL's auxiliary metadata: its attribute table, or its category names.

    Format: https://gdal.org/en/stable/drivers/raster/vrt.html and `GDALRATFieldUsage` of gdal.h.
    """
    import xml.etree.ElementTree as ET

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it defines entities, which auxiliary metadata of GDAL never does")
    try:
        root = ET.fromstring(text)  # noqa: S314 - without entities, its size is bounded
    except ET.ParseError as error:
        raise ValueError(f"invalid XML: {error}") from None
    if (table := root.find(".//GDALRasterAttributeTable")) is not None:
        usages = [field.findtext("Usage", "") for field in table.findall("FieldDefn")]
        values = next((usages.index(usage) for usage in ("5", "3") if usage in usages), None)
        if values is not None and "2" in usages:
            rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
            entries = []
            for k, row in enumerate(rows):
                position = f"row {k} of the attribute table"
                if len(row) != len(usages) or not _is_whole(row[values]):
                    raise ValueError(f"{position}: expected a whole value and a name, got {row}")
                entries.append((position, int(float(row[values])), row[usages.index("2")], None))
            return _class_list(entries, explicit=True)
    names = [category.text or "" for category in root.iterfind(".//CategoryNames/Category")]
    named = ((f"category {k}", k, name, None) for k, name in enumerate(names) if name.strip())
    return _class_list(named, explicit=True)


def _is_integer(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value.strip()) is not None)


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\s*-?[0-9]{1,10}(\.0*)?\s*", text) is not None


_READERS: dict[str, Callable[[str], ClassList]] = {
    ".csv": _parse_csv,
    ".tsv": _parse_csv,
    ".json": _parse_json,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".xml": _parse_gdal,
}
