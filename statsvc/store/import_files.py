"""Parse imported counts from a file or from the body of a request."""

from __future__ import annotations

import csv
import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.changed_paths import path_problem
from statsvc.dataset.histogram import Histogram
from statsvc.dataset.table import MAX_IDS
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_COUNT = 2**63 - 1
"""Largest int64: the limit of a count, an id, and the sum of all counts."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,25}")

FILE_KEY = "file"
"""The key of the label map's name in DAFormer's `sample_class_stats.json`; its other keys are class ids."""


class SampleCounts(Struct, frozen=True):
    """The counts of each sample as CSR, sorted by path.

    path     n names, strictly ascending
    offsets  int64 [n + 1]; the histogram of sample i is ids[offsets[i]:offsets[i + 1]] with the same slice
             of `counts`
    ids      int64 [nnz], raw ids, ascending in each sample
    counts   int64 [nnz], pixels of each id
    """

    path: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_counts(file: Path) -> Histogram | SampleCounts:
    """Return the counts in a file.

    Totals: JSON `{raw id: pixels}`, or CSV with the columns id, pixels and optionally images.
    Samples: DAFormer's `sample_class_stats.json`, `[{"file": name, id: pixels, …}, …]`, or its
    `sample_class_stats_dict.json`, `{name: {id: pixels, …}, …}`.

    Raises `InvalidParameter`, which names the file and the malformed entry.
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
    """An error in the counts. The text continues the name of their file: `, line 3: …` or `: …`."""


class Contradiction(_Malformed):
    """Well-formed counts that contradict each other."""


def read_totals(counts: Mapping[str, Any], images: Mapping[str, Any] | None = None) -> Histogram:
    """Return totals from `{raw id: pixels}` and optionally `{raw id: images in which it occurs}`.

    Raises `ValueError` with a description of the error.
    """
    pixels = _by_id("", counts)
    if images is None:
        return _totals({raw_id: (count, None) for raw_id, count in pixels.items()})
    image_counts = _by_id("images of ", images)
    if set(image_counts) != set(pixels):
        raw_id = min(set(image_counts) ^ set(pixels))
        raise Contradiction(f": id {raw_id} must be in both counts and images")
    return _totals({raw_id: (count, image_counts[raw_id]) for raw_id, count in pixels.items()})


def read_samples(value: list[Any] | Mapping[str, Any]) -> SampleCounts:
    """Return the counts of each sample from either of DAFormer's two layouts.

    Raises `ValueError` with a description of the error.
    """
    by_path: dict[str, Mapping[str, Any]] = {}
    for number, (path, stats) in enumerate(_named_samples(value)):
        if not isinstance(path, str) or not path:
            raise _Malformed(
                f', sample {number}: "{FILE_KEY}" must be the name of its label map, not {path!r}'
            )
        # The rules of a scan, whose samples are files below its source.
        if problem := path_problem(path):
            raise _Malformed(f', sample {number}: "{FILE_KEY}": {problem}')
        if not path.isprintable() or str(PurePosixPath(path)) != path or "/." in f"/{path}":
            raise _Malformed(
                f', sample {number}: "{FILE_KEY}" must be a relative path without control characters, empty '
                f"parts, and names that begin with a dot, not {path!r}"
            )
        if not isinstance(stats, dict):
            raise _Malformed(f", {path}: expected an object {{class id: pixels}}")
        if path in by_path:
            raise Contradiction(f": {path!r} occurs twice")
        by_path[path] = stats
    paths, offsets, ids, counts = sorted(by_path), [0], [], []
    for path in paths:
        row = _by_id(f"{path}, ", by_path[path])
        occurring = sorted(raw_id for raw_id, n in row.items() if n)
        ids += occurring
        counts += [row[raw_id] for raw_id in occurring]
        offsets.append(len(ids))
    if not ids:
        raise Contradiction(" contains no counts above 0")
    _check_sum(counts)
    _check_number_of_ids(len(set(ids)))
    return SampleCounts(
        paths, np.array(offsets, np.int64), np.array(ids, np.int64), np.array(counts, np.int64)
    )


