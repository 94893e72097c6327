"""`statsvc changed`: telling that label maps have changed, without waiting for their scan."""

from __future__ import annotations

import math
import sys

import click

from statsvc.cli._common import home_options, opened
from statsvc.common.changed_paths import normalize_paths
from statsvc.errors import Conflict


@click.command()
@click.argument("name")
@click.argument("paths", nargs=-1)
@click.option(
    "--max-removed",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of the samples that the scan may lose.  [default: 0.1]",
)
@home_options
def changed(
    name: str,
    paths: tuple[str, ...],
    max_removed: float | None,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """Queue a scan of dataset NAME that looks at PATHS only; a runner runs it.

    PATHS are files, folders or containers that were added, changed or removed, relative to the source;
    "-" reads them from stdin, one a line. Without any the source is listed. Prints the job.
    """
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed: give a share from 0 to 1")
    given = sys.stdin.read().splitlines() if paths == ("-",) else list(paths)
    named = normalize_paths(given) if paths else None
    with opened(home, database, store) as (_place, catalog):
        from statsvc.store.catalog import jobs

        dataset = catalog.dataset(name)
        if dataset.source is None:
            raise Conflict(f"{name} was imported: it has no source to scan")
        allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
        job, made = jobs.submit(catalog, dataset, max_removed=allowed, paths=named)
    click.echo(job.id)
    what = "is queued" if made else "was queued already and does this as well"
    click.echo(f"statsvc: job {job.id} {what}; follow it with: statsvc jobs {job.id} --follow", err=True)
