"""What rich prints: an independent rendering of the tables that statsvc lays out itself."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from statsvc.common.text_table import Column, Line, Span

STYLES = {
    "": "", "1": "bold", "2": "dim", "31": "red", "33": "yellow", "36": "cyan", "1;31": "bold red",
    "1;36": "bold cyan",
}  # fmt: skip
"""The names of the parameters of SGR in rich."""


def rendered(renderable: RenderableType, width: int, *, styled: bool = False) -> str:
    """Return a renderable as text without spaces at the ends of lines."""
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=styled,
        color_system="standard" if styled else None,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))


def paragraph(line: Line) -> Text:
    return Text.assemble(*((text, STYLES[style]) for text, style in line))


def table(columns: Sequence[Column], rows: Sequence[Sequence[Span]], gap: int = 2) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        shown.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold" if column.shrink == "wrap" else "ellipsis",
            no_wrap=column.shrink != "wrap",
            max_width=column.max_width,
        )
    for row in rows:
        shown.add_row(*(Text(text, STYLES[style]) for text, style in row))
    return shown


def class_table(response: Mapping[str, Any]) -> tuple[Group, int]:
    """Return a weights response, and the width that it needs without a bar.

    Written with rich from the description of the table.
    """
    rows = response["classes"]
    present = [row for row in rows if not row.get("absent")]
    hidden = len(rows) - len(present)
    shown = present if hidden > 100 else rows
    weights = response["weights"]
    sizes = [abs(weight) for weight in weights if weight]
    plain = not sizes or (max(sizes) < 1e5 and min(sizes) >= 1e-3)
    estimate = any("interval" in row or "images_bound" in row for row in rows)
    columns: list[tuple[str, list[str]]] = [("id", [str(row["id"]) for row in shown])]
    if any(row["name"] != str(row["id"]) for row in shown):
        columns.append(("name", [one_line(row["name"]) for row in shown]))
    columns.append(("pixels", [f"{round(row['pixels']):,}" for row in shown]))
    columns.append(
        ("share", ["<0.001%" if 0 < row["frequency"] < 5e-6 else f"{row['frequency']:.3%}" for row in shown])
    )
    if estimate:
        columns.append(("95 % interval", list(map(_interval, shown))))
    if any(row["images"] is not None for row in shown):
        images = ["" if row["images"] is None else f"{round(row['images']):,}" for row in shown]
        columns.append(("images", images))
    if "stream" in response:
        columns.append(("seen", ["" if row["seen"] is None else f"{row['seen']:.2f}×" for row in shown]))
    head = {"weights": "weight", "additive": "added to logit", "pos_weight": "pos_weight"}[response["kind"]]
    columns.append((head, [f"{weights[row['id']]:{'.4f' if plain else '.4g'}}" for row in shown]))

    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
    for title, _ in columns:
        table.add_column(
            title, justify="left" if title == "name" else "right", max_width=24 if title == "name" else None
        )
    table.add_column("", ratio=1)
    largest = max(map(abs, weights), default=0.0) or 1.0
    for k, row in enumerate(shown):
        state = "ignored" if row.get("ignored") else "absent" if row.get("absent") else ""
        bar = Text(state) if state else Bar(largest, 0, abs(weights[row["id"]]), color="cyan")
        cells = [Text(texts[k], no_wrap=True, overflow="ellipsis") for _, texts in columns]
        table.add_row(*cells, bar, style="dim" if state else None)
    parts: list[RenderableType] = [Text.assemble(*_heading(response)), "", table]
    if hidden > 100:
        parts.append(Text(f"{hidden:,} of {len(rows):,} classes are absent", "dim"))
    for number, warning in enumerate(response["warnings"]):
        text = Text.assemble(("warning: ", "yellow"), one_line(warning["message"]))
        parts.append(Padding(text, (1 if number == 0 else 0, 0, 0, 0)))
    width = sum(min(max(map(cell_len, [title, *texts])), 24) + 2 for title, texts in columns)
    return Group(*parts), width


def _interval(row: Mapping[str, Any]) -> str:
    if "images_bound" in row:
        return "not estimated"
    low, high = row["interval"]
    return f"{100 * low:.3f}–{100 * high:.3f}%"


def _heading(response: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = [(one_line(response["dataset"]), "bold")]
    if response["version"] is not None:
        parts.append((f"version {response['version']}", ""))
    if response.get("split"):
        parts.append((f"split {response['split']}", ""))
    strength = response["spec"].get("strength", 1)
    parts.append((response["method"] + ("" if strength == 1 else f" at strength {strength:g}"), ""))
    if response["images"] is not None:
        parts.append((f"{response['images']:,} image{'' if response['images'] == 1 else 's'}", ""))
    if response["failed"]:
        parts.append((f"{response['failed']:,} failed", "red"))
    if "stream" in response:
        stream = response["stream"]
        parts.append((f"expected in {stream['draws']:,} draws", "yellow"))
        by = f"by {stream['sampler']}" if stream["sampler"] else ""
        parts.append((by or ("of the mixture" if len(stream["datasets"]) > 1 else ""), ""))
    else:
        part = ("exact", "") if response["exact"] else ("estimated", "yellow")
        if "estimate" in response:
            part = ("estimated from {images} of {of:,}".format(**response["estimate"]), "yellow")
        parts.append(part)
    return [span for part in parts for span in ((" · ", ""), part)][1:]


def seen(text: str) -> list[list[tuple[str, str]]]:
    """Return what a terminal shows in each line: the characters with their styles, without spaces at the end.

    Spaces look the same in all styles used here, and so do the absence of a style and the default background.
    """
    lines = []
    for line in text.split("\n"):
        letters: list[tuple[str, str]] = []
        style = ""
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b["):
                codes = [code for code in part[2:-1].split(";") if code not in ("0", "49")]
                style = ";".join(codes)
            else:
                letters += [(letter, "" if letter == " " else style) for letter in part]
        while letters and letters[-1][0] == " ":
            letters.pop()
        lines.append(letters)
    return lines
