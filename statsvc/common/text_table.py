"""Tables and paragraphs for a terminal: columns, line breaks, styles, and characters of two columns."""

from __future__ import annotations

import os
import re
from itertools import groupby
from operator import itemgetter
from typing import IO, TYPE_CHECKING, NamedTuple

from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Span = tuple[str, str]
"""A text and its style."""

Line = list[Span]

PLAIN, BOLD, DIM, RED, YELLOW, CYAN = "", "1", "2", "31", "33", "36"
BOLD_RED, BOLD_CYAN = f"{BOLD};{RED}", f"{BOLD};{CYAN}"
"""Styles: parameters of the escape sequence SGR (ECMA-48); those of colors have two digits."""

NARROWEST = 8
"""A column is not made narrower than this to fit a table into a terminal."""

_UNKNOWN_WIDTH = 80
_WORD = re.compile(r"\s*\S+\s*")
# Replacements of the same width, for output that is not UTF-8.
_ASCII = str.maketrans("·…█▉▊▋▌▍▎▏–×─", "-~#####   -x-")


class Column(NamedTuple):
    """A column of a table.

    title      may have several lines
    right      whether texts are aligned to the right
    shrink     what happens to a text wider than the column: "cut" ends it with an ellipsis, "wrap" continues
               it on the next line; without either, the column is as wide as its texts
    max_width  in columns of the terminal
    """

    title: str = ""
    right: bool = False
    shrink: str = ""
    max_width: int | None = None


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if _is_narrow(text) else sum(width for _, width in _letters(text))


def wrap(line: Line, width: int) -> list[Line]:
    """Return the lines of a paragraph, at most `width` columns wide, without spaces at their ends.

    A word that is wider is divided. Control characters become escapes, here and in `table`.
    """
    letters = [(letter, size, style) for text, style in line for letter, size in _letters(one_line(text))]
    lines: list[Line] = [[]]
    used = 0
    for match in _WORD.finditer("".join(letter for letter, _, _ in letters)):
        word = letters[match.start() : match.end()]
        needed = text_width(match.group().rstrip())
        if used and used + needed > width:
            lines.append([])
            used = 0
        for letter, size, style in word:
            if used and used + size > width and not letter.isspace():
                lines.append([])
                used = 0
            lines[-1].append((letter, style))
            used += size
    return [_joined(line) for line in lines]


def table(columns: Sequence[Column], rows: Iterable[Sequence[Span]], width: int, gap: int = 2) -> list[Line]:
    """Return the lines of a table: titles, if there are any, and rows.

    If the table is wider than `width`, the widest of the columns that can shrink shrinks first. Numbers are
    never cut: the table can remain wider than the terminal, which then continues its lines.
    """
    titles = [[(one_line(line), BOLD) for line in column.title.split("\n")] for column in columns]
    body = [[(one_line(text), style) for text, style in row] for row in rows]
    widths = [
        min(
            max(text_width(text) for text, _ in [*title, *(row[k] for row in body)]),
            column.max_width or 1 << 30,
        )
        for k, (column, title) in enumerate(zip(columns, titles, strict=True))
    ]
    _shrink(widths, columns, width, gap)
    lines: list[Line] = []
    if any(column.title for column in columns):
        heads = [
            [part for line in title for part in _fitted(line, column, width)]
            for title, column, width in zip(titles, columns, widths, strict=True)
        ]
        height = max(map(len, heads))
        heads = [[("", PLAIN)] * (height - len(head)) + head for head in heads]
        lines += _side_by_side(columns, heads, widths, gap)
    for row in body:
        lines += _side_by_side(columns, list(map(_fitted, row, columns, widths)), widths, gap)
    return lines


def print_lines(make: Callable[[int], Iterable[Line]], file: IO[str], max_width: int | None = None) -> None:
    """Print to a file the lines that `make` returns for the width of the terminal, at most `max_width`.

    Styles are for terminals only, and colors only without the environment variable NO_COLOR. The text is
    ASCII where the encoding of the file is not UTF-8.
    """
    width = _terminal_width()
    styled = _is_terminal(file)
    lines = make(width if max_width is None else min(width, max_width))
    text = "".join(f"{_rendered(line, styled)}\n" for line in lines)
    encoding = (getattr(file, "encoding", None) or "utf-8").lower()
    if not encoding.startswith("utf"):
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    file.write(text)


