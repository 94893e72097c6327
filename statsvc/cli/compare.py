"""`statsvc compare`: weighting methods side by side, before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import home_options, json_option, opened, print_json, version_name
from statsvc.cli.weights import asker, class_map_file, given_of, spec_options, tell_warnings
from statsvc.errors import StatsvcError
from statsvc.sampling import mixtures
from statsvc.weighting import comparison
from statsvc.weighting.parameters import PARAMETERS, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = tuple(name for name, parameter in PARAMETERS.items() if parameter.comparable)
"""The parameters that apply to all compared methods."""

SUFFIXES = (".png", ".svg", ".pdf")


@click.command()
@click.argument("name", required=False)
@click.option(
    "--version", "number", type=version_name, metavar="N|TAG", help="Number or tag.  [default: newest]"
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="X",
    help="Compare this one; again for more.  [default: all]",
)
@click.option(
    "--beta",
    "betas",
    multiple=True,
    metavar="X",
    help="Of effective_num; again for more.  [default: 0.9999, and powers of ten about 1 − 1/median]",
)
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    metavar="X",
    help=f"Of power; again for more.  [default: {', '.join(comparison.ALPHAS)}]",
)
@spec_options(*SHARED)
@click.option("--url", metavar="URL", help="Ask this server instead of the home.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw a picture: .png, .svg or .pdf.",
)
@json_option
@home_options
def compare(
    name: str | None,
    number: int | str | None,
    methods: tuple[str, ...],
    betas: tuple[str, ...],
    alphas: tuple[str, ...],
    url: str | None,
    output: Path | None,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
    **params: Any,
) -> None:
    """Show what each weighting method does to the loss of dataset NAME, from the gentlest to the strongest.

    NAME may be left out where there is one dataset, and may be a mixture, a:0.7,b:0.3.
    """
    if output is not None:
        _check(output)
    given = given_of(params)
    class_map = class_map_file(given, url)
    if mixtures.parse(name) is not None:
        mixtures.without_version(number)

    def compared(ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        return comparison.compare(ask, given, methods=methods, betas=betas, alphas=alphas)

    if url is not None:
        from statsvc.client.client import Client

        server = Client(url)
        found = compared(lambda asked: server.weights(name, version=number, **asked).to_dict())
    else:
        with opened(home, database, store) as (place, catalog):
            answered = asker(place, catalog, name, number, class_map)
            found = compared(lambda asked: answered(WeightSpec.from_params(asked)))
    if output is not None:
        from statsvc.weighting.comparison_plot import save

        try:
            save(found, output)
        except OSError as error:
            raise StatsvcError(f"{output} cannot be written: {error.strerror or error}") from error
        click.echo(f"picture written to {output}", err=True)
        if not (as_json or sys.stdout.isatty()):
            tell_warnings(found)
    if as_json:
        print_json(found)
    elif output is None or sys.stdout.isatty():
        from statsvc.weighting.comparison_table import print_comparison

        print_comparison(found)


def _check(output: Path) -> None:
    """Refuse a picture that cannot be drawn before anything is computed."""
    if output.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"{output}: end its name in {', '.join(SUFFIXES)}")
    from statsvc.weighting.comparison_plot import require_matplotlib

    try:
        require_matplotlib()
    except ImportError as error:
        raise StatsvcError(str(error)) from error
