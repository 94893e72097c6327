"""Text tables of a comparison of methods."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from statsvc.weighting import comparison
from statsvc.weighting.display import printed, stream_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

_MAX_CLASSES = 24
"""Largest number of classes in the second table; of more classes, it shows the first and the last ones."""

_MAX_WIDTH = 140
_NAME_WIDTH = 20
_CELL_WIDTH = 7
"""Terminal columns of a share of the loss, including the gap before it."""

_PIXELS_WIDTH = 9
_SHOWN_CHANGES = 3
_SMALLEST_SHOWN_CHANGE = 0.001


def print_comparison(compared: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print a comparison to `file`, standard output by default, as wide as the terminal."""
    printed(lambda width: comparison_table(compared, width=width), file or sys.stdout, max_width=_MAX_WIDTH)


def comparison_table(compared: Mapping[str, Any], *, width: int) -> RenderableType:
    """Return a comparison of `comparison.compare` as a rich renderable, `width` columns wide.

    The first table has the methods, in ascending order of max/min; the second has each class's share of the
    loss with every method.
    """
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.text import Text

    parts: list[RenderableType] = [_heading(compared), "", _methods(compared), ""]
    for table in _shares(compared, width):
        parts += [table, ""]
    parts.append(
        Text(
            "moved: part of the loss that moves to other classes. Shares are in %; bold: at least twice the "
            "share with uniform weights, dim: at most half of it.",
            style="dim",
        )
    )
    for omitted in compared["left_out"]:
        names = ", ".join(omitted["names"])
        parts.append(Text.assemble(("left out: ", "yellow"), f"{names}: {omitted['reason']}"))
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
        parts.append(Text(f"drawn {stream_text(stream)}", "yellow"))
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
    table.add_column("largest changes from the default, in points", overflow="fold")
    default = comparison.named(compared, compared["default"])
    for number, candidate in enumerate(compared["candidates"], 1):
        is_default = compared["default"] in candidate["names"]
        table.add_row(
            str(number),
            Text(" = ".join(candidate["names"]), "bold" if is_default else ""),
            _ratio(candidate["ratio"]),
            f"{candidate['moved']['uniform']:.1%}",
            "default" if is_default else f"{candidate['moved']['default']:.1%}",
            "" if is_default or default is None else _changes(compared["classes"], candidate, default),
        )
    return table


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "∞"
    return f"{ratio:.4f}" if ratio < 1.1 else f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _changes(
    classes: Sequence[Mapping[str, Any]], candidate: Mapping[str, Any], default: Mapping[str, Any]
) -> str:
    largest = [
        (class_id, change)
        for class_id, change in comparison.changes(candidate, default)[:_SHOWN_CHANGES]
        if abs(change) >= _SMALLEST_SHOWN_CHANGE
    ]
    text = ", ".join(f"{classes[class_id]['name']} {100 * change:+.1f}" for class_id, change in largest)
    return text.replace("-", "−")


def _shares(compared: Mapping[str, Any], width: int) -> list[RenderableType]:
    """Return tables with the classes' shares of the loss; each has as many methods as fit the width."""
    from rich.table import Table
    from rich.text import Text

    uniform = comparison.named(compared, comparison.REFERENCE)
    assert uniform is not None
    rows = sorted(
        (row for row in compared["classes"] if not row.get("ignored")), key=lambda row: -row["frequency"]
    )
    longest = min(_NAME_WIDTH, max((len(row["name"]) for row in rows), default=1))
    across = max(1, (width - longest - 2 - _PIXELS_WIDTH) // _CELL_WIDTH)
    candidates = list(enumerate(compared["candidates"], 1))
    tables: list[RenderableType] = []
    for first in range(0, len(candidates), across):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class", overflow="ellipsis", max_width=_NAME_WIDTH, no_wrap=True)
        table.add_column("pixels", justify="right", no_wrap=True)
        shown = candidates[first : first + across]
        for number, _ in shown:
            table.add_column(str(number), justify="right", no_wrap=True, min_width=_CELL_WIDTH - 2)
        for row in _shortened(rows):
            if row is None:
                table.add_row(f"… {len(rows) - _MAX_CLASSES} more", style="dim")
                continue
            plain = uniform["loss_share"][row["id"]]
            cells = []
            for _, candidate in shown:
                share = candidate["loss_share"][row["id"]]
                style = "bold cyan" if share >= 2 * plain > 0 else "dim" if share <= plain / 2 else ""
                cells.append(Text(_percent(share), style))
            table.add_row(Text(row["name"]), Text(_percent(row["frequency"])), *cells)
        tables.append(table)
    return tables


def _shortened(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """Return the rows, with None instead of the middle ones where the list is too long."""
    if len(rows) <= _MAX_CLASSES + 1:
        return list(rows)
    half = _MAX_CLASSES // 2
    return [*rows[:half], None, *rows[-half:]]


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    return "<0.01" if share < 5e-5 else f"{100 * share:.2f}" if share < 0.1 else f"{100 * share:.1f}"
