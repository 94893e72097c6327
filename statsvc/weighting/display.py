"""Tables of a weights response, as text and HTML: a line for each class, with a bar of its weight."""

from __future__ import annotations

import re
import sys
from html import escape
from typing import IO, TYPE_CHECKING, Any

from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import RenderableType

MAX_WIDTH = 110
"""Largest width of a table in terminal columns; a longer bar would not be clearer."""

MAX_ABSENT = 100
"""Most absent classes that a table shows; more are one line."""

_NAME_WIDTH = 24
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
# Replacements of the same width, for output that is not UTF-8.
_ASCII = str.maketrans("·…█▉▊▋▌▍▎▏–×", "-~#####   -x")


def print_class_table(response: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print a weights response to `file`, by default to standard output.

    The text is colored on a terminal, and ASCII where the encoding of the file is not UTF-8.
    """
    printed(lambda width: class_table(response, width=width), file or sys.stdout)


def load() -> None:
    """Import what `print_class_table` uses, which takes 50 ms, for instance while another process works."""
    import rich.bar
    import rich.console
    import rich.constrain
    import rich.padding
    import rich.table
    import rich.text  # noqa: F401


def printed(make: Callable[[int], RenderableType], file: IO[str], max_width: int = MAX_WIDTH) -> None:
    """Print to a file what `make` returns for the width of the terminal, at most `max_width` columns."""
    from rich.console import Console

    console = Console(file=file, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(make(min(console.width, max_width)))
    lines = (line.rstrip() for line in captured.get().split("\n"))
    # Names can contain control characters, which the terminal would obey; the others are colors.
    text = (
        "\n".join("".join(map(_without_controls, _COLOR.split(line))) for line in lines).rstrip("\n") + "\n"
    )
    encoding = console.encoding
    if not encoding.startswith("utf"):
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    console.file.write(text)


def _without_controls(text: str) -> str:
    return text if _COLOR.fullmatch(text) else one_line(text)


def class_table(response: Mapping[str, Any], *, width: int | None = None) -> RenderableType:
    """Return a weights response as a rich renderable, `width` columns wide.

    It consists of a heading; id, name, pixels, share, images, weight and bar of each class, with ignored and
    absent classes dimmed; and the warnings. Columns without information (names equal to ids, unknown image
    counts) are left out. An estimate has the 95 % interval of each share, and a stream the factor by which
    each class is more frequent than in the files.
    """
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.padding import Padding
    from rich.text import Text

    rows, absent = _shown_rows(response["classes"])
    parts: list[RenderableType] = [_heading(response), "", _class_rows(response, rows)]
    if absent:
        parts.append(Text(f"{absent:,} of {len(response['classes']):,} classes are absent", "dim"))
    for number, warning in enumerate(response["warnings"]):
        text = Text.assemble(("warning: ", "yellow"), one_line(warning["message"]))
        parts.append(Padding(text, (1 if number == 0 else 0, 0, 0, 0)))
    return Constrain(Group(*parts), width)


def _shown_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """Return the rows to show, and the number of absent classes that are left out because they are many."""
    present = [row for row in rows if not row.get("absent")]
    absent = len(rows) - len(present)
    return (present, absent) if absent > MAX_ABSENT else (list(rows), 0)


def _class_rows(response: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    has_names = any(row["name"] != str(row["id"]) for row in rows)
    has_images = any(row["images"] is not None for row in rows)
    is_estimate = any("interval" in row or "images_bound" in row for row in rows)
    # Not the weights of the rows: a response read from a file shows what a training program would use.
    weights: Sequence[float] = response["weights"]
    largest = max((abs(weight) for weight in weights), default=0.0)

    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("id", justify="right")
    if has_names:
        table.add_column("name", overflow="ellipsis", max_width=_NAME_WIDTH, no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    if is_estimate:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    if has_images:
        table.add_column("images", justify="right", no_wrap=True)
    if "stream" in response:
        table.add_column("seen", justify="right", no_wrap=True)
    table.add_column(_WEIGHT[response["kind"]], justify="right", no_wrap=True)
    table.add_column("", ratio=1, min_width=6)

    format_weight = _weight_format(weights)
    for row in rows:
        weight = weights[row["id"]]
        cells: list[RenderableType] = [str(row["id"])]
        if has_names:
            cells.append(Text(one_line(row["name"])))
        cells += [f"{round(row['pixels']):,}", _share(row["frequency"])]
        if is_estimate:
            cells.append("not estimated" if "images_bound" in row else _interval(row.get("interval")))
        if has_images:
            cells.append("" if row["images"] is None else f"{round(row['images']):,}")
        if "stream" in response:
            cells.append("" if row["seen"] is None else f"{row['seen']:.2f}×")
        cells.append(format_weight(weight))
        state = "ignored" if row.get("ignored") else "absent" if row.get("absent") else ""
        cells.append(Text(state) if state else Bar(largest or 1.0, 0, abs(weight), color="cyan"))
        table.add_row(*cells, style="dim" if state else None)

    return table


def _heading(response: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    parts = [(str(response["dataset"]), "bold")]
    if response["version"] is not None:
        parts.append((f"version {response['version']}", ""))
    if response.get("split"):
        parts.append((f"split {response['split']}", ""))
    strength = response["spec"].get("strength", 1)
    parts.append((str(response["method"]) + ("" if strength == 1 else f" at strength {strength:g}"), ""))
    if response["images"] is not None:
        parts.append((f"{response['images']:,} image{'' if response['images'] == 1 else 's'}", ""))
    if response["failed"]:
        parts.append((f"{response['failed']:,} failed", "red"))
    if "stream" in response:
        parts.append((f"expected in {response['stream']['draws']:,} draws", "yellow"))
        parts.append((stream_text(response["stream"]), ""))
    else:
        parts.append(("exact", "") if response["exact"] else ("estimated", "yellow"))
    return Text(" · ").join(Text(one_line(text), style) for text, style in parts)


def stream_text(stream: Mapping[str, Any]) -> str:
    """Return what draws the images of a stream, and how they are cropped."""
    by = f"by {stream['sampler']}" if stream["sampler"] else ""
    if len(stream["datasets"]) > 1 and not by:
        by = "of the mixture"
    crop = "in crops of {}x{}".format(*stream["crop"]) if "crop" in stream else ""
    return " ".join(part for part in (by, crop) if part)


_WEIGHT = {"weights": "weight", "additive": "added to logit", "pos_weight": "pos_weight"}


def _share(share: float) -> str:
    return "<0.001%" if 0 < share < 5e-6 else f"{share:.3%}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.3f}–{100 * interval[1]:.3f}%"


def _weight_format(weights: Sequence[float]) -> Callable[[float], str]:
    """Return a function that formats weights: 4 decimals if that suits all of them, else 4 digits."""
    sizes = [abs(weight) for weight in weights if weight]
    if sizes and (max(sizes) >= 1e5 or min(sizes) < 1e-3):
        return lambda weight: f"{weight:.4g}"
    return lambda weight: f"{weight:.4f}"


Cell = str | float | tuple[str, float]
"""A cell of an HTML table: a text, a bar of a length from 0 to 1, or a text above such a bar."""


def html_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], notes: Sequence[str] = ()
) -> str:
    """Return an HTML table with a title above and notes below it, for notebooks. Texts are escaped."""
    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
    below = "".join(f"<p>⚠ {escape(note)}</p>" for note in notes)
    return (
        f"<p>{escape(title)}</p><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    if isinstance(cell, tuple):
        text, length = cell
        fill = f"#9ec9e2 {100 * length:.1f}%,transparent 0"
        return f"<td style='background:linear-gradient(90deg,{fill})'>{escape(text)}</td>"
    bar = f"background:{_BAR};height:0.8em;width:{12 * cell:.2f}em"
    return f"<td style='text-align:left'><div style='{bar}'></div></td>"


_BAR = "#2a6f97"


def weights_html(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    weights: Sequence[float],
    warnings: Sequence[Mapping[str, str]],
) -> str:
    """Return weights as an HTML table with a bar for each class.

    rows     "id", "name" and "frequency" of each class
    weights  weight of each class; the bars are in proportion to their absolute values
    """
    largest = max(map(abs, weights), default=0) or 1
    format_weight = _weight_format(weights)
    return html_table(
        title,
        ("id", "class", "share", "weight", ""),
        (
            (
                str(row["id"]),
                row["name"],
                _share(row["frequency"]),
                format_weight(weight),
                abs(weight) / largest,
            )
            for row, weight in zip(rows, weights, strict=True)
        ),
        [warning["message"] for warning in warnings],
    )


def counts_html(title: str, histogram: Mapping[str, Any]) -> str:
    """Return the counts in a histogram response as an HTML table with a bar for each id."""
    rows = histogram["classes"]
    largest = max((row["share"] for row in rows), default=0) or 1
    notes = [f"{histogram['failed']:,} unreadable label map(s)"] if histogram["failed"] else []
    return html_table(
        title,
        ("id", "class", "pixels", "images", "share", ""),
        (
            (
                str(row["id"]),
                row["name"] + state,
                f"{row['pixels']:,}",
                "" if row["images"] is None else f"{row['images']:,}",
                _share(row["share"]),
                row["share"] / largest,
            )
            for row in rows
            for state in [
                " (ignored)" if row.get("ignored") else " (not a class)" if row.get("unexpected") else ""
            ]
        ),
        notes,
    )


def comparison_html(compared: Mapping[str, Any]) -> str:
    """Return a comparison as an HTML table: the share of the loss of each class with each method."""
    candidates = compared["candidates"]
    rows: list[Sequence[Cell]] = [
        (
            row["name"],
            (_share(row["frequency"]), row["frequency"]),
            *((f"{share:.1%}", share) for share in (c["loss_share"][row["id"]] for c in candidates)),
        )
        for row in compared["classes"]
        if not row.get("ignored")
    ]
    ratios = ["∞" if c["ratio"] is None else f"{c['ratio']:.3g}" for c in candidates]
    title = f"Share of the loss of each class: {compared['dataset']}"
    return html_table(
        title,
        ("class", "pixels", *(" = ".join(candidate["names"]) for candidate in candidates)),
        [*rows, ("max/min weight", "", *ratios)],
        [warning["message"] for warning in compared["warnings"]],
    )
