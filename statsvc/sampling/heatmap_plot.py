"""Plot of heat maps: one small picture for each class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

_COLUMNS = 4
"""Pictures side by side."""


def save(heatmap: Mapping[str, Any], file: Path) -> None:
    """Plot heat maps to a file; the suffix selects one of matplotlib's formats.

    Raises `OSError` where the file cannot be written.
    """
    import matplotlib as mpl

    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "statsvc"}):
        draw(heatmap).savefig(file, dpi=160, bbox_inches="tight", facecolor="white")


def draw(heatmap: Mapping[str, Any]) -> Figure:
    """Return the plot: for each class the share of the class in each tile, on a scale of its own."""
    from matplotlib.figure import Figure

    classes = heatmap["classes"]
    rows = math.ceil(len(classes) / _COLUMNS)
    columns = min(_COLUMNS, len(classes))
    figure = Figure(figsize=(2.4 * columns, 2.1 * rows + 0.5), layout="constrained")
    for number, row in enumerate(classes, 1):
        axes = figure.add_subplot(rows, columns, number)
        shares = np.array([[np.nan if share is None else share for share in line] for line in row["share"]])
        largest = float(np.nanmax(shares))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=largest or 1.0, aspect="equal")
        axes.set_title(f"{row['name']}, at most {largest:.2g}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    version = "" if heatmap["version"] is None else f" version {heatmap['version']}"
    split = f", split {heatmap['split']}" if heatmap["split"] else ""
    title = f"Share of each class by position: {heatmap['dataset']}{version}{split}, {heatmap['grid']}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure
