"""`statsvc weights`: class weights from a version kept here, or from a server."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.classes import class_map_files, class_maps
from statsvc.cli._common import home_options, opened, the_dataset, version_name
from statsvc.errors import StatsvcError
from statsvc.sampling import mixtures
from statsvc.weighting.parameters import PARAMETERS, WeightSpec
from statsvc.weighting.serialize import FORMATS, render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.classes.class_maps import ClassMap
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home


def spec_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add one option for each of these parameters of a weight spec."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            parameter = PARAMETERS[name]
            flags = [f"--{flag.replace('_', '-')}" for flag in (name, *parameter.aliases)]
            command = click.option(
                *flags,
                name,
                metavar=parameter.type.metavar,
                multiple=parameter.repeatable,
                help=parameter.help(),
            )(command)
        return command

    return add


@click.command()
@click.argument("name", required=False)
@click.option(
    "--version", "number", type=version_name, metavar="N|TAG", help="Number or tag.  [default: newest]"
)
@spec_options(*PARAMETERS)
@click.option("--url", metavar="URL", help="Ask this server instead of the home.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write .json, .csv or .npy."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *FORMATS]),
    help="[default: table on a terminal, else json]",
)
@home_options
def weights(
    name: str | None,
    number: int | str | None,
    url: str | None,
    output: Path | None,
    form: str | None,
    home: str | None,
    database: str | None,
    store: str | None,
    **params: Any,
) -> None:
    """Print the class weights of dataset NAME, which may be left out where there is one.

    NAME may be a mixture, a:0.7,b:0.3: of the stream that draws so many of its images from each.
    """
    given = given_of(params)
    class_map = class_map_file(given, url)
    spec = WeightSpec.from_params(given)
    if mixtures.parse(name) is not None:
        mixtures.without_version(number)
    if url is not None:
        from statsvc.client.client import Client

        answered = Client(url).weights(name, version=number, **given).to_dict()
    else:
        with opened(home, database, store) as (place, catalog):
            answered = asker(place, catalog, name, number, class_map)(spec)
    if output is not None:
        _write(output, form, answered)
        tell_warnings(answered)
        return
    form = form or ("table" if sys.stdout.isatty() else "json")
    if form == "table":
        from statsvc.weighting.display import print_class_table

        print_class_table(answered, file=sys.stdout)
        return
    click.echo(render(form, answered), nl=form == "json")
    if not sys.stdout.isatty():
        tell_warnings(answered)


def given_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given; an empty text was, and is refused by name."""
    return {
        name: (list(value) if isinstance(value, tuple) else value)
        for name, value in params.items()
        if value not in (None, ())
    }


def tell_warnings(answered: Mapping[str, Any]) -> None:
    """Say on stderr what an answer warns of."""
    for warning in answered["warnings"]:
        click.echo(f"statsvc: {warning['message']}", err=True)


def asker(
    place: Home, catalog: Catalog, name: str | None, number: int | str | None, class_map: ClassMap | None
) -> Callable[[WeightSpec], dict[str, Any]]:
    """Return a function that answers specs about a dataset or a mixture, reading rows once.

    class_map  reads the counts through another map than the dataset's own
    """
    from statsvc.api.state.cached_table import CachedTable
    from statsvc.sampling.weights import weights_response
    from statsvc.store.publication import open_version
    from statsvc.store.reconfigure import apply_changes

    def table(one: str | None, version: int | str | None) -> CachedTable:
        dataset = the_dataset(catalog, one)
        record = catalog.version(dataset, version)
        if class_map is not None:
            record = replace(
                record, configuration=apply_changes(record.configuration, {"class_map": class_map})
            )
        return CachedTable(open_version(place.store, dataset.name, record))

    parts = mixtures.parse(name)
    if parts is None:
        single = table(name, number)
        return lambda spec: weights_response(single, spec)
    mixed = [(table(part.dataset, part.number), part.share) for part in parts]
    return lambda spec: weights_response(mixed, spec)


def class_map_file(given: dict[str, Any], url: str | None) -> ClassMap | None:
    """Take a class map that is a file out of the parameters. Raises `NotFound`, `InvalidParameter`."""
    text = given.get("class_map")
    if text is None or text == "none" or text in class_maps.BUILTIN:
        return None
    found = class_map_files.resolve(text)
    if url is not None:
        raise click.UsageError(
            f"--class-map {text}: a server knows the built-in maps, {', '.join(class_maps.BUILTIN)}, and the "
            "dataset's own; set that with PATCH /datasets/NAME, or leave --url out"
        )
    del given["class_map"]
    return found


def _write(output: Path, form: str | None, answered: dict[str, Any]) -> None:
    wanted = form or output.suffix.lstrip(".").lower()
    if wanted not in FORMATS:
        raise click.UsageError(f"{output}: end its name in .json, .csv or .npy, or give --format")
    try:
        output.write_bytes(render(wanted, answered))
    except OSError as error:
        raise StatsvcError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"{len(answered['weights'])} weights written to {output}", err=True)
