"""`statsvc gc`: delete the rows of old versions, and orphans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._default_answer import remove_others
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json
from statsvc.common.durations import parse_duration
from statsvc.common.plurals import plural

if TYPE_CHECKING:
    from statsvc.store.retention import Collected


@click.command(short_help="Delete rows of old versions.")
@click.option("--grace", metavar="TIME", default="1h", help="Grace period between marking and deleting rows.")
@click.option("--pause", is_flag=True, help="Disable gc until --resume, for a backup.")
@click.option("--resume", is_flag=True, help="Enable gc again.")
@click.option(
    "--restored",
    is_flag=True,
    help="With --resume, after restoring a backup: skip version numbers that may have been in use.",
)
@click.option(
    "--keep-jobs",
    type=click.IntRange(0),
    metavar="N",
    default=1000,
    help="How many of the newest jobs of each dataset to keep.",
)
@json_option
@home_options
def gc(
    grace: str,
    pause: bool,
    resume: bool,
    restored: bool,
    keep_jobs: int,
    as_json: bool,
    options: HomeOptions,
) -> None:
    """Delete the rows of old versions, old jobs, and orphans of failed attempts and deleted datasets.

    The newest versions of a dataset (statsvc datasets NAME --keep N) and tagged versions keep their rows.
    Every version keeps its aggregates, so it can still answer requests. Exit code 1 if an array is damaged.
    """
    if pause and resume:
        raise click.UsageError("--pause and --resume contradict each other. Omit one of them.")
    if restored and not resume:
        raise click.UsageError("--restored needs --resume: statsvc gc --resume --restored")
    grace_seconds = parse_duration("grace", grace)
    with options.open(lost=True) as (home, catalog):
        from statsvc.store import retention

        if pause:
            retention.pause(catalog, home.store)
            _report_state(paused=True, as_json=as_json)
            return
        if resume:
            if restored:
                skipped = retention.skip_numbers(catalog, home.store)
                echo(f"Each dataset skips at least {skipped} version numbers.", err=True)
            retention.resume(home.store)
            _report_state(paused=False, as_json=as_json)
            return
        collected = retention.collect(catalog, home.store, grace_seconds, keep_jobs)
        remove_others(home, {dataset.uid for dataset in catalog.datasets()})
    if as_json:
        print_json(_to_dict(collected))
    else:
        echo(
            f"{plural(len(collected.expired), 'version')} marked, rows of {len(collected.removed)} deleted, "
            f"{plural(len(collected.orphans), 'orphan')} deleted, {plural(collected.jobs, 'old job')} deleted"
        )
    for folder in collected.unknown:
        echo(
            f"statsvc: {home.store / folder} belongs to no dataset in this catalog, so gc did not delete it. "
            "Check --database. If the catalog was lost, run `statsvc rebuild` with the same options.",
            err=True,
        )
    for damage in collected.damaged:
        echo(f"statsvc: {damage}", err=True)
    if collected.damaged:
        raise click.exceptions.Exit(1)


def _report_state(*, paused: bool, as_json: bool) -> None:
    if as_json:
        print_json({"paused": paused})
    elif paused:
        echo("gc is paused. Resume it with: statsvc gc --resume", err=True)
    else:
        echo("gc is enabled again.", err=True)


def _to_dict(collected: Collected) -> dict[str, Any]:
    versions = {
        name: [{"dataset": dataset, "version": number} for dataset, number in getattr(collected, name)]
        for name in ("expired", "removed")
    }
    others = {name: getattr(collected, name) for name in ("orphans", "unknown", "damaged", "jobs")}
    return versions | others
