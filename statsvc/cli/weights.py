"""`statsvc weights`: class weights from the local home, or from a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import answer_function, print_failing_scans, print_warnings
from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, output_option, url_option, version_option
from statsvc.cli._parameters import parameter_options, pop_class_map_file, present_parameters
from statsvc.errors import StatsvcError
from statsvc.sampling import mixtures
from statsvc.weighting.parameters import PARAMETERS, WeightSpec
from statsvc.weighting.serialize import FORMATS, render

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Print class weights.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@version_option
@parameter_options(*PARAMETERS)
@url_option
@output_option("Write the weights to a .json, .csv or .npy file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *FORMATS]),
    show_default="table on a terminal, else json",
    help="Format of the output.",
)
@json_option
@home_options
def weights(
    name: str | None,
    number: int | str | None,
    url: str | None,
    output: Path | None,
    form: str | None,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Print the class weights of dataset NAME.

    NAME can be omitted if there is only one dataset. A mixture such as a:0.7,b:0.3 gives the weights of
    a stream that draws 70 % of its images from dataset a and 30 % from dataset b. --json is short for
    --format json.
    """
    if as_json:
        if form not in (None, "json"):
            raise click.UsageError(f"--json and --format {form} contradict each other. Omit one of them.")
        form = "json"
    request = present_parameters(params)
    class_map = pop_class_map_file(request, url)
    spec = WeightSpec.from_params(request)
    if mixtures.parse(name) is not None:
        mixtures.without_version(number)
    if url is not None:
        from statsvc.client.client import Client

        answer = Client(url).weights(name, version=number, **request).to_dict()
    else:
        with options.open() as (home, catalog):
            answer = answer_function(home, catalog, name, number, class_map)(spec)
            if number is None and mixtures.parse(name) is None:
                print_failing_scans(catalog, name)
    if output is not None:
        _write(output, form, answer)
        print_warnings(answer)
    else:
        _print(form or ("table" if sys.stdout.isatty() else "json"), answer)


def _print(form: str, answer: dict[str, Any]) -> None:
    if form == "table":
        from statsvc.weighting.display import print_class_table

        print_class_table(answer, file=sys.stdout)  # with the warnings below the table
        return
    click.echo(render(form, answer), nl=form == "json")
    if not sys.stdout.isatty():
        print_warnings(answer)


def _write(output: Path, form: str | None, answer: dict[str, Any]) -> None:
    file_format = form or output.suffix.lstrip(".").lower()
    if file_format not in FORMATS:
        raise click.UsageError(
            f"The format of {output} is unknown. Use a name ending in .json, .csv or .npy, or add --format."
        )
    try:
        output.write_bytes(render(file_format, answer))
    except OSError as error:
        raise StatsvcError(f"{output} cannot be written: {error.strerror}") from error
    echo(f"{len(answer['weights'])} weights written to {output}", err=True)
