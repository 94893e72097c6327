"""Counts of a dataset kept in one JSON file, so that another method or a restart reads no label again.

Entries are found by what was counted, never by a method: the weights are computed from the counts. A
file that is damaged, foreign or cannot be written costs a warning and the time to count.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_BEGIN = b'{"statsvc": "counts"'
_MOST = 8


@dataclass(frozen=True, slots=True)
class Counts:
    """Labels counted one by one, as CSR: label i has ids[offsets[i]:offsets[i + 1]] and as many counts.

    indices  index of each label in its dataset, ascending
    """

    indices: list[int]
    offsets: list[int]
    ids: list[int]
    counts: list[int]


def load(path: Path, key: str) -> Counts | None:
    """Return the entry of a key; None, with a warning where the file is damaged, if there is none."""
    return _entry(path, _read(path, warn=True).get(key))


def store(path: Path, key: str, counts: Counts) -> None:
    """Put an entry in the file, beside the newest of those it has, by renaming a new file to its name."""
    try:
        if path.exists() and not _ours(path):
            return  # said by `load`; not ours to overwrite
        fields = {name: getattr(counts, name) for name in Counts.__dataclass_fields__}
        entries = _read(path, warn=False)
        entries.pop(key, None)
        entries[key] = {"sha256": _digest(fields), **fields}
        newest = dict(list(entries.items())[-_MOST:])
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            part.write_text(json.dumps({"statsvc": "counts", "entries": newest}))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as problem:
        _warn(f"the counts cannot be kept in {path}: {problem}; the next run counts again", frames=5)


def _ours(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(len(_BEGIN))
    return begin in (b"", _BEGIN)


def _read(path: Path, *, warn: bool) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        if not _ours(path):
            if warn:
                _warn(f"{path} is no file of statsvc, so it is left as it is; give cache= another name")
            return {}
        data = path.read_bytes()
        entries = json.loads(data)["entries"] if data else {}
        return dict(entries.items())
    except OSError as problem:
        text = f"{path} cannot be read: {problem}; counting again"
    except (ValueError, LookupError, TypeError, AttributeError):
        text = f"{path} is damaged; counting again and writing it anew"
    if warn:
        _warn(text)
    return {}


def _entry(path: Path, entry: Any) -> Counts | None:
    if entry is None:
        return None
    try:
        fields = {name: entry[name] for name in Counts.__dataclass_fields__}
        if entry["sha256"] == _digest(fields):
            return Counts(**fields)
    except (LookupError, TypeError):
        pass
    _warn(f"{path} is damaged; counting again and writing it anew")
    return None


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _warn(text: str, frames: int = 6) -> None:
    # Blames the line that called calculate_class_weights, so many frames up: it names the file.
    warnings.warn(text, UserWarning, stacklevel=frames)
