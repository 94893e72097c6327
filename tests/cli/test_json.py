"""`--json`: stdout of every command that prints data is one JSON document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest

from statsvc.cli import cli
from support.command_line import invoke
from support.commands import scan_json
from support.expected import pixels_of

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_DATA = {"demo", "export", "runner", "serve", "upgrade"}
"""Commands that print no data on stdout."""


@pytest.fixture(scope="module")
def home(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("json") / "home"
    scan_json(street, "--name", "street", "--home", home)
    return home


def parsed(home: Path, *arguments: str | Path) -> Any:
    return json.loads(invoke(*arguments, "--json", "--home", home).stdout)


def test_every_command_that_prints_data_has_the_option_json() -> None:
    leaves = [command for command in cli.commands.values() if not isinstance(command, click.Group)]
    with_json = {
        command.name for command in leaves if any("--json" in option.opts for option in command.params)
    }
    assert {command.name for command in leaves} - with_json == WITHOUT_DATA


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("weights street", {"dataset", "version", "weights", "classes"}),
        ("compare street --method uniform --method enet", {"dataset", "version"}),
        ("datasets street", {"dataset", "source", "configuration", "failures"}),
        ("diff street street", {"from", "to", "distance", "classes", "exceeded"}),
        ("doctor street", {"dataset", "findings", "serious"}),
        ("verify", {"checked", "damaged"}),
        ("gc", {"expired", "removed", "orphans", "unknown", "damaged"}),
        ("gc --pause", {"paused"}),
        ("gc --resume", {"paused"}),
        ("changed street train/frame_000001.png", {"id", "dataset", "state"}),
        ("token create --scope read", {"id", "scope", "token"}),
    ],
)
def test_json_is_an_object_with_these_keys(home: Path, command: str, keys: set[str]) -> None:
    assert keys <= set(parsed(home, *command.split()))


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("datasets", {"dataset", "version", "images", "failed", "pixels", "source"}),
        ("versions street", {"version", "tags", "published", "arrays"}),
        ("jobs", {"id", "dataset", "state", "progress"}),
        ("token list", {"id", "name", "scope", "created", "revoked"}),
    ],
)
def test_json_is_a_list_of_objects_with_these_keys(home: Path, command: str, keys: set[str]) -> None:
    invoke("token", "create", "--scope", "read", "--home", home)
    rows = parsed(home, *command.split())
    assert rows
    assert all(keys <= set(row) for row in rows)


def test_json_of_versions_lists_the_tags(home: Path) -> None:
    assert parsed(home, "versions", "street")[0]["tags"] == []
    assert parsed(home, "versions", "street", "--tag", "1=paper")[0]["tags"] == ["paper"]
    parsed(home, "versions", "street", "--untag", "paper")


def test_json_of_weights_is_the_format_json(home: Path) -> None:
    as_format = invoke("weights", "street", "--format", "json", "--home", home).stdout
    assert invoke("weights", "street", "--json", "--home", home).stdout == as_format
    message = invoke("weights", "street", "--json", "--format", "csv", "--home", home, code=2).stderr
    assert "--json and --format csv contradict each other" in message


def test_json_of_an_import_has_the_weights_or_null(tmp_path: Path) -> None:
    table = tmp_path / "counts.json"
    table.write_text('{"0": 3, "1": 1, "255": 5}')
    imported = parsed(tmp_path / "home", "import", table, "--name", "x")
    assert (imported["dataset"], imported["version"]) == ("x", 1)
    assert pixels_of(imported["weights"]) == {0: 3, 1: 1}
    table.write_text('{"255": 5}')
    assert parsed(tmp_path / "home", "import", table, "--name", "ignored")["weights"] is None


def test_json_of_deleting_and_rebuilding_names_the_datasets(street: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    scan_json(street, "--name", "street", "--home", home)
    for file in home.glob("catalog.sqlite*"):
        file.unlink()
    assert parsed(home, "rebuild") == {"datasets": {"street": 1}, "left_out": []}
    assert parsed(home, "datasets", "street", "--delete") == {"dataset": "street", "deleted": True}
