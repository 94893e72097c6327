"""`statsvc compare`: weighting methods side by side, before anything is trained."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import answer_function, print_warnings
from statsvc.cli._completion import complete_dataset
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, output_option, print_json, url_option, version_option
from statsvc.cli._parameters import parameter_options, pop_class_map_file, present_parameters
from statsvc.cli._plots import check_plot, write_plot
from statsvc.sampling import mixtures
from statsvc.weighting import comparison
from statsvc.weighting.parameters import PARAMETERS, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARED_PARAMETERS = tuple(name for name, parameter in PARAMETERS.items() if parameter.comparable)
"""The parameters that have one value for all compared methods."""


@click.command(short_help="Compare weighting methods.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@version_option
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    show_default="all",
    help="Method to compare. Can be repeated.",
)
@click.option(
    "--beta",
    "betas",
    multiple=True,
    metavar="BETA",
    show_default="0.9999 and powers of ten near 1 − 1/median",
    help="β of effective_num. Can be repeated.",
)
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    metavar="ALPHA",
    show_default=", ".join(comparison.ALPHAS),
    help="Exponent of power. Can be repeated.",
)
@click.option(
    "--strength",
    "strengths",
    multiple=True,
    metavar="NUMBER[,…]",
    show_default="1",
    help="Strengths of every method, from 0 (uniform weights) to 1, separated by commas. Can be repeated.",
)
@parameter_options(*SHARED_PARAMETERS)
@url_option
@output_option("Write a plot to a .png, .svg or .pdf file.")
@json_option
@home_options
def compare(
    name: str | None,
    number: int | str | None,
    methods: tuple[str, ...],
    betas: tuple[str, ...],
    alphas: tuple[str, ...],
    strengths: tuple[str, ...],
    url: str | None,
    output: Path | None,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Compare how weighting methods change the loss of dataset NAME, from the weakest to the strongest.

    NAME can be omitted if there is only one dataset. It can be a mixture such as a:0.7,b:0.3.
    """
    if output is not None:
        check_plot(output)
    request = present_parameters(params)
    class_map = pop_class_map_file(request, url)
    if mixtures.parse(name) is not None:
        mixtures.without_version(number)

    def compare_answers(ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        each_strength = [strength for text in strengths for strength in text.split(",")]
        return comparison.compare(
            ask, request, methods=methods, betas=betas, alphas=alphas, strengths=each_strength
        )

    if url is not None:
        from statsvc.client.client import Client

        server = Client(url)
        result = compare_answers(lambda params: server.weights(name, version=number, **params).to_dict())
    else:
        with options.open() as (home, catalog):
            answer = answer_function(home, catalog, name, number, class_map)
            result = compare_answers(lambda params: answer(WeightSpec.from_params(params)))
    if output is not None:
        from statsvc.weighting.comparison_plot import save

        write_plot(partial(save, result), output)
        if not (as_json or sys.stdout.isatty()):
            print_warnings(result)
    if as_json:
        print_json(result)
    elif output is None or sys.stdout.isatty():
        from statsvc.weighting.comparison_table import print_comparison

        print_comparison(result)
