"""An answer as bytes: what the service sends and what the command line writes."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

CSV_COLUMNS = ("id", "name", "pixels", "images", "frequency", "weight", "loss_share")


def json_bytes(body: Any) -> bytes:
    """Return compact JSON in a line. Raises `ValueError` for NaN or infinity, which JSON does not have."""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _csv(answer: dict[str, Any]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for row in answer["classes"]:
        rows.writerow(["" if row[column] is None else row[column] for column in CSV_COLUMNS])
    return text.getvalue().encode("utf-8", "replace")


def _npy(answer: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, np.array(answer["weights"], np.float64), allow_pickle=False)
    return data.getvalue()


FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {"json": json_bytes, "csv": _csv, "npy": _npy}
"""JSON; CSV, one line a class; NPY, float64 [C]."""


def render(form: str, answer: dict[str, Any]) -> bytes:
    """Return an answer in one of `FORMATS`."""
    return FORMATS[form](answer)
