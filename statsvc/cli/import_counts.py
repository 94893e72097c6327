"""`statsvc import`: publish a version of counts that were computed elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from statsvc.cli._answers import default_answer
from statsvc.cli._configuration import configuration_changes, configuration_options
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options, open_table
from statsvc.cli._options import json_option, print_json


@click.command("import", short_help="Publish counts computed elsewhere.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", required=True, help="Name of the dataset.")
@configuration_options
@json_option
@home_options
def import_counts(file: Path, name: str, as_json: bool, options: HomeOptions, **configuration: Any) -> None:
    """Publish a version of counts that were computed elsewhere.

    FILE is one of: JSON {"7": 2036416525, …} from raw ids to pixels; CSV with the columns id, pixels and
    optionally images (the number of images in which the class occurs); DAFormer's
    sample_class_stats.json, which has the counts of each image.
    """
    from statsvc.store.import_files import read_counts

    counts = read_counts(file)
    with options.open() as (home, catalog):
        from statsvc.store.importing import import_counts as publish

        record = publish(catalog, home.store, name, counts, configuration_changes(**configuration))
        echo(f"{name}: version {record.number} from {file}", err=True)
        answer = default_answer(open_table(home, catalog, catalog.dataset(name)))
    if as_json:
        print_json({"dataset": name, "version": record.number, "weights": answer})
    elif answer is not None:
        from statsvc.weighting.display import print_class_table

        print_class_table(answer, file=sys.stdout)
