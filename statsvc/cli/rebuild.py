"""`statsvc rebuild`: rebuild a lost catalog from the version store."""

from __future__ import annotations

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json
from statsvc.common.plurals import plural


@click.command(short_help="Rebuild a lost catalog from the store.")
@json_option
@home_options
def rebuild(as_json: bool, options: HomeOptions) -> None:
    """Rebuild a lost catalog from the versions in the version store.

    The catalog must be empty. Jobs, tokens, tags and the values of --keep are not in the version store,
    so they are lost. Exit code 1 if the version store is empty.
    """
    with options.open(lost=True) as (home, catalog):
        from statsvc.store import rebuilding

        rebuilt = rebuilding.rebuild(catalog, home.store)
    if as_json:
        print_json({"datasets": dict(sorted(rebuilt.datasets.items())), "left_out": list(rebuilt.left_out)})
    else:
        for dataset, count in sorted(rebuilt.datasets.items()):
            echo(f"{dataset}: {plural(count, 'version')}")
        for line in rebuilt.left_out:
            echo(f"statsvc: skipped {line}", err=True)
    if not rebuilt.datasets:
        echo(f"statsvc: {home.store} contains no versions. Check --store.", err=True)
        raise click.exceptions.Exit(1)
