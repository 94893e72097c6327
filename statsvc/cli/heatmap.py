"""`statsvc heatmap`: where in the images the classes are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import open_cached_table
from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, output_option, print_json, version_option
from statsvc.cli._parameters import parameter_options, pop_class_map_file, present_parameters
from statsvc.cli._plots import check_plot, write_plot
from statsvc.weighting.parameters import COUNTS, WeightSpec

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Show where in the images the classes are.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@version_option
@click.option("--class-id", type=int, metavar="ID", help="Only this class.")
@parameter_options(*COUNTS)
@output_option("Write a plot to a .png, .svg or .pdf file.")
@json_option
@home_options
def heatmap(
    name: str | None,
    number: int | str | None,
    class_id: int | None,
    output: Path | None,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Show the share of each class in each tile of the grid, over all images of dataset NAME.

    NAME can be omitted if there is only one dataset. The dataset must have been counted on a grid:
    statsvc scan --name NAME --grid 8x8.
    """
    if output is not None:
        check_plot(output)
    request = present_parameters(params)
    class_map = pop_class_map_file(request, None)
    spec = WeightSpec.from_params(request)
    with options.open() as (home, catalog):
        from statsvc.sampling.heatmap import heatmap_response

        table = open_cached_table(home, catalog, name, number, class_map)
        result = heatmap_response(table, spec, class_id)
    if output is not None:
        from statsvc.sampling.heatmap_plot import save

        write_plot(partial(save, result), output)
    if as_json:
        print_json(result)
    elif output is None:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    """Print the shares in percent: one block for each class, one line for each row of tiles."""
    for row in result["classes"]:
        echo(f"{row['id']} {row['name']}, % of each tile")
        for line in row["share"]:
            echo(" ".join("    –" if share is None else f"{100 * share:5.1f}" for share in line))
