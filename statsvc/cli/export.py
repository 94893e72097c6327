"""`statsvc export`: counts and weights as files of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from statsvc.cli._common import home_options, opened, the_dataset, version_name
from statsvc.cli.weights import class_map_file, given_of, spec_options, tell_warnings
from statsvc.errors import StatsvcError
from statsvc.sampling.weights import weights_response
from statsvc.weighting import export as exports
from statsvc.weighting.parameters import PARAMETERS, STREAM, WeightSpec


@click.command()
@click.argument("name", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(exports.FORMATS),
    required=True,
    help="daformer: its three JSON files; mmseg: class_weight; csv: counts; npy, pth: weights.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write (mmseg: .npy or .json); for daformer a folder.",
)
@click.option(
    "--version", "number", type=version_name, metavar="N|TAG", help="Number or tag.  [default: newest]"
)
@spec_options(*(name for name in PARAMETERS if name not in STREAM))
@home_options
def export(
    name: str | None,
    form: str,
    output: Path,
    number: int | str | None,
    home: str | None,
    database: str | None,
    store: str | None,
    **params: Any,
) -> None:
    """Write dataset NAME's counts or weights as a file that another project reads.

    mmseg is normalised with --normalize expected unless you say otherwise: MMSegmentation divides by
    pixels, not by weights, so any other scale would change the loss as a whole.
    """
    from dataclasses import replace

    from statsvc.api.state.cached_table import CachedTable
    from statsvc.store.publication import open_version
    from statsvc.store.reconfigure import apply_changes

    given = given_of(params)
    class_map = class_map_file(given, None)
    if form == "mmseg" and "normalize" not in given and "recipe" not in given:
        given["normalize"] = "expected"
    spec = WeightSpec.from_params(given)
    with opened(home, database, store) as (place, catalog):
        dataset = the_dataset(catalog, name)
        record = catalog.version(dataset, number)
        if class_map is not None:
            record = replace(
                record, configuration=apply_changes(record.configuration, {"class_map": class_map})
            )
        table = CachedTable(open_version(place.store, dataset.name, record))
        written = exports.files(form, table, spec, output)
        warnings = {} if form in ("daformer", "csv") else weights_response(table, spec)
    for file, content in written.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise StatsvcError(f"{file} cannot be written: {error.strerror}") from error
        click.echo(f"{file} written, from version {record.number} of {dataset.name}", err=True)
    if warnings:
        tell_warnings(warnings)
