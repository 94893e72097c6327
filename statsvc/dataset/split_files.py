"""Splits defined by files: lists of paths, and JSON folds such as nnU-Net's splits_final.json.

A list is a text file with one entry per line, or a JSON list. An entry is a relative path, or a name without
extension (`2007_000032`, `case_00001`), which matches the sample of that name in any folder.

JSON folds have the form `[{"train": [...], "val": [...]}, ...]` and define the splits fold0_train, fold0_val,
fold1_train, …; a single object `{"train": [...], "val": [...]}` defines train and val. nnU-Net documents its
file in documentation/manual_data_splits.md of MIC-DKFZ/nnUNet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from statsvc.dataset.splits import Split, is_glob
from statsvc.errors import InvalidParameter


def read_option(text: str) -> dict[str, Split]:
    """Return the splits that `NAME=FILE`, `NAME=GLOB` or `FOLDS.json` defines. Raises `InvalidParameter`."""
    name, equals, value = text.partition("=")
    if not equals and text.lower().endswith(".json"):
        return folds(Path(text))
    if not name or not value:
        raise InvalidParameter(
            (
                "split",
                f"{text!r} has the wrong form; write NAME=FILE with one path per line, NAME=GLOB, or the "
                "path of a JSON file of folds",
            )
        )
    return {name: read(name, value)}


def read(name: str, value: str | Path) -> Split:
    """Return the split defined by a list in a file, or by a glob. Raises `InvalidParameter`."""
    file = Path(value)
    if file.is_file():
        return Split.listed(name, _read_entries(name, file))
    if is_glob(str(value)):
        return Split.from_dict(name, {"glob": str(value)})
    raise InvalidParameter(
        ("split", f"{name}={value}: there is no file {value}; check the path, or give a glob such as 'val/*'")
    )


def folds(file: Path) -> dict[str, Split]:
    """Return the splits of a JSON file of folds. Raises `InvalidParameter`."""
    return folds_of(_read_json(file), str(file))


def folds_of(content: Any, file: str) -> dict[str, Split]:
    """Return the splits of the folds in the content of a JSON file. Raises `InvalidParameter`."""
    if isinstance(content, dict):
        content, name_format = [content], "{part}"
    else:
        name_format = "fold{fold}_{part}"
    if not isinstance(content, list) or not content:
        raise _malformed(file)
    splits: dict[str, Split] = {}
    for fold, parts in enumerate(content):
        if not isinstance(parts, dict) or not parts:
            raise _malformed(file)
        for part, entries in parts.items():
            name = name_format.format(fold=fold, part=part)
            splits[name] = Split.listed(name, _check_strings(file, entries))
    return splits


def _malformed(file: str | Path) -> InvalidParameter:
    return InvalidParameter(
        ("split", f'{file}: expected folds, [{{"train": [...], "val": [...]}}, ...], or a list of paths')
    )


def _read_entries(name: str, file: Path) -> list[str]:
    if file.suffix.lower() == ".json":
        return _check_strings(file, _read_json(file))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(("split", f"{name}: {file} cannot be read as text: {error}")) from error
    return [line.strip() for line in lines if line.strip()]


def _check_strings(file: str | Path, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise _malformed(file)
    return value


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidParameter(("split", f"{file} cannot be read: {error.strerror}")) from error
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(("split", f"{file} is not valid JSON: {error}")) from error
