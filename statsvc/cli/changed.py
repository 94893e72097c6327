"""`statsvc changed`: report changed label maps, and queue their scan."""

from __future__ import annotations

import math
import sys

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._jobs import job_to_dict
from statsvc.cli._options import json_option, max_removed_option, print_json
from statsvc.common.changed_paths import normalize_paths
from statsvc.errors import Conflict


@click.command(short_help="Queue a scan of files that changed.")
@click.argument("name", shell_complete=complete_dataset)
@click.argument("paths", nargs=-1)
@max_removed_option
@json_option
@home_options
def changed(
    name: str, paths: tuple[str, ...], max_removed: float | None, as_json: bool, options: HomeOptions
) -> None:
    """Queue a scan of dataset NAME that checks only PATHS; a runner runs it. Prints the job's id.

    PATHS are added, changed or removed files, folders or containers, relative to the source. "-" reads
    them from stdin, one per line. Without PATHS the scan lists the whole source.
    """
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed must be a number from 0 to 1.")
    changed_paths = None
    if paths:
        changed_paths = normalize_paths(sys.stdin.read().splitlines() if paths == ("-",) else list(paths))
    with options.open() as (_home, catalog):
        from statsvc.store.catalog import jobs

        dataset = catalog.dataset(name)
        if dataset.source is None:
            raise Conflict(f"{name} was imported, so it has no source to scan. Import new counts instead.")
        allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
        job, created = jobs.submit(catalog, dataset, max_removed=allowed, paths=changed_paths)
    if as_json:
        print_json(job_to_dict(job, dataset.name))
    else:
        echo(job.id)
    status = "is queued" if created else "was already queued; it now includes this request"
    echo(f"statsvc: job {job.id} {status}. Follow it with: statsvc jobs {job.id} --follow", err=True)
