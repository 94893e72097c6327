"""Weights responses as bytes, for HTTP and for files."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.csv_cells import csv_text

if TYPE_CHECKING:
    from collections.abc import Callable

CSV_COLUMNS = ("id", "name", "pixels", "images", "frequency", "weight", "loss_share", "ignored", "absent")
"""Columns of CSV. `ignored` and `absent` are true or false; other missing values are empty."""


def json_bytes(body: Any) -> bytes:
    """Return compact JSON on one line. Raises `ValueError` for NaN and infinity, which JSON lacks."""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _csv(response: dict[str, Any]) -> bytes:
    import csv

    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for row in response["classes"]:
        values = (
            row
            | {"name": csv_text(row["name"])}
            | {flag: str(row.get(flag, False)).lower() for flag in ("ignored", "absent")}
        )
        rows.writerow(["" if values[column] is None else values[column] for column in CSV_COLUMNS])
    return text.getvalue().encode("utf-8", "replace")


def _npy(response: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, np.array(response["weights"], np.float64), allow_pickle=False)
    return data.getvalue()


FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {"json": json_bytes, "csv": _csv, "npy": _npy}
"""JSON; CSV with one line for each class; NPY, float64 [C]."""


def render(form: str, response: dict[str, Any]) -> bytes:
    """Return a weights response in one of `FORMATS`."""
    return FORMATS[form](response)
