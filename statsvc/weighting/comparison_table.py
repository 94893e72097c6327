"""Text tables of a comparison of methods."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from statsvc.common.plurals import plural
from statsvc.common.text_table import (
    BOLD,
    BOLD_CYAN,
    DIM,
    PLAIN,
    YELLOW,
    Column,
    Line,
    print_lines,
    table,
    text_width,
    wrap,
)
from statsvc.weighting import comparison
from statsvc.weighting.display import separated, stream_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_CLASSES = 24
"""Largest number of classes in the second table; of more classes, it shows the first and the last ones."""

_MAX_WIDTH = 140
_METHOD_WIDTH = 44
_NAME_WIDTH = 20
_CELL_WIDTH = 7
"""Terminal columns of a share of the loss, including the gap before it."""

_PIXELS_WIDTH = 9
_SHOWN_CHANGES = 3
_SMALLEST_SHOWN_CHANGE = 0.001


def print_comparison(compared: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print a comparison to `file`, standard output by default, as wide as the terminal."""
    print_lines(lambda width: comparison_table(compared, width), file or sys.stdout, _MAX_WIDTH)


def comparison_table(compared: Mapping[str, Any], width: int) -> list[Line]:
    """Return the lines of a comparison of `comparison.compare`, `width` columns wide.

    The first table has the methods, in ascending order of max/min; the second has each class's share of the
    loss with every method.
    """
    lines = [*wrap(_heading(compared), width), [], *_methods(compared, width), []]
    for shares in _shares(compared, width):
        lines += [*shares, []]
    note = (
        "moved: part of the loss that moves to other classes. Shares are in %; bold: at least twice the "
        "share with uniform weights, dim: at most half of it."
    )
    lines += wrap([(note, DIM)], width)
    for omitted in compared["left_out"]:
        names = ", ".join(omitted["names"])
        lines += wrap([("left out: ", YELLOW), (f"{names}: {omitted['reason']}", PLAIN)], width)
    for warning in compared["warnings"]:
        lines += wrap([("warning: ", YELLOW), (warning["message"], PLAIN)], width)
    return lines


def _heading(compared: Mapping[str, Any]) -> Line:
    parts = [(str(compared["dataset"]), BOLD)]
    if compared["version"] is not None:
        parts.append((f"version {compared['version']}", PLAIN))
    if compared["split"]:
        parts.append((f"split {compared['split']}", PLAIN))
    stream = compared.get("stream")
    if stream is not None:
        parts.append((f"drawn {stream_text(stream)}", YELLOW))
    if compared["images"] is not None:
        parts.append((plural(compared["images"], "image"), PLAIN))
    parts.append((plural(len(compared["candidates"]), "different weighting"), PLAIN))
    return separated(parts)


def _methods(compared: Mapping[str, Any], width: int) -> list[Line]:
    columns = [
        Column("", right=True),
        Column("method", shrink="wrap", max_width=_METHOD_WIDTH),
        Column("max/min", right=True),
        Column("moved from\nuniform", right=True),
        Column("moved from\ndefault", right=True),
        Column("largest changes from the default, in points", shrink="wrap"),
    ]
    default = comparison.named(compared, compared["default"])
    rows = []
    for number, candidate in enumerate(compared["candidates"], 1):
        is_default = compared["default"] in candidate["names"]
        rows.append(
            [
                (str(number), PLAIN),
                (" = ".join(candidate["names"]), BOLD if is_default else PLAIN),
                (_ratio(candidate["ratio"]), PLAIN),
                (f"{candidate['moved']['uniform']:.1%}", PLAIN),
                ("default" if is_default else f"{candidate['moved']['default']:.1%}", PLAIN),
                (
                    ""
                    if is_default or default is None
                    else _changes(compared["classes"], candidate, default),
                    PLAIN,
                ),
            ]
        )
    return table(columns, rows, width)


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


def _shares(compared: Mapping[str, Any], width: int) -> list[list[Line]]:
    """Return tables with the classes' shares of the loss; each has as many methods as fit the width."""
    uniform = comparison.named(compared, comparison.REFERENCE)
    assert uniform is not None
    rows = sorted(
        (row for row in compared["classes"] if not row.get("ignored")), key=lambda row: -row["frequency"]
    )
    shown_rows = _shortened(rows)
    more = f"… {len(rows) - _MAX_CLASSES} more"
    names = [more if row is None else row["name"] for row in shown_rows]
    longest = min(_NAME_WIDTH, max(map(text_width, names), default=1))
    across = max(1, (width - longest - 2 - _PIXELS_WIDTH) // _CELL_WIDTH)
    candidates = list(enumerate(compared["candidates"], 1))
    tables = []
    for first in range(0, len(candidates), across):
        shown = candidates[first : first + across]
        columns = [
            Column("class", shrink="cut", max_width=_NAME_WIDTH),
            Column("pixels", right=True),
            *(Column(f"{number:>{_CELL_WIDTH - 2}}", right=True) for number, _ in shown),
        ]
        body = []
        for row in shown_rows:
            if row is None:
                body.append([(more, DIM)] + [("", PLAIN)] * (len(columns) - 1))
                continue
            plain = uniform["loss_share"][row["id"]]
            cells = [(row["name"], PLAIN), (_percent(row["frequency"]), PLAIN)]
            for _, candidate in shown:
                share = candidate["loss_share"][row["id"]]
                style = BOLD_CYAN if share >= 2 * plain > 0 else DIM if share <= plain / 2 else PLAIN
                cells.append((_percent(share), style))
            body.append(cells)
        tables.append(table(columns, body, width))
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
