"""Tables of a weights response, as text and HTML: a line for each class, with a bar of its weight."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from statsvc.common.text_table import (
    BOLD,
    CYAN,
    DIM,
    PLAIN,
    RED,
    YELLOW,
    Column,
    Line,
    Span,
    print_lines,
    table,
    text_width,
    wrap,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_WIDTH = 110
"""Largest width of a table in terminal columns; a longer bar would not be clearer."""

MAX_ABSENT = 100
"""Most absent classes that a table shows; more are one line."""

_NAME_WIDTH = 24
_SHORTEST_BAR = 6
_GAP = 2
_EIGHTHS = " ▏▎▍▌▋▊▉"


def print_class_table(response: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print a weights response to `file`, by default to standard output.

    The text is colored on a terminal, and ASCII where the encoding of the file is not UTF-8.
    """
    print_lines(lambda width: class_table(response, width), file or sys.stdout, MAX_WIDTH)


def class_table(response: Mapping[str, Any], width: int) -> list[Line]:
    """Return the lines of a weights response, `width` columns wide.

    It consists of a heading; id, name, pixels, share, images, weight and bar of each class, with ignored and
    absent classes dimmed; and the warnings. Columns without information (names equal to ids, unknown image
    counts) are left out. An estimate has the 95 % interval of each share, and a stream the factor by which
    each class is more frequent than in the files.
    """
    rows, absent = _shown_rows(response["classes"])
    lines = [*wrap(_heading(response), width), [], *_class_rows(response, rows, width)]
    if absent:
        lines += wrap([(f"{absent:,} of {len(response['classes']):,} classes are absent", DIM)], width)
    if response["warnings"]:
        lines.append([])
    for warning in response["warnings"]:
        lines += wrap([("warning: ", YELLOW), (warning["message"], PLAIN)], width)
    return lines


def _shown_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """Return the rows to show, and the number of absent classes that are left out because they are many."""
    present = [row for row in rows if not row.get("absent")]
    absent = len(rows) - len(present)
    return (present, absent) if absent > MAX_ABSENT else (list(rows), 0)


def _class_rows(response: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    has_names = any(row["name"] != str(row["id"]) for row in rows)
    has_images = any(row["images"] is not None for row in rows)
    is_estimate = any("interval" in row or "images_bound" in row for row in rows)
    # Not the weights of the rows: a response read from a file shows what a training program would use.
    weights: Sequence[float] = response["weights"]
    format_weight = _weight_format(weights)
    states = ["ignored" if row.get("ignored") else "absent" if row.get("absent") else "" for row in rows]

    columns = [Column("id", right=True)]
    if has_names:
        columns.append(Column("name", shrink="cut", max_width=_NAME_WIDTH))
    columns += [Column("pixels", right=True), Column("share", right=True)]
    if is_estimate:
        columns.append(Column("95 % interval", right=True))
    if has_images:
        columns.append(Column("images", right=True))
    if "stream" in response:
        columns.append(Column("seen", right=True))
    columns.append(Column(_WEIGHT[response["kind"]], right=True))

    body = []
    for row, state in zip(rows, states, strict=True):
        cells = [str(row["id"])]
        if has_names:
            cells.append(row["name"])
        cells += [f"{round(row['pixels']):,}", _share(row["frequency"])]
        if is_estimate:
            cells.append("not estimated" if "images_bound" in row else _interval(row.get("interval")))
        if has_images:
            cells.append("" if row["images"] is None else f"{round(row['images']):,}")
        if "stream" in response:
            cells.append("" if row["seen"] is None else f"{row['seen']:.2f}×")
        cells.append(format_weight(weights[row["id"]]))
        body.append([(cell, DIM if state else PLAIN) for cell in cells])

    shortest = max([_SHORTEST_BAR, *map(len, states)])
    lines = table(columns, body, width - _GAP - shortest, _GAP)
    longest = max(shortest, width - _GAP - sum(text_width(text) for text, _ in lines[0]))
    largest = max((abs(weight) for weight in weights), default=0.0) or 1.0
    for line, row, state in zip(lines[1:], rows, states, strict=True):
        bar = (state, DIM) if state else (_bar(abs(weights[row["id"]]), largest, longest), CYAN)
        line += [(" " * _GAP, PLAIN), bar]
    return lines


def _bar(value: float, largest: float, width: int) -> str:
    """Return a bar in proportion to a value, to an eighth of a column; the largest has `width` columns."""
    columns, eighths = divmod(int(width * 8 * value / largest), 8)
    return "█" * columns + _EIGHTHS[eighths].rstrip()


def _heading(response: Mapping[str, Any]) -> Line:
    parts = [(str(response["dataset"]), BOLD)]
    if response["version"] is not None:
        parts.append((f"version {response['version']}", PLAIN))
    if response.get("split"):
        parts.append((f"split {response['split']}", PLAIN))
    strength = response["spec"].get("strength", 1)
    parts.append((str(response["method"]) + ("" if strength == 1 else f" at strength {strength:g}"), PLAIN))
    if response["images"] is not None:
        parts.append((f"{response['images']:,} image{'' if response['images'] == 1 else 's'}", PLAIN))
    if response["failed"]:
        parts.append((f"{response['failed']:,} failed", RED))
    if "stream" in response:
        parts.append((f"expected in {response['stream']['draws']:,} draws", YELLOW))
        parts.append((stream_text(response["stream"]), PLAIN))
    else:
        parts.append(("exact", PLAIN) if response["exact"] else (_estimated(response), YELLOW))
    return separated(parts)


def _estimated(response: Mapping[str, Any]) -> str:
    estimate = response.get("estimate")  # other responses with `exact: false` have none
    return "estimated" if estimate is None else f"estimated from {estimate['images']:,} of {estimate['of']:,}"


def separated(parts: Sequence[Span]) -> Line:
    """Return texts with dots between them."""
    return [span for part in parts for span in ((" · ", PLAIN), part)][1:]


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
    from html import escape

    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
    below = "".join(f"<p>⚠ {escape(note)}</p>" for note in notes)
    return (
        f"<p>{escape(title)}</p><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def _html_cell(cell: Cell) -> str:
    from html import escape

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
