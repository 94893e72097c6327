"""The command group: commands listed in sections, and errors turned into one line and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._echo import echo
from statsvc.errors import AmbiguousSource, InvalidParameter, NotFound, StatsvcError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAILED, USAGE = 1, 2
"""Exit codes: the command failed; the command line is wrong."""


class SectionedGroup(click.Group):
    """A group of commands that `--help` lists in sections, in order of use."""

    sections: Mapping[str, Sequence[click.Command]] = {}

    def add_sections(self, sections: Mapping[str, Sequence[click.Command]]) -> None:
        """Add the commands of each section, listed under its heading."""
        self.sections = sections
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write one line per command below the heading of its section."""
        width = max(len(name) for name in self.commands)
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(f"{command.name:<{width}}", command.get_short_help_str()) for command in commands]
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
                echo(f"statsvc: {self._spelling(ctx, name)}: {message}", err=True)
            raise click.exceptions.Exit(USAGE) from error
        except (AmbiguousSource, NotFound) as error:
            echo(f"statsvc: {error}", err=True)
            raise click.exceptions.Exit(USAGE) from error
        except StatsvcError as error:
            echo(f"statsvc: {error}", err=True)
            raise click.exceptions.Exit(FAILED) from error
        except BrokenPipeError:
            # The reader of the pipe (head, less) has closed it.
            sys.stderr.close()
            raise click.exceptions.Exit(FAILED) from None

    def _spelling(self, ctx: click.Context, name: str) -> str:
        """Return a parameter as the invoked command spells it: --split, --ignore-index, FILE."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        for parameter in command.params if command is not None else ():
            if parameter.name == name or f"--{name.replace('_', '-')}" in parameter.opts:
                return parameter.opts[0] if isinstance(parameter, click.Option) else name.upper()
        return name
