"""`statsvc verify`: check every array of every version."""

from __future__ import annotations

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json
from statsvc.common.plurals import plural


@click.command(short_help="Check stored versions for damage.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@json_option
@home_options
def verify(name: str | None, as_json: bool, options: HomeOptions) -> None:
    """Verify every array of every version of dataset NAME, by default of all datasets.

    Exit code 1 if a version is damaged.
    """
    damaged = []
    checked = 0
    with options.open() as (home, catalog):
        from statsvc.store import verifying

        for dataset in catalog.datasets() if name is None else [catalog.dataset(name)]:
            for record, damage in verifying.verify(catalog, home.store, dataset):
                checked += 1
                if damage is not None:
                    damaged.append({"dataset": dataset.name, "version": record.number, "damage": damage})
    if as_json:
        print_json({"checked": checked, "damaged": damaged})
    else:
        for version in damaged:
            echo(str(version["damage"]))
        echo(f"{plural(checked, 'version')} checked, {len(damaged)} damaged", err=True)
    if damaged:
        raise click.exceptions.Exit(1)
