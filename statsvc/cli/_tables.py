"""Values and tables for people and for other programs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from statsvc.cli._echo import echo
from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELD_WIDTH = 10
"""Width of the names that `print_fields` prints."""


def iso(seconds: float | None) -> str | None:
    """Return a catalog time (Unix seconds) as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def text_of(value: Any) -> str:
    """Return a value as text: a time in the local time zone, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, str) and value.endswith("+00:00"):
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return one_line(str(value))


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one name and value per line."""
    for name, value in fields.items():
        echo(f"{name:<{FIELD_WIDTH}} {text_of(value)}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows: a table on a terminal, tab-separated lines for another program."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            echo("\t".join(text_of(value) for value in row))
        return
    from statsvc.common.text_table import PLAIN, Column, Line, print_lines, table, text_width

    numeric = {k for row in rows for k, value in enumerate(row) if isinstance(value, int)}
    heads = [
        Column(column, right=k in numeric, shrink="wrap" if column == "source" else "")
        for k, column in enumerate(columns)
    ]
    cells = [
        [(f"{value:,}" if isinstance(value, int) else text_of(value), PLAIN) for value in row] for row in rows
    ]

    def lines(width: int) -> list[Line]:
        head, *body = table(heads, cells, width, gap=3)
        return [head, [("─" * sum(text_width(text) for text, _ in head), PLAIN)], *body]

    print_lines(lines, sys.stdout)
