"""The configuration file: values of options, under the names of the options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.common.one_line import one_line
from statsvc.errors import InvalidParameter, nearest
from statsvc.store import home as homes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAME = "statsvc.toml"
"""Name of the file in the home directory that is read by default."""

VARIABLE = "STATSVC_CONFIG"

FOR_ALL = ("home", "database", "store")
"""Options of commands that are set outside of the tables, for every command."""

_CHECKED = (click.types.IntParamType, click.types.FloatParamType, click.Choice)
"""Types whose values are checked when the file is read; the value is named with its place in the file."""

ARGUMENTS = "statsvc.arguments"
"""Key in the context's `meta`: the arguments of the program."""


class ConfigFile(dict[str, Any]):
    """A click `default_map` that checks names when a command is used.

    Keys outside of tables are options of `statsvc` itself and those of `FOR_ALL`; a table has the name of a
    command and sets its options.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], group: click.Group, in_home: bool) -> None:
        tables = {key: value for key, value in content.items() if isinstance(value, dict)}
        values = {key: value for key, value in content.items() if not isinstance(value, dict)}
        for name in values.keys() & group.commands.keys():
            raise click.UsageError(f"{path}: {name} is a command; write its options in a table [{name}].")
        super().__init__(_by_parameter(path, "", values, group, FOR_ALL))
        if in_home and "home" in values:
            raise click.UsageError(f"{path}: home cannot be set in the home directory's own file.")
        for name in tables:
            if name not in group.commands:
                text = f"[{one_line(name)}] is not a command{nearest(name, group.commands)}"
                raise click.UsageError(f"{path}: {text}.")
        self.path, self._tables, self._group = path, tables, group

    def get(self, key: str, default: Any = None) -> Any:
        """Return the options of a command, or the value of an option of `statsvc` itself.

        Raises a usage error for an option that the command does not have.
        """
        if key not in self._group.commands:
            return super().get(key, default)
        table = self._tables.get(key, {})
        return self._of_command(key, table, self._group.commands[key])

    def check(self) -> None:
        """Raise a usage error for any unknown name in any table."""
        for name in self._tables:
            self.get(name)

    def _of_command(self, name: str, table: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
        shared = {key: value for key, value in self.items() if key in FOR_ALL}
        if not isinstance(command, click.Group):
            return shared | _by_parameter(self.path, name, table, command)
        for key in table:
            if key not in command.commands:
                text = f"[{name}.{one_line(key)}] is not a command{nearest(key, command.commands)}"
                raise click.UsageError(f"{self.path}: {text}.")
        return {
            key: self._of_command(f"{name} {key}", table.get(key, {}), each)
            for key, each in command.commands.items()
        }


def options(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Yield the name of each option of a command without dashes, and the option."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden and not option.is_eager:
            yield next(flag[2:] for flag in option.opts if flag.startswith("--")), option


def add_variables(name: str, command: click.Command) -> None:
    """Let the environment set each option of a command: `STATSVC_SERVE_PORT` is `serve --port`."""
    if isinstance(command, click.Group):
        for key, each in command.commands.items():
            add_variables(f"{name}_{key}", each)
    for flag, option in options(command):
        # For click, "80a" would not be "a valid integer range".
        option.type.name = option.type.name.removesuffix(" range")
        option.envvar = option.envvar or f"STATSVC_{name}_{flag}".upper().replace("-", "_")


def _by_parameter(
    path: Path, name: str, table: Mapping[str, Any], command: click.Command, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the values of a table by the names of click's parameters. Raises a usage error."""
    known = dict(options(command)) | dict.fromkeys(further)
    where = f"[{name.replace(' ', '.')}] " if name else ""
    for key, value in table.items():
        if key not in known:
            raise click.UsageError(f"{path}: {where}{one_line(key)} is unknown{nearest(key, known)}.")
        if isinstance(value, dict):
            raise click.UsageError(f"{path}: {where}{key} must be a value, not a table.")
        if (expected := _expected(known[key], value)) is not None:
            raise click.UsageError(f"{path}: {where}{key} must be {expected}, not {_shown(value)}.")
    return {key if (option := known[key]) is None else str(option.name): table[key] for key in table}


def _expected(option: click.Option | None, value: Any) -> str | None:
    """Return what a value must be, None if it may be valid: click would convert true to 1, and 80.5 to 80.

    option  None for an option of `FOR_ALL`
    """
    types: tuple[type, ...]
    if option is None:
        types, expected = (str,), "text in quotes"
    elif option.is_flag:
        types, expected = (bool,), "true or false"
    elif isinstance(option.type, click.types.IntParamType):
        types, expected = (int, str), f"an integer{_range(option.type)}"
    elif isinstance(option.type, click.types.FloatParamType):
        types, expected = (int, float, str), f"a number{_range(option.type)}"
    elif isinstance(option.type, click.Choice):
        types, expected = (str,), f"one of {', '.join(map(repr, option.type.choices))}"
    else:
        types, expected = (str, int, float), "text in quotes or a number"
    entries = [value]
    if option is not None and option.multiple:
        expected = f"a list in brackets, each entry {expected}"
        if not isinstance(value, list):
            return expected
        entries = value
    if any(type(entry) not in types for entry in entries):
        return expected
    if any(isinstance(entry, str) and "\0" in entry for entry in entries):
        return "text without null characters"  # no argument and no path can contain them
    if option is not None and isinstance(option.type, _CHECKED):
        try:
            for entry in entries:
                option.type.convert(entry, option, None)
        except click.BadParameter:
            return expected
    return None


def _shown(value: Any) -> str:
    """Return a value of the file in one line, as TOML where JSON has the same notation."""
    import json

    return one_line(json.dumps(value, ensure_ascii=False, default=str))


def _range(kind: click.ParamType[Any]) -> str:
    """Return the range of a numeric option as text, such as ` from 1 to 5`; empty if it has none."""
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is None:
        return "" if most is None else f" of at most {most}"
    return f" of at least {least}" if most is None else f" from {least} to {most}"


def load(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    """Read the file that --config names, or that of the home directory if there is one.

    Callback of an eager option, so that the file is known before other options are read.
    """
    if context.resilient_parsing:
        return
    assert isinstance(context.command, click.Group)
    if value is None:
        path = _default_path(context.meta[ARGUMENTS])
        if path is None or not path.is_file():
            return
    else:
        path = Path(value).expanduser().absolute()
        os.environ[VARIABLE] = str(path)  # for the runner that `serve` starts
    import tomllib  # most homes have no such file

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows adds a mark
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.UsageError(f"The configuration file {path} cannot be read: {reason}.") from error
    context.default_map = ConfigFile(path, content, context.command, in_home=value is None)


def _default_path(arguments: Sequence[str]) -> Path | None:
    home = os.environ.get("STATSVC_HOME") or None
    for index, argument in enumerate(arguments):
        if argument == "--home" and index + 1 < len(arguments):
            home = arguments[index + 1]
        elif argument.startswith("--home="):
            home = argument.partition("=")[2]
    try:
        return homes.folder(home) / NAME
    except InvalidParameter:
        return None