def _by_id(where: str, counts: Mapping[str, Any]) -> dict[int, int]:
    """Return raw id → count. Keys of the same id, such as "7" and "07", are an error: one would be lost."""
    by_id: dict[int, int] = {}
    for key, count in counts.items():
        raw_id = _integer(f"{where}id {key!r}", key)
        if raw_id in by_id:
            raise Contradiction(f", {where}id {key!r}: id {raw_id} occurs twice")
        by_id[raw_id] = _count(f"{where}id {key!r}", count)
    return by_id


def _named_samples(value: list[Any] | Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise _Malformed(f', sample {number}: expected {{"{FILE_KEY}": name, "0": pixels, …}}')
            yield item.get(FILE_KEY), {key: n for key, n in item.items() if key != FILE_KEY}
    else:
        yield from value.items()


def _totals(rows: dict[int, tuple[int, int | None]]) -> Histogram:
    _check_number_of_ids(len(rows))
    if not any(pixels for pixels, _ in rows.values()):
        raise Contradiction(" contains no counts above 0")
    order = sorted(rows)
    pixels = [rows[raw_id][0] for raw_id in order]
    _check_sum(pixels)
    has_images = all(rows[raw_id][1] is not None for raw_id in order)
    images = np.array([rows[raw_id][1] for raw_id in order], np.int64) if has_images else None
    class_id = np.array(order, np.int64)
    return Histogram(class_id, np.ones(len(order), bool), np.array(pixels, np.int64), images, None, None)


def _check_number_of_ids(ids: int) -> None:
    if ids > MAX_IDS:
        raise Contradiction(
            f" contains more than {MAX_IDS} different ids; are these instance ids instead of class ids?"
        )


def _check_sum(pixels: list[int]) -> None:
    if sum(pixels) > MAX_COUNT:
        raise Contradiction(f": the sum of all pixels exceeds {MAX_COUNT}")


def _json(text: str) -> Any:
    def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique_pairs: dict[str, Any] = {}
        for key, value in pairs:
            if key in unique_pairs:
                raise _Malformed(f": {key!r} occurs twice")
            unique_pairs[key] = value
        return unique_pairs

    try:
        return json.loads(text, object_pairs_hook=reject_duplicates)
    except json.JSONDecodeError as error:
        raise _Malformed(f", line {error.lineno}: invalid JSON ({error.msg})") from error
    except _Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise _Malformed(f": the JSON cannot be parsed ({error})") from error


def _csv_rows(text: str) -> dict[int, tuple[int, int | None]]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = [name.strip().lower() for name in table.fieldnames or ()]
    except csv.Error as error:
        raise _Malformed(f", line 1: invalid CSV ({error})") from error
    if not {"id", "pixels"} <= set(columns):
        raise _Malformed(
            ': expected JSON {"raw id": pixels, …}, CSV with the columns id,pixels[,images], or '
            "DAFormer's sample_class_stats.json"
        )
    table.fieldnames = columns
    rows: dict[int, tuple[int, int | None]] = {}
    try:
        for row in table:
            where = f"line {table.line_num}"
            raw_id = _integer(f"{where}, id", row["id"])
            if raw_id in rows:
                raise _Malformed(f", {where}: id {raw_id} occurs twice")
            images = row.get("images") or None
            rows[raw_id] = (
                _count(where, row["pixels"]),
                None if images is None else _count(f"{where}, images", images),
            )
            _check_number_of_ids(len(rows))
    except csv.Error as error:
        raise _Malformed(f", line {table.line_num + 1}: invalid CSV ({error})") from error
    return rows


def _integer(where: str, value: Any) -> int:
    text = str(value).strip()
    if not _INTEGER.fullmatch(text):
        raise _Malformed(f", {where}: {value!r} must be an integer")
    number = int(text)
    if not -MAX_COUNT <= number <= MAX_COUNT:
        raise _Malformed(f", {where}: {number} does not fit into 64 bits")
    return number


def _count(where: str, value: Any) -> int:
    if isinstance(value, bool | float) and not (isinstance(value, float) and value.is_integer()):
        raise _Malformed(f", {where}: {value!r} must be a whole number of pixels")
    number = _integer(where, int(value) if isinstance(value, float) else value)
    if number < 0:
        raise _Malformed(f", {where}: the count {number} must not be negative")
    return number
