"""Names with control characters, markup and formulas are data, wherever they are shown."""

from __future__ import annotations

import csv
import io
import json
import logging
from typing import Any

import pytest

from statsvc.cli import _tables
from statsvc.cli._echo import echo
from statsvc.cli._options import print_json
from statsvc.common.logs import OneLineFormatter
from statsvc.sampling.weights import weights_response
from statsvc.store import import_files
from statsvc.weighting.display import print_class_table
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.serialize import render
from support.small_tables import table_of

EVIL = "[red]x[/]\x1b]0;title\x07\nforged \x9b2J"


def weights(*names: str) -> dict[str, Any]:
    return weights_response(table_of([{0: 5, 1: 7}], class_names=names, num_classes=2), WeightSpec())


def test_the_terminal_receives_no_control_characters_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"statsvc: {EVIL}\tend", err=True)
    assert capsys.readouterr().err == "statsvc: [red]x[/]\\x1b]0;title\\x07\nforged \\x9b2J\tend\n"
    _tables.print_table(["name"], [[EVIL]])
    _tables.print_fields({"name": EVIL})
    assert capsys.readouterr().out.count("\n") == 3
    file = io.StringIO()
    print_class_table(weights(EVIL, "[bold]road"), file)
    assert "[bold]road" in file.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(file.getvalue())


def test_a_table_on_a_terminal_shows_markup_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _tables.print_table(["name"], [["[red]x[/red]"], ["[/]"]])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_json_output_is_json_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": EVIL + "é\u202e"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert not any(letter in text for letter in "\x1b\x9b\u202e")
    assert "é" in text


def test_a_log_record_is_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s scanned", ("a\nERROR forged",), None)
    assert OneLineFormatter("%(levelname)s %(message)s").format(record) == r"INFO a\nERROR forged scanned"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_executes_no_name(start: str) -> None:
    name = f'{start}HYPERLINK("http://evil.example","x")'
    rows = list(csv.DictReader(io.StringIO(render("csv", weights(name, "road")).decode())))
    assert rows[0]["name"].startswith("'")
    assert rows[1]["name"] == "road"
    assert len(rows) == 2


@pytest.mark.parametrize(
    "name", ["/abs/a.png", "../a.png", "a/../b.png", "a\nb.png", "\x1b[2J.png", ".hidden/a.png", "a//b.png"]
)
def test_imported_sample_names_follow_the_rules_of_a_scan(name: str) -> None:
    with pytest.raises(ValueError, match="sample 0"):
        import_files.read_samples([{"file": name, "0": 5}])
    import_files.read_samples([{"file": "train/a b.png", "0": 5}])
