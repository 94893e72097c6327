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
class Table:
    """One dataset's classes.

    names    raw id → name, in the order of the source
    colours  raw id → RGB; empty where the source has none
    targets  raw id → training id, 255 where it is ignored; empty where raw ids are training ids
    source   where the content is from
    """

    names: dict[int, str]
    colours: dict[int, tuple[int, int, int]]
    targets: dict[int, int]
    source: str


@functools.cache
def load(name: str) -> Table:
    """Return a table. Raises `KeyError`."""
    if name not in NAMES:
        raise KeyError(name)
    first, *lines = (_FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    table = Table({}, {}, {}, first.removeprefix("# "))
    for row in csv.DictReader(lines):
        raw = int(row["id"])
        table.names[raw] = row["name"]
        if row.get("r"):
            table.colours[raw] = (int(row["r"]), int(row["g"]), int(row["b"]))
        if row.get("train_id"):
            table.targets[raw] = int(row["train_id"])
    return table
