"""`statsvc config`: the effective configuration of servers and runners, and where each value comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from statsvc.cli._config_file import FOR_ALL, ConfigFile
from statsvc.cli._config_file import options as options_of
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json
from statsvc.cli._tables import print_table
from statsvc.store.home import without_password

COMMANDS = ("serve", "runner")


@click.command(short_help="Print the effective configuration.")
@json_option
@home_options
@click.pass_context
def config(context: click.Context, /, as_json: bool, options: HomeOptions) -> None:
    """Print the value of each option of serve and runner, and whether it comes from the file, the
    environment or a default. Passwords are not shown.
    """
    parent = context.parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    if isinstance(parent.default_map, ConfigFile):
        parent.default_map.check()
    rows = _rows("", parent.command, parent)
    home = options.resolve()
    for name, value in zip(FOR_ALL, (home.folder, home.database, home.store), strict=True):
        option = next(option for flag, option in options_of(context.command) if flag == name)
        rows.append(_row("", name, value, option, context))
    for name in COMMANDS:
        command = parent.command.commands[name]
        rows += _rows(name, command, command.make_context(name, [], parent=parent))
    if as_json:
        print_json([dict(zip(("command", "name", "value", "origin"), row, strict=True)) for row in rows])
        return
    print_table(["command", "option", "value", "origin"], [(*row[:2], _text(row[2]), row[3]) for row in rows])


Row = tuple[str, str, Any, str]


def _rows(name: str, command: click.Command, context: click.Context) -> list[Row]:
    return [
        _row(name, flag, context.params[str(option.name)], option, context)
        for flag, option in options_of(command)
        if flag not in FOR_ALL
    ]


def _row(name: str, flag: str, value: Any, option: click.Option, context: click.Context) -> Row:
    source = context.get_parameter_source(str(option.name))
    origin = {
        ParameterSource.COMMANDLINE: f"--{flag}",
        ParameterSource.ENVIRONMENT: str(option.envvar),
        ParameterSource.DEFAULT_MAP: str(getattr(context.find_root().default_map, "path", "")),
    }
    return name, flag, _plain(flag, value), origin.get(source, "default") if source else "default"


def _plain(flag: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(flag, each) for each in value]
    if flag == "database":
        return without_password(str(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value.absolute() if isinstance(value, Path) else value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "–"
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else str(value)
