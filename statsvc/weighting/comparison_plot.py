"""Plots of a comparison of methods, and of weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from statsvc.weighting.display import stream_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_NUMBERED = 25
"""Number of classes up to which each cell shows its number."""

_MAX_LABELS = 40
"""Approximate number of class names on the axis if cells show no numbers."""

_DARK_CELL = 0.52
"""Position on the color scale, from 0 to 1, above which text in a cell is white."""

_BLUE = "#2a6f97"
_GRAY = "#6b7280"


def require_matplotlib() -> None:
    """Raise `ImportError` with the command to install matplotlib where it is missing."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ModuleNotFoundError as problem:
        raise ImportError(
            "matplotlib is not installed. Run: pip install 'statsvc[plot]'", name=problem.name
        ) from None


def bars(names: Sequence[str], values: Sequence[float], title: str, ax: Axes | None) -> Axes:
    """Draw a horizontal bar for each class and return the axes, by default those of a new figure.

    Raises `ImportError` without matplotlib.
    """
    require_matplotlib()
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(7, 1 + 0.25 * len(names)), layout="constrained")
    ax.barh(range(len(names)), values, color=_BLUE)
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.invert_yaxis()
    ax.set_title(title, fontsize="medium", parse_math=False)
    return ax


def save(compared: Mapping[str, Any], file: Path) -> None:
    """Plot a comparison to a file; the suffix selects one of matplotlib's formats.

    Raises `ImportError` without matplotlib, `OSError` where the file cannot be written.
    """
    require_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "statsvc"}):
        draw(compared).savefig(file, dpi=160, bbox_inches="tight", facecolor="white")


def draw(compared: Mapping[str, Any]) -> Figure:
    """Return the plot, with a column for each class and a row for each method.

    Classes are ordered from frequent to rare, methods by the ratio of their weights. Each cell shows the
    class's share of the loss, the bars above its share of the pixels, the bars on the right max/min.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rows = sorted(
        (row for row in compared["classes"] if not row.get("ignored")), key=lambda row: -row["frequency"]
    )
    ids = [row["id"] for row in rows]
    candidates = compared["candidates"]
    shares = np.array([[candidate["loss_share"][c] for c in ids] for candidate in candidates])
    numbered = len(rows) <= _MAX_NUMBERED
    wide = 0.62 * len(rows) if numbered else min(14.0, 0.12 * len(rows))
    tall = max(1.6, 0.36 * len(candidates))
    figure = Figure(figsize=(3.2 + max(5.0, wide) + 1.9, 2.2 + tall), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[max(5.0, wide), 1.5], height_ratios=[1.1, tall])
    heat = figure.add_subplot(grid[1, 0])
    top = figure.add_subplot(grid[0, 0], sharex=heat)
    right = figure.add_subplot(grid[1, 1], sharey=heat)

    low = max(1e-4, float(shares[shares > 0].min(initial=1.0)))
    high = max(float(shares.max()), 2 * low)
    image = heat.imshow(
        np.maximum(shares, low),
        aspect="auto",
        cmap="YlGnBu",
        norm=LogNorm(low, high),
    )
    _label_axes(heat, rows, candidates, compared["default"], numbered)
    if numbered:
        for y, line in enumerate(shares):
            for x, share in enumerate(line.tolist()):
                dark = math.log(max(share, low) / low) > _DARK_CELL * math.log(high / low)
                heat.text(
                    x, y, _percent(share), ha="center", va="center", fontsize=7.5,
                    color="white" if dark else "#1f2937",
                )  # fmt: skip
    else:
        corner = figure.add_subplot(grid[0, 1])
        corner.set_axis_off()
        bar = corner.inset_axes((0.0, 0.55, 1.0, 0.12))
        figure.colorbar(image, cax=bar, orientation="horizontal", format=lambda share, _: f"{100 * share:g}")
        bar.set_title("% of the loss", fontsize=9, loc="left")
    _frequency_bars(top, rows)
    _ratio_bars(right, candidates)
    figure.suptitle(_title(compared), fontsize=12, x=0.01, ha="left", fontweight="bold")
    return figure


def _title(compared: Mapping[str, Any]) -> str:
    version = "" if compared["version"] is None else f" version {compared['version']}"
    split = f", split {compared['split']}" if compared["split"] else ""
    stream = compared.get("stream")
    drawn = f", drawn {stream_text(stream)}" if stream else ""
    return f"Share of the loss of each class, in %: {compared['dataset']}{version}{split}{drawn}"


def _label_axes(heat: Axes, rows: Any, candidates: Any, default: str, numbered: bool) -> None:
    heat.set_yticks(
        range(len(candidates)),
        ["\n= ".join(_with_greek_letters(name) for name in candidate["names"]) for candidate in candidates],
    )
    for tick, candidate in zip(heat.get_yticklabels(), candidates, strict=True):
        if default in candidate["names"]:
            tick.set_fontweight("bold")
    step = 1 if numbered else max(1, len(rows) // _MAX_LABELS)
    heat.set_xticks(
        range(0, len(rows), step), [row["name"] for row in rows][::step], rotation=45, ha="right",
        rotation_mode="anchor", fontsize=9 if numbered else 6,
    )  # fmt: skip
    heat.tick_params(length=0)
    heat.spines[:].set_visible(False)


def _with_greek_letters(name: str) -> str:
    return name.replace("beta=", "β=").replace("alpha=", "α=")


def _frequency_bars(top: Axes, rows: Any) -> None:
    top.bar(range(len(rows)), [row["frequency"] for row in rows], color=_GRAY, width=0.7)
    top.set_ylabel("pixels", color=_GRAY, rotation=0, ha="right", va="bottom", y=0)
    top.tick_params(axis="both", labelbottom=False, labelleft=False, length=0)
    top.spines[["top", "right", "left"]].set_visible(False)
    top.spines["bottom"].set_color(_GRAY)


def _ratio_bars(right: Axes, candidates: Any) -> None:
    ratios = [candidate["ratio"] for candidate in candidates]
    lengths = [ratio or 1.0 for ratio in ratios]
    right.barh(range(len(candidates)), lengths, color=_BLUE, height=0.55, left=0)
    right.set_xscale("log")
    right.set_xlim(1, max(2.0, *lengths) ** 1.6)
    for y, ratio in enumerate(ratios):
        text = "∞" if ratio is None else f" {ratio:.3g}" if ratio < 1000 else f" {ratio:,.0f}"
        right.text(ratio or 1.0, y, text, va="center", fontsize=8, color="#1f2937")
    right.set_title("max/min weight", fontsize=9, color=_BLUE, loc="left")
    right.tick_params(axis="y", labelleft=False, length=0)
    right.tick_params(axis="x", which="both", labelbottom=False, length=0)
    right.spines[:].set_visible(False)


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    return "<.01" if share < 5e-5 else f"{100 * share:.2f}" if share < 0.0995 else f"{100 * share:.1f}"
