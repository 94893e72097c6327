"""`statsvc gc`, `verify` and `rebuild`: looking after what is kept."""

from __future__ import annotations

import click

from statsvc.cli._common import home_options, json_option, opened, print_json
from statsvc.common.durations import parse_duration


@click.command()
@click.option(
    "--grace",
    metavar="TIME",
    default="1h",
    show_default=True,
    help="How long rows outlive the mark that they will go.",
)
@click.option("--pause", is_flag=True, help="Let no gc run until --resume, for a backup.")
@click.option("--resume", is_flag=True, help="Let gc run again.")
@json_option
@home_options
def gc(
    grace: str,
    pause: bool,
    resume: bool,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """Remove the rows of old versions, and what dead attempts and deleted datasets left.

    A dataset's newest versions (statsvc datasets NAME --keep N) and tagged ones keep their rows; every
    version keeps its aggregates and answers for ever.
    """
    if pause and resume:
        raise click.UsageError("give one of --pause and --resume")
    rows_outlive = parse_duration("grace", grace)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store import retention

        if pause:
            retention.pause(catalog, place.store)
            click.echo("gc is paused; let it go on with: statsvc gc --resume", err=True)
            return
        if resume:
            retention.resume(place.store)
            click.echo("gc may run again", err=True)
            return
        done = retention.collect(catalog, place.store, rows_outlive)
    if as_json:
        versions = {
            name: [{"dataset": dataset, "version": number} for dataset, number in getattr(done, name)]
            for name in ("expired", "removed")
        }
        print_json(versions | {name: getattr(done, name) for name in ("orphans", "unknown", "damaged")})
    else:
        click.echo(
            f"{len(done.expired)} versions marked, rows of {len(done.removed)} removed, "
            f"{len(done.orphans)} orphans removed"
        )
    for folder in done.unknown:
        click.echo(
            f"statsvc: {place.store / folder} belongs to no dataset of this catalog and is left alone; "
            "is this the right catalog? statsvc rebuild makes one from the store",
            err=True,
        )
    for damage in done.damaged:
        click.echo(f"statsvc: {damage}", err=True)
    if done.damaged:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("name", required=False)
@json_option
@home_options
def verify(
    name: str | None, as_json: bool, home: str | None, database: str | None, store: str | None
) -> None:
    """Read every version of dataset NAME, or of all, through; exit code 1 where one is damaged."""
    damaged = []
    checked = 0
    with opened(home, database, store) as (place, catalog):
        from statsvc.store import verifying

        for dataset in catalog.datasets() if name is None else [catalog.dataset(name)]:
            for record, damage in verifying.verify(catalog, place.store, dataset):
                checked += 1
                if damage is not None:
                    damaged.append({"dataset": dataset.name, "version": record.number, "damage": damage})
    if as_json:
        print_json({"checked": checked, "damaged": damaged})
    else:
        for one in damaged:
            click.echo(one["damage"])
        click.echo(f"{checked} versions read, {len(damaged)} damaged", err=True)
    if damaged:
        raise click.exceptions.Exit(1)


@click.command()
@home_options
def rebuild(home: str | None, database: str | None, store: str | None) -> None:
    """Make a new catalog from the versions in the store, after the old one was lost.

    The catalog must be empty. Jobs, tokens, tags and --keep are lost, for they are in the catalog only.
    """
    with opened(home, database, store) as (place, catalog):
        from statsvc.store import rebuilding

        done = rebuilding.rebuild(catalog, place.store)
    for dataset, count in sorted(done.datasets.items()):
        click.echo(f"{dataset}: {count} versions")
    for line in done.left_out:
        click.echo(f"statsvc: left out: {line}", err=True)
    if not done.datasets:
        click.echo(f"statsvc: no versions in {place.store}", err=True)
        raise click.exceptions.Exit(1)
