"""Tables of published datasets: raw ids, their names and colours, and the training ids in use.

Each is a CSV file beside this one, whose first line says where its content is from.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent

NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.csv")))
"""The tables there are."""


@dataclass(frozen=True)
class ClassTable:
    """One dataset's classes.

    names    raw id → name, in the order of the source
    colours  raw id → RGB; empty where the source has none
    targets  raw id → training id, 255 where it is ignored
    classes  names of the training ids 0 … n−1
    source   where the content is from
    """

    names: dict[int, str]
    colours: dict[int, tuple[int, int, int]]
    targets: dict[int, int]
    classes: tuple[str, ...]
    source: str


@functools.cache
def load(name: str) -> ClassTable:
    """Return a table. Raises `KeyError`."""
    if name not in NAMES:
        raise KeyError(name)
    first, *lines = (_FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    targets: dict[int, int] = {}
    classes: dict[int, str] = {}
    for row in csv.DictReader(lines):
        raw, target = int(row["id"]), int(row["train_id"])
        names[raw], targets[raw] = row["name"], target
        if row["r"]:
            colours[raw] = (int(row["r"]), int(row["g"]), int(row["b"]))
        if row["train_name"]:
            classes[target] = row["train_name"]
    in_order = tuple(classes[k] for k in range(len(classes)))
    return ClassTable(names, colours, targets, in_order, first.removeprefix("# "))
