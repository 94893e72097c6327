"""The command line: data on stdout, everything else on stderr, exit code 0, 1 (failed) or 2 (usage)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from statsvc._version import __version__
from statsvc.cli import (
    changed,
    compare,
    datasets,
    demo,
    doctor,
    export,
    gc,
    import_counts,
    jobs,
    prefetch,
    scan,
    serve,
    token,
    weights,
)
from statsvc.errors import AmbiguousSource, InvalidParameter, NotFound, StatsvcError, nearest


class _Group(click.Group):
    """Names the nearest command, and turns statsvc's errors into one line and an exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"no command {name!r}{nearest(name, self.commands)}; see: statsvc --help")
        return super().resolve_command(ctx, args)

    def _option(self, ctx: click.Context, name: str) -> str:
        """Return a parameter as the command in hand spells it: --split, --ignore-index, FILE."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        for parameter in command.params if command is not None else ():
            if parameter.name == name or f"--{name.replace('_', '-')}" in parameter.opts:
                return parameter.opts[0] if isinstance(parameter, click.Option) else name.upper()
        return name

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AmbiguousSource as error:
            click.echo(f"statsvc: {error}", err=True)
            raise click.exceptions.Exit(2) from error
        except InvalidParameter as error:
            for name, message in error.errors:
                click.echo(f"statsvc: {self._option(ctx, name)}: {message}", err=True)
            raise click.exceptions.Exit(2) from error
        except NotFound as error:
            click.echo(f"statsvc: {error}", err=True)
            raise click.exceptions.Exit(2) from error
        except StatsvcError as error:
            click.echo(f"statsvc: {error}", err=True)
            raise click.exceptions.Exit(1) from error
        except BrokenPipeError:
            # The reader (head, less) has seen enough.
            sys.stderr.close()
            raise click.exceptions.Exit(1) from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: statsvc scan FOLDER_OF_LABEL_MAPS",
)
@click.version_option(__version__, message="statsvc %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def cli(verbose: bool) -> None:
    """Count the classes in segmentation label maps once, and get class weights from the counts at once."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("distributed", "alembic", "asyncio", "tornado", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


for _command in (
    scan.scan,
    weights.weights,
    compare.compare,
    prefetch.prefetch,
    serve.serve,
    serve.runner,
    demo.demo,
    datasets.datasets,
    datasets.versions,
    changed.changed,
    jobs.jobs,
    import_counts.import_counts,
    export.export,
    doctor.doctor,
    gc.gc,
    gc.verify,
    gc.rebuild,
    token.token,
    datasets.upgrade,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    cli(prog_name="statsvc")
