"""Counts taken elsewhere: reading a file, or the body of a request, that holds them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.utf8 import is_encodable
from statsvc.dataset.table import MAX_IDS, Histogram
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_COUNT = 2**63 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,25}")

FILE = "file"
"""The key of a sample's name in DAFormer's `sample_class_stats.json`, beside its classes."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Counts of each sample, in path order, as CSR.

    path         n names, strictly ascending
    offsets      int64 [n + 1]; sample i has ids[offsets[i]:offsets[i + 1]] and as many counts
    ids, counts  int64 [nnz], ids ascending in each sample
    """

    path: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_counts(file: Path) -> Histogram | SampleCounts:
    """Return the counts in a file.

    Totals: JSON `{raw id: pixels}`, or CSV with the columns id, pixels and, where known, images.
    Samples: DAFormer's `sample_class_stats.json`, `[{"file": name, id: pixels, …}, …]`, or its
    `sample_class_stats_dict.json`, `{name: {id: pixels, …}, …}`.

    Raises `InvalidParameter` naming the file, and the entry that cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidParameter(("file", f"{file} does not exist")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(("file", f"{file} cannot be read as text: {error}")) from error
    try:
        if text.lstrip()[:1] not in ("{", "["):
            return _totals(_csv_rows(text))
        value = _json(text)
        if isinstance(value, list) or any(isinstance(item, dict) for item in value.values()):
            return read_samples(value)
        return read_totals(value)
    except _Malformed as problem:
        raise InvalidParameter(("file", f"{file}{problem}")) from None


class _Malformed(ValueError):
    """What is wrong with the counts, to be said behind their name: `, line 3: …` or `: …`."""


def read_totals(counts: Mapping[str, Any], images: Mapping[str, Any] | None = None) -> Histogram:
    """Return totals from `{raw id: pixels}` and, where known, `{raw id: images in which it occurs}`.

    Raises `ValueError` saying what is wrong.
    """
    pixels = _by_id("", counts)
    if images is None:
        return _totals({raw_id: (count, None) for raw_id, count in pixels.items()})
    known = _by_id("images of ", images)
    if set(known) != set(pixels):
        odd = min(set(known) ^ set(pixels))
        raise _Malformed(f": id {odd} is in one of counts and images only")
    return _totals({raw_id: (count, known[raw_id]) for raw_id, count in pixels.items()})


def read_samples(value: list[Any] | Mapping[str, Any]) -> SampleCounts:
    """Return the counts of each sample from either of DAFormer's two layouts.

    Raises `ValueError` saying what is wrong.
    """
    named: dict[str, Mapping[str, Any]] = {}
    for number, (path, stats) in enumerate(_named(value)):
        if not isinstance(path, str) or not path or "\0" in path or not is_encodable(path):
            raise _Malformed(f', sample {number}: "{FILE}" is {path!r}, not the name of its label map')
        if not isinstance(stats, dict):
            raise _Malformed(f", {path}: expected an object of class id and pixels")
        if path in named:
            raise _Malformed(f": {path!r} is there twice")
        named[path] = stats
    paths, offsets, ids, counts = sorted(named), [0], [], []
    for path in paths:
        row = _by_id(f"{path}, ", named[path])
        occurring = sorted(raw_id for raw_id, n in row.items() if n)
        ids += occurring
        counts += [row[raw_id] for raw_id in occurring]
        offsets.append(len(ids))
    if not ids:
        raise _Malformed(" holds no counts above 0")
    _within(counts)
    _not_too_many(len(set(ids)))
    return SampleCounts(
        paths, np.array(offsets, np.int64), np.array(ids, np.int64), np.array(counts, np.int64)
    )


def _by_id(where: str, counts: Mapping[str, Any]) -> dict[int, int]:
    """Return raw id → count; "7" beside "07" or " 7" is refused, for one of the two would be lost."""
    found: dict[int, int] = {}
    for key, count in counts.items():
        raw_id = _integer(f"{where}id {key!r}", key)
        if raw_id in found:
            raise _Malformed(f", {where}id {key!r}: id {raw_id} is there twice")
        found[raw_id] = _count(f"{where}id {key!r}", count)
    return found


def _named(value: list[Any] | Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise _Malformed(f', sample {number}: expected {{"{FILE}": name, "0": pixels, …}}')
            yield item.get(FILE), {key: n for key, n in item.items() if key != FILE}
    else:
        yield from value.items()


def _totals(rows: dict[int, tuple[int, int | None]]) -> Histogram:
    _not_too_many(len(rows))
    if not any(pixels for pixels, _ in rows.values()):
        raise _Malformed(" holds no counts above 0")
    order = sorted(rows)
    pixels = [rows[raw_id][0] for raw_id in order]
    _within(pixels)
    known = all(rows[raw_id][1] is not None for raw_id in order)
    images = np.array([rows[raw_id][1] for raw_id in order], np.int64) if known else None
    class_id = np.array(order, np.int64)
    return Histogram(class_id, np.ones(len(order), bool), np.array(pixels, np.int64), images, None, None)


def _not_too_many(ids: int) -> None:
    if ids > MAX_IDS:
        raise _Malformed(f" holds more than {MAX_IDS} different ids: are they instance ids, not classes?")


def _within(pixels: list[int]) -> None:
    if sum(pixels) > MAX_COUNT:
        raise _Malformed(f": the pixels add up to more than {MAX_COUNT}")


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _Malformed(f": {key!r} is there twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise _Malformed(f", line {error.lineno}: not JSON ({error.msg})") from error
    except _Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise _Malformed(f": JSON that cannot be read ({error})") from error


def _csv_rows(text: str) -> dict[int, tuple[int, int | None]]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = [name.strip().lower() for name in table.fieldnames or ()]
    except csv.Error as error:
        raise _Malformed(f", line 1: not CSV ({error})") from error
    if not {"id", "pixels"} <= set(columns):
        raise _Malformed(
            ': expected JSON {"raw id": pixels, …}, CSV with columns id,pixels[,images], or the '
            "sample_class_stats.json of DAFormer"
        )
    table.fieldnames = columns
    rows: dict[int, tuple[int, int | None]] = {}
    try:
        for row in table:
            where = f"line {table.line_num}"
            raw_id = _integer(f"{where}, id", row["id"])
            if raw_id in rows:
                raise _Malformed(f", {where}: id {raw_id} is there twice")
            images = row.get("images") or None
            rows[raw_id] = (
                _count(where, row["pixels"]),
                None if images is None else _count(f"{where}, images", images),
            )
            _not_too_many(len(rows))
    except csv.Error as error:
        raise _Malformed(f", line {table.line_num + 1}: not CSV ({error})") from error
    return rows


def _integer(where: str, value: Any) -> int:
    text = str(value).strip()
    if not _INTEGER.fullmatch(text):
        raise _Malformed(f", {where}: {value!r} is not an integer")
    number = int(text)
    if not -MAX_COUNT <= number <= MAX_COUNT:
        raise _Malformed(f", {where}: {number} does not fit 64 bits")
    return number


def _count(where: str, value: Any) -> int:
    if isinstance(value, bool | float) and not (isinstance(value, float) and value.is_integer()):
        raise _Malformed(f", {where}: {value!r} is not a count of pixels")
    number = _integer(where, int(value) if isinstance(value, float) else value)
    if number < 0:
        raise _Malformed(f", {where}: {number} pixels")
    return number