def _is_narrow(text: str) -> bool:
    """Return whether all printable characters of a text are before the first that is not one column wide."""
    return text.isascii() or max(text) < "\u0300"


def _letters(text: str) -> Iterator[tuple[str, int]]:
    """Yield each character with its width: 2 if it is East Asian or an emoji, 0 if it changes the one before.

    The widths are those of Unicode Standard Annex #11, in the version of Python's `unicodedata`.
    """
    if _is_narrow(text):
        for letter in text:
            yield letter, 1
        return
    import unicodedata

    before = 0
    for letter in text:
        if letter == "\ufe0f":  # asks for the emoji instead of the narrow character before it
            size = int(before == 1)
        # The ranges are vowels and finals of Korean syllables, and skin colors.
        elif (
            unicodedata.category(letter) in ("Mn", "Mc", "Me") or "ᅠ" <= letter <= "ᇿ" or "🏻" <= letter <= "🏿"
        ):
            size = 0
        else:
            size = 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1
        before = size or before
        yield letter, size


def _joined(letters: Line) -> Line:
    """Return single characters as spans, without the spaces at the end."""
    while letters and letters[-1][0].isspace():
        letters.pop()
    return [
        ("".join(letter for letter, _ in group), style) for style, group in groupby(letters, itemgetter(1))
    ]


def _shrink(widths: list[int], columns: Sequence[Column], width: int, gap: int) -> None:
    """Make the widest of the columns that can shrink narrower, until the table fits; a gap is part of it."""
    last = len(columns) - 1
    shrinkable = [k for k, column in enumerate(columns) if column.shrink]
    while shrinkable and sum(widths) + gap * last > width:
        widest = max(shrinkable, key=lambda k: widths[k] + gap * (k < last))
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def _fitted(cell: Span, column: Column, width: int) -> list[Span]:
    """Return the lines of a cell."""
    text, style = cell
    if text_width(text) <= width:
        return [cell]
    if column.shrink == "wrap":
        return [line[0] if line else ("", PLAIN) for line in wrap([cell], width)]
    kept, used = "", 0
    for letter, size in _letters(text):
        if used + size > width - 1:
            break
        kept += letter
        used += size
    return [(kept + " " * (width - 1 - used) + "…", style)]


def _side_by_side(
    columns: Sequence[Column], cells: Sequence[Sequence[Span]], widths: Sequence[int], gap: int
) -> Iterator[Line]:
    for number in range(max(map(len, cells))):
        line: Line = []
        for column, cell, width in zip(columns, cells, widths, strict=True):
            text, style = cell[number] if number < len(cell) else ("", PLAIN)
            padding = (" " * (width - text_width(text)), PLAIN)
            line += [padding, (text, style)] if column.right else [(text, style), padding]
            line.append((" " * gap, PLAIN))
        yield line[:-1]


def _rendered(line: Line, styled: bool) -> str:
    if not styled:
        return "".join(text for text, _ in line).rstrip()
    without_color = bool(os.environ.get("NO_COLOR"))
    parts = []
    for text, style in line:
        shown = ";".join(code for code in style.split(";") if len(code) == 1) if without_color else style
        parts.append(f"\x1b[{shown}m{text}\x1b[0m" if shown and text else text)
    return "".join(parts).rstrip()


def _is_terminal(file: IO[str]) -> bool:
    forced = os.environ.get("FORCE_COLOR")  # https://force-color.org
    is_terminal = file.isatty() if forced is None else forced != ""
    return is_terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _terminal_width() -> int:
    """Return the width of the terminal; of the one that reads the keys, if the output is a pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    for descriptor in (0, 1, 2):
        try:
            width = os.get_terminal_size(descriptor).columns
        except OSError:
            continue
        if width:
            return width
    return _UNKNOWN_WIDTH
