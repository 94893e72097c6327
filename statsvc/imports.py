"""Counts taken elsewhere: reading a file of them."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.statistics import MAX_IDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    Row = tuple[int, int | None]
    """Pixels and, where known, images of an id."""

MAX_COUNT = 2**63 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,25}")


def read_counts(file: Path) -> Histogram:
    """Return the totals in a JSON file `{raw id: pixels}` or a CSV with columns id, pixels[, images].

    Raises `InvalidParameter` naming the file, and the entry that cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidParameter(("file", f"{file} does not exist")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(("file", f"{file} cannot be read as text: {error}")) from error
    entries = _json_rows(file, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(file, text)
    rows: dict[int, Row] = {}
    for where, raw_id, row in entries:
        if raw_id in rows:
            # Also "7" beside "07" or " 7": one of the two counts would be lost.
            raise InvalidParameter(("file", f"{file}, {where}: id {raw_id} is there twice"))
        rows[raw_id] = row
        if len(rows) > MAX_IDS:
            raise InvalidParameter(
                (
                    "file",
                    f"{file} holds more than {MAX_IDS} different ids: are they instance ids, not classes?",
                )
            )
    if not any(pixels for pixels, _ in rows.values()):
        raise InvalidParameter(("file", f"{file} holds no counts above 0"))
    order = sorted(rows)
    pixels = [rows[raw_id][0] for raw_id in order]
    if sum(pixels) > MAX_COUNT:
        raise InvalidParameter(("file", f"{file}: the pixels add up to more than {MAX_COUNT}"))
    known = all(rows[raw_id][1] is not None for raw_id in order)
    images = np.array([rows[raw_id][1] for raw_id in order], np.int64) if known else None
    class_id = np.array(order, np.int64)
    return Histogram(class_id, np.ones(len(order), bool), np.array(pixels, np.int64), images, None, None)


def _json_rows(file: Path, text: str) -> Iterable[tuple[str, int, Row]]:
    """Yield (where in the file, raw id, counts)."""
    try:
        # An object is read as its pairs, for a key that is there twice must not pass for one.
        value = json.loads(text, object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise InvalidParameter(("file", f"{file}, line {error.lineno}: not JSON ({error.msg})")) from error
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(("file", f"{file}: JSON that cannot be read ({error})")) from error
    if not isinstance(value, tuple):
        raise InvalidParameter(("file", f'{file}: expected {{"raw id": pixels, …}}'))
    for key, count in value:
        yield f"id {key!r}", _integer(file, f"id {key!r}", key), (_count(file, key, count), None)


def _csv_rows(file: Path, text: str) -> Iterable[tuple[str, int, Row]]:
    """Yield (where in the file, raw id, counts)."""
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = [name.strip().lower() for name in table.fieldnames or ()]
        if not {"id", "pixels"} <= set(columns):
            raise InvalidParameter(
                (
                    "file",
                    f'{file}: expected JSON {{"raw id": pixels, …}}, or CSV with columns id,pixels[,images]',
                )
            )
        table.fieldnames = columns
        for row in table:
            where = f"line {table.line_num}"
            images = row.get("images") or None
            counts = (
                _count(file, where, row["pixels"]),
                None if images is None else _count(file, f"{where}, images", images),
            )
            yield where, _integer(file, f"{where}, id", row["id"]), counts
    except csv.Error as error:
        raise InvalidParameter(("file", f"{file}, line {table.line_num + 1}: not CSV ({error})")) from error


def _integer(file: Path, where: str, value: Any) -> int:
    text = str(value).strip()
    if not _INTEGER.fullmatch(text):
        raise InvalidParameter(("file", f"{file}, {where}: {value!r} is not an integer"))
    number = int(text)
    if not -MAX_COUNT <= number <= MAX_COUNT:
        raise InvalidParameter(("file", f"{file}, {where}: {number} does not fit 64 bits"))
    return number


def _count(file: Path, where: str, value: Any) -> int:
    if isinstance(value, bool | float) and not (isinstance(value, float) and value.is_integer()):
        raise InvalidParameter(("file", f"{file}, {where}: {value!r} is not a count of pixels"))
    number = _integer(file, where, int(value) if isinstance(value, float) else value)
    if number < 0:
        raise InvalidParameter(("file", f"{file}, {where}: {number} pixels"))
    return number
