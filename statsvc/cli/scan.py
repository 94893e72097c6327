"""`statsvc scan`: count a source here, and show what its version says."""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import (
    BY_ITSELF,
    current_table,
    home_options,
    json_option,
    needs,
    opened,
    print_json,
    trigger_changes,
    trigger_options,
)
from statsvc.cli._options import reading_options
from statsvc.cli._progress import pixel_rate, shown
from statsvc.cli._registration import registered
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home
    from statsvc_workers.jobs.lease import Outcome
    from statsvc_workers.jobs.progress import Progress


@click.command()
@click.argument("source", required=False, metavar="SOURCE")
@click.option("--name", help="Name of the dataset.  [default: after the folder]")
@click.option("--pattern", metavar="GLOB", help="Files to count, for instance '*_labelIds.png'.")
@click.option(
    "--rule", metavar="RULE", help="What an id is: 'id // 1000', a palette's name, or a CSV file r,g,b,id."
)
@click.option("--key", metavar="NAME", help="Which array, member or column holds the labels.")
@click.option(
    "--rows",
    type=click.Choice(["array", "index", "chunk"]),
    help="What one row of an NPY, HDF5 or Zarr array is.  [default: array]",
)
@reading_options
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=FILE",
    help="A split: NAME=FILE with a path or name a line, NAME='GLOB', or a JSON of folds.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where pixels are counted.",
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", help="Dask processes.  [default: one a core]"
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="Refuse larger label maps before decoding.  [default: 268435456]",
)
@click.option(
    "--max-removed",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of the samples that one scan may lose.  [default: 0.1]",
)
@click.option("--full", is_flag=True, help="Count every sample again.")
@trigger_options
@click.option("--move", is_flag=True, help="Dataset NAME's label maps are in SOURCE, or match GLOB, now.")
@json_option
@home_options
def scan(
    source: str | None,
    name: str | None,
    pattern: str | None,
    rule: str | None,
    key: str | None,
    rows: str | None,
    splits: tuple[str, ...],
    device: str,
    workers: int | None,
    max_pixels: int | None,
    max_removed: float | None,
    full: bool,
    every: str | None,
    watch: bool | None,
    move: bool,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
    **reading: Any,
) -> None:
    """Count the label maps in SOURCE, a folder, file or URL; run again, count only what changed.

    SOURCE may be a container, or lie in an object store, with credentials from the environment:
    s3://bucket/prefix, gs://, az://, or one file at https://. Registers the dataset, publishes a
    version, and prints the classes with their weights. SOURCE may be left out for a dataset that is
    registered. Exit code 1 where label maps could not be read.
    """
    try:
        from statsvc_workers.jobs.attempt import MAX_PIXELS, Settings
        from statsvc_workers.kernels.device import require
    except ModuleNotFoundError as error:
        raise needs("workers", error) from error
    if source is None and name is None:
        raise click.UsageError("name a folder or URL of label maps: statsvc scan SOURCE")
    if move and (name is None or (source is None and pattern is None)):
        raise click.UsageError("--move: say which dataset and where: statsvc scan FOLDER --name NAME --move")
    require(device)
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed: give a share from 0 to 1")
    scanned = trigger_changes(every, watch)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store.catalog import triggers

        asked = (rule, key, rows)
        counting = None if asked == (None, None, None) else read_counting(*asked)
        dataset, configured = registered(
            place, catalog, source, name, pattern, counting, splits, reading, move=move
        )
        triggers.change(catalog, dataset, scanned)
        settings = Settings(device, max_pixels or MAX_PIXELS)
        outcome = _run(place, catalog, dataset, settings, workers, max_removed, full)
        now = catalog.dataset_by_uid(dataset.uid)
        if outcome.error is not None:
            click.echo(f"statsvc: {dataset.name}: {outcome.error}", err=True)
            _name_failures(outcome.progress, said=outcome.error)
            raise click.exceptions.Exit(1)
        progress = outcome.progress
        _tell(now, configured, outcome)
        if any(scanned.values()):
            click.echo(BY_ITSELF, err=True)
        _show(place, catalog, now, progress, as_json)
        if progress.failed:
            raise click.exceptions.Exit(1)


