"""A comparison of methods as tables for people."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from statsvc.weighting import comparison
from statsvc.weighting.display import printed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

_CLASSES = 24
"""Classes that the second table has at most: with more, the most frequent and the rarest ones."""

_NAME = 20
_CELL = 7
"""Columns of a terminal that a share of the loss takes, the gap before it with it."""


def print_comparison(compared: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print a comparison to `file`, standard output by default, as wide as the terminal."""
    printed(lambda width: comparison_table(compared, width=width), file or sys.stdout, widest=140)


def comparison_table(compared: Mapping[str, Any], *, width: int) -> RenderableType:
    """Return a comparison of `comparison.compare` as a rich renderable, `width` columns wide.

    First the methods, from the gentlest to the strongest, then each class's share of the loss under each.
    """
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.text import Text

    parts: list[RenderableType] = [_heading(compared), "", _methods(compared), ""]
    for table in _shares(compared, width):
        parts += [table, ""]
    parts.append(
        Text(
            "moved: the part of the loss that goes to other classes. Shares in %; bold: at least twice what "
            "uniform weights give, dim: at most half.",
            style="dim",
        )
    )
    for one in compared["left_out"]:
        parts.append(Text.assemble(("left out: ", "yellow"), f"{', '.join(one['names'])}: {one['reason']}"))
    for warning in compared["warnings"]:
        parts.append(Text.assemble(("warning: ", "yellow"), warning["message"]))
    return Constrain(Group(*parts), width)


def _heading(compared: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    parts = [Text(str(compared["dataset"]), "bold")]
    if compared["version"] is not None:
        parts.append(Text(f"version {compared['version']}"))
    if compared["split"]:
        parts.append(Text(f"split {compared['split']}"))
    stream = compared.get("stream")
    if stream is not None:
        parts.append(Text(f"drawn by {stream['sampler']}" if stream["sampler"] else "mixture", "yellow"))
    if compared["images"] is not None:
        parts.append(Text(f"{compared['images']:,} images"))
    parts.append(Text(f"{len(compared['candidates'])} different weightings"))
    return Text(" · ").join(parts)


def _methods(compared: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right")
    table.add_column("method", overflow="fold", max_width=44)
    table.add_column("max/min", justify="right", no_wrap=True)
    table.add_column("moved from\nuniform", justify="right", no_wrap=True)
    table.add_column("moved from\ndefault", justify="right", no_wrap=True)
    table.add_column("most changed against the default, in points", overflow="fold")
    default = comparison.of_method(compared, compared["default"])
    for number, one in enumerate(compared["candidates"], 1):
        own = compared["default"] in one["methods"]
        table.add_row(
            str(number),
            Text(" = ".join(one["names"]), "bold" if own else ""),
            _ratio(one["ratio"]),
            f"{one['moved']['uniform']:.1%}",
            "default" if own else f"{one['moved']['default']:.1%}",
            "" if own or default is None else _changes(compared["classes"], one, default),
        )
    return table


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "∞"
    return f"{ratio:.4f}" if ratio < 1.1 else f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _changes(classes: Sequence[Mapping[str, Any]], one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    most = [(c, change) for c, change in comparison.changes(one, other)[:3] if abs(change) >= 0.001]
    return ", ".join(f"{classes[c]['name']} {100 * change:+.1f}" for c, change in most).replace("-", "−")


def _shares(compared: Mapping[str, Any], width: int) -> list[RenderableType]:
    """Return tables of shares of the loss: classes down, methods by number across, as many as fit in each."""
    from rich.table import Table
    from rich.text import Text

    uniform = comparison.of_method(compared, comparison.REFERENCE)
    assert uniform is not None
    rows = sorted(
        (row for row in compared["classes"] if not row.get("ignored")), key=lambda row: -row["frequency"]
    )
    longest = min(_NAME, max((len(row["name"]) for row in rows), default=1))
    across = max(1, (width - longest - 2 - 9) // _CELL)
    candidates = list(enumerate(compared["candidates"], 1))
    tables: list[RenderableType] = []
    for first in range(0, len(candidates), across):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class", overflow="ellipsis", max_width=_NAME, no_wrap=True)
        table.add_column("pixels", justify="right", no_wrap=True)
        shown = candidates[first : first + across]
        for number, _ in shown:
            table.add_column(str(number), justify="right", no_wrap=True, min_width=_CELL - 2)
        for row in _some(rows):
            if row is None:
                table.add_row(f"… {len(rows) - _CLASSES} more", style="dim")
                continue
            plain = uniform["loss_share"][row["id"]]
            cells = []
            for _, one in shown:
                share = one["loss_share"][row["id"]]
                style = "bold cyan" if share >= 2 * plain > 0 else "dim" if share <= plain / 2 else ""
                cells.append(Text(_percent(share), style))
            table.add_row(Text(row["name"]), Text(_percent(row["frequency"])), *cells)
        tables.append(table)
    return tables


def _some(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    if len(rows) <= _CLASSES + 1:
        return list(rows)
    half = _CLASSES // 2
    return [*rows[:half], None, *rows[-half:]]


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    return "<0.01" if share < 5e-5 else f"{100 * share:.2f}" if share < 0.1 else f"{100 * share:.1f}"
