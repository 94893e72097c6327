"""The command group: commands listed in sections, and errors turned into one line and an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from statsvc.cli._config_file import ARGUMENTS, ConfigFile, add_variables
from statsvc.cli._echo import echo
from statsvc.common.interrupts import ending_silently
from statsvc.errors import AmbiguousSource, InvalidParameter, NotFound, StatsvcError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAILED, USAGE = 1, 2
"""Exit codes: the command failed; the command line is wrong."""

ONE_THREAD = frozenset({"runner", "scan", "serve"})
"""Commands that multiply only small matrices, or leave the other cores to their event loop and other work.

The processes of `runner` and `scan` also fork, which is possible only without threads.
"""


class _Commands(MutableMapping[str, click.Command]):
    """Commands by name; the module of each is imported when it is used.

    modules  name → module of this package, which defines the command under the name of the module
    """

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = self.modules[name]
            if name in ONE_THREAD:
                # OpenBLAS starts its threads when NumPy is imported, and they wait actively.
                os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            attribute = module if name == "import" else name
            with ending_silently():
                command = getattr(importlib.import_module(f"statsvc.cli.{module}"), attribute)
            add_variables(name, command)
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self.modules[name], self._loaded[name] = "", command

    def __delitem__(self, name: str) -> None:
        del self.modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


class SectionedGroup(click.Group):
    """A group of commands that `--help` lists in sections, in order of use."""

    sections: Mapping[str, Sequence[str]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands: _Commands = _Commands()

    def add_sections(self, sections: Mapping[str, Sequence[str]], modules: Mapping[str, str]) -> None:
        """Add the commands of each section by name, listed under its heading.

        modules  the modules of those commands whose module has another name
        """
        self.sections = sections
        for names in sections.values():
            self.commands.modules |= {name: modules.get(name, name) for name in names}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write one line per command below the heading of its section."""
        width = max(len(name) for name in self.commands)
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(f"{name:<{width}}", self.commands[name].get_short_help_str()) for name in names]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command. An unknown name is a usage error that suggests the nearest one."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"No such command {name!r}{nearest(name, self.commands)}. See: statsvc --help")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Prints an expected error on stderr and exits with its code."""
        try:
            return super().invoke(ctx)
        except InvalidParameter as error:
            for name, message in error.errors:
                parameter, origin = self._described(ctx, name)
                echo(f"statsvc: {parameter}: {message}{origin}", err=True, level=logging.ERROR)
            raise click.exceptions.Exit(USAGE) from error
        except (AmbiguousSource, NotFound) as error:
            echo(f"statsvc: {error}", err=True, level=logging.ERROR)
            raise click.exceptions.Exit(USAGE) from error
        except StatsvcError as error:
            echo(f"statsvc: {error}", err=True, level=logging.ERROR)
            raise click.exceptions.Exit(FAILED) from error
        except click.BadParameter as error:
            raise self._with_origin(ctx, error) from None
        except click.NoSuchOption as error:
            option = error.option_name
            if any(option in parameter.opts for parameter in self.get_params(ctx)):
                message = f"{option} goes before the command: statsvc {option} {ctx.invoked_subcommand}"
                raise click.UsageError(message, error.ctx) from None
            raise
        except BrokenPipeError:
            # The reader of the pipe (head, less) has closed it.
            sys.stderr.close()
            raise click.exceptions.Exit(FAILED) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; the configuration file depends on --home among them."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def _with_origin(self, ctx: click.Context, error: click.BadParameter) -> click.BadParameter:
        """Return an error that names the configuration file, if it contains the invalid value."""
        if error.ctx is None or error.param is None or not isinstance(ctx.default_map, ConfigFile):
            return error
        if error.ctx.get_parameter_source(str(error.param.name)) != ParameterSource.DEFAULT_MAP:
            return error
        message = f"{error.message} It is set in {ctx.default_map.path}."
        return click.BadParameter(message, error.ctx, error.param, error.param_hint)

    def _described(self, ctx: click.Context, name: str) -> tuple[str, str]:
        """Return a parameter as the invoked command spells it (--split, FILE), and where its value is set.

        The second text is a sentence if the configuration file contains the value, and else empty.
        """
        invoked = ctx.invoked_subcommand or ""
        command = self.commands.get(invoked)
        for parameter in command.params if command is not None else ():
            if parameter.name != name and f"--{name.replace('_', '-')}" not in parameter.opts:
                continue
            if not isinstance(parameter, click.Option):
                return name.upper(), ""
            file, flag = ctx.default_map, parameter.opts[0]
            if (
                not isinstance(file, ConfigFile)
                or parameter.name not in file.get(invoked)
                or any(each.partition("=")[0] in parameter.opts for each in ctx.meta[ARGUMENTS])
                or parameter.value_from_envvar(ctx) is not None
            ):
                return flag, ""
            return flag, f". It is set in {file.path}"
        return name, ""
