"""`statsvc export`: counts and weights in the file formats of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from statsvc.cli._answers import open_cached_table, print_warnings
from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import version_option
from statsvc.cli._parameters import parameter_options, pop_class_map_file, present_parameters
from statsvc.errors import StatsvcError
from statsvc.sampling.weights import weights_response
from statsvc.weighting import export as exports
from statsvc.weighting.parameters import CROP, PARAMETERS, STREAM, WeightSpec

COUNT_FORMATS = ("daformer", "csv")
"""Formats of counts; the others are formats of weights."""


@click.command(short_help="Write counts or weights for other projects.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(exports.FORMATS),
    required=True,
    help="Format: daformer (three JSON files), mmseg (class_weight), csv (counts); or weights as npy, pth, "
    "yaml (a list with class names) or dict (class id to weight).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    required=True,
    help="File to write (.npy or .json for mmseg, .py or .json for dict), or a folder for daformer.",
)
@version_option
@parameter_options(*(name for name in PARAMETERS if name not in (*STREAM, *CROP)))
@home_options
def export(
    name: str | None,
    form: str,
    output: Path,
    number: int | str | None,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Write the counts or weights of dataset NAME to a file that another project reads.

    The default of --normalize is expected for mmseg: MMSegmentation divides the loss by the number of
    pixels instead of the sum of weights, so any other scale would change the scale of the loss.
    """
    request = present_parameters(params)
    class_map = pop_class_map_file(request, None)
    if form == "mmseg" and "normalize" not in request and "recipe" not in request:
        request["normalize"] = "expected"
    spec = WeightSpec.from_params(request)
    with options.open() as (home, catalog):
        table = open_cached_table(home, catalog, name, number, class_map)
        contents = exports.files(form, table, spec, output)
        answer = None if form in COUNT_FORMATS else weights_response(table, spec)
    for file, content in contents.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise StatsvcError(f"{file} cannot be written: {error.strerror}") from error
        echo(f"{file} written from version {table.version} of {table.dataset}", err=True)
    if answer is not None:
        print_warnings(answer)
