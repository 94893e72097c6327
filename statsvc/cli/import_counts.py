"""`statsvc import`: a version of counts taken elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from statsvc.cli._common import current_table, home_options, opened
from statsvc.cli._options import reading_changes, reading_options
from statsvc.errors import Unanswerable


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the dataset.")
@reading_options
@home_options
def import_counts(
    file: Path, name: str, home: str | None, database: str | None, store: str | None, **reading: Any
) -> None:
    """Make a version of counts taken elsewhere.

    FILE is JSON, {"7": 2036416525, …} (raw id to pixels), CSV with the columns id, pixels and, where
    known, images (in how many images the class occurs), or DAFormer's sample_class_stats.json, which
    has the counts of each image.
    """
    from statsvc.sampling.weights import weights_response
    from statsvc.store.import_files import read_counts
    from statsvc.weighting.display import print_class_table
    from statsvc.weighting.parameters import WeightSpec

    counts = read_counts(file)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store.importing import import_counts as publish

        record = publish(catalog, place.store, name, counts, reading_changes(**reading))
        click.echo(f"{name}: version {record.number} from {file}", err=True)
        table = current_table(place, catalog, catalog.dataset(name))
        try:
            print_class_table(weights_response(table, WeightSpec()), file=sys.stdout)
        except Unanswerable as error:
            click.echo(f"statsvc: no weights: {error}", err=True)