def _run(
    place: Home,
    catalog: Catalog,
    dataset: Dataset,
    settings: Any,
    workers: int | None,
    max_removed: float | None,
    full: bool,
) -> Outcome:
    """Run a job of this dataset here, after any that another process runs now."""
    from statsvc.store.catalog import jobs
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.jobs.lease import execute
    from statsvc_workers.jobs.progress import Progress

    owner = jobs.process_identity()
    allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
    while (job := jobs.submit_leased(catalog, dataset, owner, full=full, max_removed=allowed)) is None:
        _follow(catalog, dataset)
    progress = Progress()
    cluster = LocalCluster(workers)
    try:
        with shown(progress.to_dict):
            return execute(catalog, place.store, job, cluster, settings, progress, retry=False)
    except KeyboardInterrupt:
        # Whoever presses it again is heard already: what follows only ends the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        click.echo(
            "statsvc: stopped; what was counted so far is kept, and the next scan goes on from there",
            err=True,
        )
        raise click.exceptions.Exit(1) from None
    finally:
        cluster.close()


def _follow(catalog: Catalog, dataset: Dataset) -> None:
    """Show the job that another process runs until it ends or its process dies."""
    from statsvc.store.catalog import jobs
    from statsvc.store.catalog.records import RUNNING

    running = [job for job, _ in jobs.recent(catalog, dataset) if job.state == RUNNING]
    if not running:
        return
    job = running[0]
    click.echo(f"statsvc: job {job.id} of {dataset.name} runs in another process; following it", err=True)
    with shown(lambda: dict(jobs.get(catalog, job.id).progress)):
        while jobs.get(catalog, job.id).state == RUNNING and not jobs.lease_expired(catalog, job.id):
            time.sleep(0.5)


def _tell(dataset: Dataset, configured: int | None, outcome: Outcome) -> None:
    """Say on stderr what the scan did and which samples it could not read.

    configured  number of the version that options of this scan made of the same counts, if any
    """
    name, progress = dataset.name, outcome.progress
    what = f"{progress.counted} counted, {progress.reused} unchanged"
    if progress.recovered:
        what += f", {progress.recovered} of the counted kept from a scan that did not finish"
    if progress.removed:
        what += f", {progress.removed} removed"
    if progress.failed:
        what += f", {progress.failed} could not be read"
    if outcome.version is not None:
        version = f"version {outcome.version.number}"
    elif configured is not None:
        version = f"version {configured}, the same counts read in another way"
    else:
        version = "no new version"
    speed = f" ({pixel_rate(progress.rate())})" if progress.pixels else ""
    click.echo(f"{name}: {what}{speed}; {version}", err=True)
    _name_failures(progress, f": statsvc datasets {name}")


def _name_failures(progress: Progress, where: str = "", said: str = "") -> None:
    """Say on stderr which samples could not be read, but for what is `said`, and `where` the others are."""
    for path, reason in progress.failures:
        if (line := f"{path}: {reason}") not in said:
            click.echo(f"  {line}", err=True)
    if (more := progress.failed - len(progress.failures)) > 0:
        click.echo(f"  … and {more} more{where}", err=True)


def _show(place: Home, catalog: Catalog, dataset: Dataset, progress: Progress, as_json: bool) -> None:
    from statsvc.dataset.configuration_warnings import find_warnings
    from statsvc.sampling.weights import weights_response
    from statsvc.weighting.display import print_class_table
    from statsvc.weighting.parameters import WeightSpec

    answered = None
    table = current_table(place, catalog, dataset)
    for line in find_warnings(table):
        click.echo(f"statsvc: {line}", err=True)
    try:
        answered = weights_response(table, WeightSpec())
    except Unanswerable as error:
        click.echo(f"statsvc: no weights: {error}", err=True)
    if as_json:
        print_json({"scan": progress.to_dict(), "weights": answered})
    elif answered is not None:
        print_class_table(answered, file=sys.stdout)
