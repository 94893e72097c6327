"""Counts taken elsewhere: reading a file of them."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.statistics import Histogram

if TYPE_CHECKING:
    from pathlib import Path

MAX_COUNT = 2**63 - 1


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
    rows = _json_rows(file, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(file, text)
    if not rows:
        raise InvalidParameter(("file", f"{file} holds no counts"))
    order = sorted(rows)
    pixels = [rows[raw_id][0] for raw_id in order]
    if sum(pixels) > MAX_COUNT:
        raise InvalidParameter(("file", f"{file}: the pixels add up to more than {MAX_COUNT}"))
    known = all(rows[raw_id][1] is not None for raw_id in order)
    images = np.array([rows[raw_id][1] for raw_id in order], np.int64) if known else None
    class_id = np.array(order, np.int64)
    return Histogram(class_id, np.ones(len(order), bool), np.array(pixels, np.int64), images, None, None)


def _json_rows(file: Path, text: str) -> dict[int, tuple[int, int | None]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = {key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1}
        if twice:
            raise InvalidParameter(("file", f"{file}: {min(twice)!r} is there twice"))
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidParameter(("file", f"{file}, line {error.lineno}: not JSON ({error.msg})")) from error
    if not isinstance(value, dict):
        raise InvalidParameter(("file", f'{file}: expected {{"raw id": pixels, …}}'))
    return {
        _integer(file, f"id {key!r}", key): (_count(file, key, count), None) for key, count in value.items()
    }


def _csv_rows(file: Path, text: str) -> dict[int, tuple[int, int | None]]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = [name.strip().lower() for name in table.fieldnames or ()]
    if not {"id", "pixels"} <= set(columns):
        raise InvalidParameter(
            (
                "file",
                f'{file}: expected JSON {{"raw id": pixels, …}}, or CSV with columns id,pixels[,images]',
            )
        )
    table.fieldnames = columns
    rows: dict[int, tuple[int, int | None]] = {}
    for row in table:
        where = f"line {table.line_num}"
        raw_id = _integer(file, f"{where}, id", row["id"])
        if raw_id in rows:
            raise InvalidParameter(("file", f"{file}, {where}: id {raw_id} is there twice"))
        images = row.get("images") or None
        rows[raw_id] = (
            _count(file, where, row["pixels"]),
            None if images is None else _count(file, f"{where}, images", images),
        )
    return rows


def _integer(file: Path, where: str, value: Any) -> int:
    try:
        number = int(str(value).strip())
    except ValueError:
        raise InvalidParameter(("file", f"{file}, {where}: {value!r} is not an integer")) from None
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
