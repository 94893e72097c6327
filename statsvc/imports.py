"""Counts taken elsewhere: reading a file, or the body of a request, that holds them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter
from statsvc.statistics import MAX_IDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_COUNT = 2**63 - 1

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
    pixels = {_integer(f"id {key!r}", key): _count(key, count) for key, count in counts.items()}
    if images is None:
        return _totals({raw_id: (count, None) for raw_id, count in pixels.items()})
    known = {_integer(f"images of id {key!r}", key): _count(key, count) for key, count in images.items()}
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
        if not isinstance(path, str) or not path or "\0" in path:
            raise _Malformed(f', sample {number}: "{FILE}" is {path!r}, not the name of its label map')
        if not isinstance(stats, dict):
            raise _Malformed(f", {path}: expected an object of class id and pixels")
        if path in named:
            raise _Malformed(f": {path!r} is there twice")
        named[path] = stats
    paths, offsets, ids, counts = sorted(named), [0], [], []
    for path in paths:
        row = {_integer(f"{path}, id {key!r}", key): _count(path, n) for key, n in named[path].items()}
        occurring = sorted(raw_id for raw_id, n in row.items() if n)
        ids += occurring
        counts += [row[raw_id] for raw_id in occurring]
        offsets.append(len(ids))
    if not ids:
        raise _Malformed(" holds no counts")
    _within(counts)
    if (different := len(set(ids))) > MAX_IDS:
        raise _Malformed(f" has {different} different ids, and classes are at most {MAX_IDS}")
    return SampleCounts(
        paths, np.array(offsets, np.int64), np.array(ids, np.int64), np.array(counts, np.int64)
    )


def _named(value: list[Any] | Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise _Malformed(f', sample {number}: expected {{"{FILE}": name, "0": pixels, …}}')
            yield item.get(FILE), {key: n for key, n in item.items() if key != FILE}
    else:
        yield from value.items()


def _totals(rows: dict[int, tuple[int, int | None]]) -> Histogram:
    if not rows:
        raise _Malformed(" holds no counts")
    order = sorted(rows)
    pixels = [rows[raw_id][0] for raw_id in order]
    _within(pixels)
    known = all(rows[raw_id][1] is not None for raw_id in order)
    images = np.array([rows[raw_id][1] for raw_id in order], np.int64) if known else None
    class_id = np.array(order, np.int64)
    return Histogram(class_id, np.ones(len(order), bool), np.array(pixels, np.int64), images, None, None)


def _within(pixels: list[int]) -> None:
    if sum(pixels) > MAX_COUNT:
        raise _Malformed(f": the pixels add up to more than {MAX_COUNT}")


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = min(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise _Malformed(f": {twice!r} is there twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise _Malformed(f", line {error.lineno}: not JSON ({error.msg})") from error
    except RecursionError:
        raise _Malformed(": not JSON of counts (nested too deeply)") from None


def _csv_rows(text: str) -> dict[int, tuple[int, int | None]]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = [name.strip().lower() for name in table.fieldnames or ()]
    if not {"id", "pixels"} <= set(columns):
        raise _Malformed(
            ': expected JSON {"raw id": pixels, …}, CSV with columns id,pixels[,images], or the '
            "sample_class_stats.json of DAFormer"
        )
    table.fieldnames = columns
    rows: dict[int, tuple[int, int | None]] = {}
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
    return rows


def _integer(where: str, value: Any) -> int:
    try:
        number = int(str(value).strip())
    except ValueError:
        raise _Malformed(f", {where}: {value!r} is not an integer") from None
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
