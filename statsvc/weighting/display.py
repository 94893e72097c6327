"""An answer as a table for people: a line a class, with a bar as long as its weight is large."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import RenderableType

WIDEST = 110
"""Columns of a terminal that a table takes at most: a longer bar is no clearer."""

_NAME = 24
# Where the output is not UTF-8: signs of the same width.
_ASCII = str.maketrans("·…█▉▊▋▌▍▎▏–×", "-~#####   -x")


def print_class_table(answer: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print an answer to `file` (standard output by default): colours on a terminal, else plain text.

    In ASCII where the file's encoding is not UTF-8.
    """
    printed(lambda width: class_table(answer, width=width), file or sys.stdout)


def printed(make: Callable[[int], RenderableType], file: IO[str], widest: int = WIDEST) -> None:
    """Print what `make` returns for the terminal's width, `widest` columns at most, to a file."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    with console.capture() as captured:
        console.print(make(min(console.width, widest)))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    encoding = console.encoding
    if not encoding.startswith("utf"):
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    console.file.write(text)


def class_table(answer: Mapping[str, Any], *, width: int | None = None) -> RenderableType:
    """Return an answer of `statsvc.weighting.answers.answer` as a rich renderable, `width` columns wide.

    A heading, then id, name, pixels, share, images, weight and bar of each class, ignored and absent
    classes dimmed, then the warnings. Columns that say nothing (names that are the ids, unknown image
    counts) are left out; an estimate has the 95 % interval of each share, and a stream how many times more
    often than in the files each class is seen.
    """
    from rich.bar import Bar
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows: Sequence[Mapping[str, Any]] = answer["classes"]
    named = any(row["name"] != str(row["id"]) for row in rows)
    counted = any(row["images"] is not None for row in rows)
    estimated = any("interval" in row for row in rows)
    # The weights, not the rows', so that an answer read from a file shows what a trainer would get.
    weights: Sequence[float] = answer["weights"]
    largest = max((abs(weight) for weight in weights), default=0.0)

    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("id", justify="right")
    if named:
        table.add_column("name", overflow="ellipsis", max_width=_NAME, no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    if estimated:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    if counted:
        table.add_column("images", justify="right", no_wrap=True)
    if "stream" in answer:
        table.add_column("seen", justify="right", no_wrap=True)
    table.add_column(_WEIGHT[answer["kind"]], justify="right", no_wrap=True)
    table.add_column("", ratio=1, min_width=6)

    show = _weight_format(weights)
    for row, weight in zip(rows, weights, strict=True):
        cells: list[RenderableType] = [str(row["id"])]
        if named:
            cells.append(Text(row["name"]))
        cells += [f"{round(row['pixels']):,}", _share(row["frequency"])]
        if estimated:
            cells.append(_interval(row.get("interval")))
        if counted:
            cells.append("" if row["images"] is None else f"{round(row['images']):,}")
        if "stream" in answer:
            cells.append("" if row["seen"] is None else f"{row['seen']:.2f}×")
        cells.append(show(weight))
        state = "ignored" if row.get("ignored") else "absent" if row.get("absent") else ""
        cells.append(Text(state) if state else Bar(largest or 1.0, 0, abs(weight), color="cyan"))
        table.add_row(*cells, style="dim" if state else None)

    parts: list[RenderableType] = [_heading(answer), "", table]
    for number, warning in enumerate(answer["warnings"]):
        text = Text.assemble(("warning: ", "yellow"), warning["message"])
        parts.append(Padding(text, (1 if number == 0 else 0, 0, 0, 0)))
    return Constrain(Group(*parts), width)


def _heading(answer: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    parts = [(str(answer["dataset"]), "bold")]
    if answer["version"] is not None:
        parts.append((f"version {answer['version']}", ""))
    if answer.get("split"):
        parts.append((f"split {answer['split']}", ""))
    parts.append((str(answer["method"]), ""))
    if answer["images"] is not None:
        parts.append((f"{answer['images']:,} image{'' if answer['images'] == 1 else 's'}", ""))
    if answer["failed"]:
        parts.append((f"{answer['failed']:,} failed", "red"))
    if "stream" in answer:
        sampler = answer["stream"]["sampler"]
        parts.append((f"expected in {answer['stream']['draws']:,} draws", "yellow"))
        parts.append((f"by {sampler}" if sampler else "of the mixture", ""))
    else:
        parts.append(("exact", "") if answer["exact"] else ("estimated", "yellow"))
    return Text(" · ").join(Text(text, style) for text, style in parts)


_WEIGHT = {"weights": "weight", "additive": "added to logit", "pos_weight": "pos_weight"}


def _share(share: float) -> str:
    return "<0.001%" if 0 < share < 5e-6 else f"{share:.3%}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.3f}–{100 * interval[1]:.3f}%"


def _weight_format(weights: Sequence[float]) -> Callable[[float], str]:
    """Return a function that shows weights: four decimals where that suits them all, else four digits."""
    sizes = [abs(weight) for weight in weights if weight]
    if sizes and (max(sizes) >= 1e5 or min(sizes) < 1e-3):
        return lambda weight: f"{weight:.4g}"
    return lambda weight: f"{weight:.4f}"
