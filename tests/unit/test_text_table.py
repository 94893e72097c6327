"""Tables and paragraphs for a terminal, compared with rich."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from statsvc.common import text_table
from statsvc.common.text_table import BOLD, CYAN, NARROWEST, PLAIN, RED, Column, Line, print_lines, text_width
from support import rich_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

LETTERS = [*"abcde1234.,éñ街灯カ한글😀", "e\u0301", "\u1112\u1161"]
WORDS = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=12).map("".join)
STYLES = st.sampled_from(list(rich_tables.STYLES))
LINES = st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), STYLES), max_size=4)
COLUMNS = st.lists(
    st.builds(
        Column,
        WORDS,
        st.booleans(),
        st.sampled_from(["", "cut"]),
        st.one_of(st.none(), st.integers(NARROWEST, 30)),
    ),
    min_size=1,
    max_size=5,
)


def printed(lines: Sequence[Line], *, styled: bool = False) -> str:
    return "".join(f"{text_table._rendered(line, styled)}\n" for line in lines)


@settings(max_examples=60, deadline=None)
@given(LINES, st.integers(26, 90))
def test_paragraphs_are_wrapped_like_those_of_rich(line: Line, width: int) -> None:
    expected = rich_tables.rendered(rich_tables.paragraph(line), width, styled=True)
    assert rich_tables.seen(printed(text_table.wrap(line, width), styled=True)) == rich_tables.seen(expected)


@settings(max_examples=60, deadline=None)
@given(st.text("ab街é \u0301", min_size=1), st.integers(NARROWEST, 40))
def test_a_paragraph_keeps_its_characters_and_its_width(text: str, width: int) -> None:
    lines = [text for line in text_table.wrap([(text, PLAIN)], width) for text, _ in line or [("", PLAIN)]]
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert max(map(cell_len, lines)) <= width


@settings(max_examples=60, deadline=None)
@given(COLUMNS, st.data())
def test_tables_that_fit_look_like_those_of_rich(columns: list[Column], data: st.DataObject) -> None:
    cell = st.tuples(st.lists(WORDS, max_size=3).map(" ".join), STYLES)
    rows = data.draw(st.lists(st.tuples(*[cell] * len(columns)), max_size=6))
    expected = rich_tables.rendered(rich_tables.table(columns, rows), 1000, styled=True)
    ours = printed(text_table.table(columns, rows, 1000), styled=True)
    assert rich_tables.seen(ours) == rich_tables.seen(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LINES, WORDS), min_size=1, max_size=4), st.integers(44, 100))
def test_one_column_that_wraps_looks_like_that_of_rich(texts: list[tuple[Line, str]], width: int) -> None:
    columns = [Column("number", right=True), Column("text", shrink="wrap"), Column("last")]
    rows = [
        [(str(k), PLAIN), (" ".join(text for text, _ in line), PLAIN), (last, PLAIN)]
        for k, (line, last) in enumerate(texts)
    ]
    expected = rich_tables.rendered(rich_tables.table(columns, rows), width)
    assert printed(text_table.table(columns, rows, width)) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), WORDS.map(lambda word: word * 3))
def test_names_shrink_to_fit_and_numbers_are_never_cut(width: int, name: str) -> None:
    columns = [Column("id", right=True), Column("name", shrink="cut"), Column("pixels", right=True)]
    lines = printed(text_table.table(columns, [[("7", PLAIN), (name, PLAIN), ("123,456", PLAIN)]], width))
    title, row, _ = lines.split("\n")
    assert row.startswith(" 7  ")
    assert row.endswith("  123,456")
    assert cell_len(row) <= max(width, 2 + 2 + NARROWEST + 2 + 7)
    assert title.split() == ["id", "name", "pixels"]
    shown = row[4:-9].rstrip()
    assert shown == name or (shown.endswith("…") and name.startswith(shown[:-1].rstrip()))


def test_a_title_has_several_lines_and_aligns_with_the_last_one() -> None:
    columns = [Column("id"), Column("moved from\ndefault", right=True)]
    lines = printed(text_table.table(columns, [[("1", PLAIN), ("3.0%", PLAIN)]], 80)).splitlines()
    assert lines == ["    moved from", "id     default", "1         3.0%"]


def test_widths_of_characters_are_those_of_rich() -> None:
    # Unicode 16 made symbols of the I Ching wide, and fillers of Korean syllables are invisible.
    other = {*range(0x2630, 0x2638), *range(0x268A, 0x2690), *range(0x4DC0, 0x4E00), *range(0x1D300, 0x1D377)}
    other |= {0x3164, 0xFFA0, *range(0xD7B0, 0xD7FC)}
    letters = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if chr(code).isprintable() and unicodedata.category(chr(code)) != "Co" and code not in other
    ]
    # Characters of one column change the width of a variation selector after them, and nothing else.
    assert [
        letter for letter in letters if letter != "\ufe0f" and text_width(letter) != cell_len(letter)
    ] == []
    assert text_width("☀") == cell_len("☀") == 1
    assert text_width("☀\ufe0f") == cell_len("☀\ufe0f") == 2
    assert text_width("한글") == cell_len("한글") == 4


def test_control_characters_are_printed_as_escapes() -> None:
    lines = [
        *text_table.wrap([("a\x1b[31mb", RED)], 80),
        *text_table.table([Column("x\n\x07")], [[("\x9b2J\n", PLAIN)]], 80),
    ]
    assert printed(lines) == "a\\x1b[31mb\nx\n\\x07\n\\x9b2J\\n\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TERM": "xterm"}, "\x1b[36mblue\x1b[0m \x1b[1mbold\x1b[0m\n"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "blue \x1b[1mbold\x1b[0m\n"),
        ({"TERM": "dumb"}, "blue bold\n"),
        ({"TERM": "xterm", "FORCE_COLOR": ""}, "blue bold\n"),
    ],
)
def test_styles_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    line = [("blue", CYAN), (" ", PLAIN), ("bold", BOLD), ("  ", PLAIN)]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file, terminal = io.StringIO(), Terminal()
    print_lines(lambda width: [line], file)
    print_lines(lambda width: [line], terminal)
    assert file.getvalue() == "blue bold\n"
    assert terminal.getvalue() == expected


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("200", 110), ("", 80), ("0", 80), ("wide", 80)])
def test_the_environment_can_set_the_width(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    # The terminal in which the tests run, if any, has a width, too.
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((0, 0)))
    file = io.StringIO()
    print_lines(lambda width: [[(str(width), PLAIN)]], file, 110)
    assert file.getvalue() == f"{width}\n"
