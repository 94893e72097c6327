"""A JSON file that caches the counts of datasets, so that another method or a restart reads no label again.

The key of an entry identifies what was counted, not the method, because weights follow from the counts. A
file that is damaged, cannot be written, or was not created by statsvc causes a warning and a recount.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b'{"statsvc": "counts"'
"""First bytes of every file that statsvc has created."""

_MAX_ENTRIES = 8
"""Number of newest entries that a file keeps."""


class Counts(Struct, frozen=True):
    """Histograms of m labels in CSR form: label i has `ids[offsets[i]:offsets[i + 1]]` and their `counts`.

    indices  index of each label in its dataset, ascending, length m
    offsets  length m + 1, starts with 0
    ids      raw ids that occur in each label
    counts   pixels of each of these ids
    """

    indices: list[int]
    offsets: list[int]
    ids: list[int]
    counts: list[int]


def load(path: Path, key: str) -> Counts | None:
    """Return the entry of a key, or None. Warns if the file is damaged or cannot be read."""
    return _entry(path, _read(path, warn=True).get(key))


def store(path: Path, key: str, counts: Counts) -> None:
    """Add an entry and keep the newest others, by atomic replacement of the file. Warns if that fails."""
    try:
        if path.exists() and not _is_counts_file(path):
            return  # never overwrite other files; `load` has warned
        fields = {name: getattr(counts, name) for name in Counts.__struct_fields__}
        entries = _read(path, warn=False)
        entries.pop(key, None)
        entries[key] = {"sha256": _digest(fields), **fields}
        newest = dict(list(entries.items())[-_MAX_ENTRIES:])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            temporary.write_text(json.dumps({"statsvc": "counts", "entries": newest}))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _warn(
            f"The counts cannot be saved in {path}: {error}. The next run will count the labels again.",
            frames=5,
        )


def _is_counts_file(path: Path) -> bool:
    """Whether statsvc has created this file; an empty file counts as one."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (b"", _MAGIC)


def _read(path: Path, *, warn: bool) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        if not _is_counts_file(path):
            if warn:
                _warn(
                    f"{path} was not created by statsvc, so it is not changed and the counts are not saved. "
                    "Choose another name for cache=."
                )
            return {}
        data = path.read_bytes()
        entries = json.loads(data)["entries"] if data else {}
        return dict(entries.items())
    except OSError as error:
        message = f"{path} cannot be read: {error}. Counting the labels again."
    except (ValueError, LookupError, TypeError, AttributeError):
        message = _damaged(path)
    if warn:
        _warn(message)
    return {}


def _entry(path: Path, entry: Any) -> Counts | None:
    if entry is None:
        return None
    try:
        fields = {name: entry[name] for name in Counts.__struct_fields__}
        if entry["sha256"] == _digest(fields):
            return Counts(**fields)
    except (LookupError, TypeError):
        pass
    _warn(_damaged(path))
    return None


def _damaged(path: Path) -> str:
    return f"{path} is damaged. Counting the labels again and replacing the file."


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _warn(text: str, frames: int = 6) -> None:
    # `frames` up is the caller of calculate_class_weights, whose line the warning should show.
    warnings.warn(text, UserWarning, stacklevel=frames)
