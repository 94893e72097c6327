"""Values and tables as the command line shows them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def iso(seconds: float | None) -> str | None:
    """Return a catalog time as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def text_of(value: Any) -> str:
    """Return a value for a table: local time, and a dash for what there is not."""
    if value is None:
        return "–"
    if isinstance(value, str) and value.endswith("+00:00"):
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows: a table on a terminal; elsewhere, for another program, a line each with tabs between."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(text_of(value) for value in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    numbers = {k for row in rows for k, value in enumerate(row) if isinstance(value, int)}
    for k, column in enumerate(columns):
        table.add_column(
            column, justify="right" if k in numbers else "left", no_wrap=column != "source", overflow="fold"
        )
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else text_of(value) for value in row))
    Console().print(table)
