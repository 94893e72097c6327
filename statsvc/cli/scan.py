"""`statsvc scan`: count a source in this process, and show its weights."""

from __future__ import annotations

import gc
import math
import signal
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import default_answer
from statsvc.cli._completion import complete_dataset
from statsvc.cli._configuration import configuration_options
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options, missing_extra, open_table
from statsvc.cli._options import (
    AUTOMATIC_SCANS,
    counting_options,
    json_option,
    max_removed_option,
    print_json,
    trigger_changes,
    trigger_options,
)
from statsvc.cli._progress import pixel_rate, show_progress
from statsvc.cli._registration import register
from statsvc.common.utf8 import printable
from statsvc.dataset.counting_rule import VALUE
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.dataset.selection import quoted
from statsvc.errors import Conflict

if TYPE_CHECKING:
    from statsvc.dataset.known_layouts import Layout
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.lease import Outcome
    from statsvc_workers.jobs.progress import Progress

LISTED_PATHS = 5
"""Samples that are named for each reason why samples could not be read."""

POLL_SECONDS = 0.5
"""Time between two reads of a job that another process runs."""


@click.command(short_help="Count label maps and publish a version.")
@click.argument("source", required=False)
@click.option(
    "--name",
    metavar="NAME",
    show_default="from the folder",
    shell_complete=complete_dataset,
    help="Name of the dataset.",
)
@click.option("--pattern", metavar="GLOB", help="Files to count, for example '*_labelIds.png'.")
@click.option(
    "--rule",
    metavar="RULE",
    help="How pixel values become raw ids: 'id // 1000', a palette's name or file.",
)
@click.option(
    "--layout",
    metavar="NAME",
    help="Known layout of the folder, such as voc: sets pattern, splits, class map, rule and ignored ids.",
)
@click.option("--key", metavar="NAME", help="Array, member or column that contains the labels.")
@click.option(
    "--rows",
    type=click.Choice(["array", "index", "chunk"]),
    show_default="array",
    help="What is one sample of an NPY, HDF5 or Zarr file.",
)
@configuration_options
@click.option(
    "--grid",
    metavar="ROWSxCOLUMNS",
    help="Also count each tile of a grid, for weights under random crops: 8x8, or 8x8x8 for volumes; none: "
    "stop that.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=FILE",
    help="Split of the dataset: NAME=FILE (one path or name per line), NAME='GLOB', or a JSON file of folds.",
)
@counting_options
@max_removed_option
@click.option("--dry-run", is_flag=True, help="Show which files would be counted, without counting them.")
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    metavar="N",
    help="Count only N label maps, drawn at random, for an estimate; a later scan counts the others.",
)
@click.option("--full", is_flag=True, help="Count every sample again.")
@trigger_options
@click.option("--move", is_flag=True, help="Change the source or pattern of dataset NAME.")
@json_option
@home_options
def scan(
    source: str | None,
    name: str | None,
    pattern: str | None,
    rule: str | None,
    layout: str | None,
    key: str | None,
    rows: str | None,
    splits: tuple[str, ...],
    device: str,
    workers: int | None,
    max_pixels: int | None,
    max_removed: float | None,
    dry_run: bool,
    samples: int | None,
    full: bool,
    every: str | None,
    watch: bool | None,
    move: bool,
    as_json: bool,
    options: HomeOptions,
    **configuration: Any,
) -> None:
    """Count the label maps in SOURCE, publish a version, and print the class weights.

    SOURCE is a folder, a file, a container, or a URL: s3://bucket/prefix, gs://, az://, or one file at
    https://. Credentials of object stores come from the environment. The first scan registers the
    dataset. Later scans count only what changed, and need only --name. Exit code 1 if label maps could
    not be read, or if no pixel is counted.
    """
    gc.disable()  # imports create objects that live as long as the process
    try:
        import statsvc_workers.jobs.lease  # noqa: F401  (imports all that a scan needs)
        from statsvc.dataset.known_layouts import find_layout
        from statsvc_workers.cluster.in_process import load_machine_code
        from statsvc_workers.cluster.local_cluster import LocalCluster
        from statsvc_workers.jobs.attempt import MAX_PIXELS, Settings
        from statsvc_workers.kernels.device import require
        from statsvc_workers.processes.forked import Template
    except ModuleNotFoundError as error:
        raise missing_extra("workers", error) from error
    finally:
        gc.freeze()
        gc.enable()
    if source is None and name is None:
        raise click.UsageError("Name a folder or URL of label maps: statsvc scan SOURCE")
    if move and (name is None or (source is None and pattern is None)):
        raise click.UsageError(
            "--move needs the dataset and its new location: statsvc scan FOLDER --name NAME --move"
        )
    require(device)
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed must be a number from 0 to 1.")
    known = None if layout is None else find_layout(layout)
    if known is not None and rule is None:
        rule = known.rule
    if dry_run:
        _show_selection(options, source, name, pattern, known, rule, key, rows, as_json)
        return
    triggers_wanted = trigger_changes(every, watch)
    # The template is forked before the catalog is opened, and before this process has threads.
    with closing(Template()) as template, options.open() as (home, catalog):
        from statsvc.store.catalog import triggers

        counting = None
        if (rule, key, rows) != (None, None, None):
            counting = read_counting(rule, key, rows)
        dataset, configured_version = register(
            home,
            catalog,
            source,
            name,
            pattern,
            counting,
            splits,
            configuration,
            layout=known,
            move=move,
            trusted=rule == VALUE,
            on_new=lambda: template.prepare(load_machine_code),
        )
        triggers.change(catalog, dataset, triggers_wanted)
        settings = Settings(device, max_pixels or MAX_PIXELS, search_parent=True)
        cluster = LocalCluster(workers, template=template)
        outcome = _run_job(home, catalog, dataset, settings, cluster, max_removed, full, samples)
        template.end()  # it ends while the results are printed
        dataset = catalog.dataset_by_uid(dataset.uid)
        progress = outcome.progress
        if outcome.error is not None:
            echo(f"statsvc: {dataset.name}: {outcome.error}", err=True)
            _print_failures(progress, already_printed=outcome.error)
            raise click.exceptions.Exit(1)
        _print_outcome(dataset, configured_version, outcome)
        if any(triggers_wanted.values()):
            echo(AUTOMATIC_SCANS, err=True)
        for name, text in dataset.configuration.notes.items():
            echo(f"statsvc: {name}: {text}", err=True)
        has_weights = _print_weights(home, catalog, dataset, progress, as_json)
        if progress.failed or not has_weights:
            raise click.exceptions.Exit(1)


def _show_selection(
    options: HomeOptions,
    location: str | None,
    name: str | None,
    pattern: str | None,
    layout: Layout | None,
    rule: str | None,
    key: str | None,
    rows: str | None,
    as_json: bool,
) -> None:
    """Print which files a scan would count; nothing is registered.

    A source is inspected as at its first scan; without one, the files of dataset `name` are listed.
    """
    from statsvc.dataset import splits
    from statsvc_workers.sources.list_samples import list_samples
    from statsvc_workers.sources.listing import Source
    from statsvc_workers.sources.sources import open_source

    counting = read_counting(rule, key, rows)
    if location is not None:
        if layout is not None and pattern is None:
            pattern = layout.pattern
        source = open_source(location, pattern, counting, layout=layout, trusted=rule == VALUE)
    else:
        with options.open() as (_, catalog):
            dataset = catalog.dataset(str(name))
        if dataset.source is None or dataset.pattern is None:
            raise Conflict(
                f"{dataset.name} has no files to list: it contains imported counts, or no scan ran"
            )
        source = Source(dataset.source, dataset.pattern, dataset.configuration.selection)
        counting = dataset.configuration.counting
    listing = list_samples(source, counting)
    found = [str(path) for path in listing.path]
    detected = dict(source.splits) or splits.detect(found)
    samples = {split: sum(map(members.contains, found)) for split, members in detected.items()}
    if as_json:
        selection = None if source.selection is None else source.selection.to_dict()
        print_json(
            {
                "source": source.root,
                "pattern": source.pattern,
                "samples": len(found),
                "unreadable": len(listing.unreadable),
                "splits": samples,
                "selection": selection,
            }
        )
        return
    echo(f"source: {source.root}")
    echo(f"pattern: {quoted(source.pattern)}")
    for line in source.selection.lines() if source.selection is not None else ():
        echo(printable(line))
    in_splits = "".join(f", {split} {count}" for split, count in samples.items())
    echo(f"samples: {len(found)}{in_splits}")


def _run_job(
    home: Home,
    catalog: Catalog,
    dataset: Dataset,
    settings: Settings,
    cluster: LocalCluster,
    max_removed: float | None,
    full: bool,
    samples: int | None,
) -> Outcome:
    """Run a job of this dataset in this process, after any job that another process is running."""
    from statsvc.store.catalog import jobs
    from statsvc_workers.jobs.lease import execute
    from statsvc_workers.jobs.progress import Progress

    owner = jobs.process_identity()
    allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
    estimate = None if samples is None else {"samples": samples}
    while (
        job := jobs.submit_leased(catalog, dataset, owner, full=full, max_removed=allowed, estimate=estimate)
    ) is None:
        _follow_running_job(catalog, dataset)
        dataset = catalog.dataset_by_uid(dataset.uid)
    progress = Progress()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with show_progress(progress.to_dict):
            return execute(catalog, home.store, job, cluster, settings, progress, retry=False)
    except KeyboardInterrupt:
        # Only the workers remain to be stopped, so a second Ctrl-C must not interrupt that. A second SIGTERM
        # ends this process immediately, and the kernel ends the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        echo(
            "statsvc: stopped. The counts so far are saved, and the next scan continues from there.",
            err=True,
        )
        raise click.exceptions.Exit(1) from None
    finally:
        cluster.close()


def _follow_running_job(catalog: Catalog, dataset: Dataset) -> None:
    """Show the progress of the job that another process runs, until it ends or its lease expires."""
    from statsvc.store.catalog import jobs
    from statsvc.store.catalog.records import RUNNING

    running = [job for job, _ in jobs.recent(catalog, dataset) if job.state == RUNNING]
    if not running:
        return
    job = running[0]
    echo(
        f"statsvc: another process is running job {job.id} of {dataset.name}; waiting until it ends", err=True
    )
    with show_progress(lambda: dict(jobs.get(catalog, job.id).progress)):
        while jobs.get(catalog, job.id).state == RUNNING and not jobs.lease_expired(catalog, job.id):
            time.sleep(POLL_SECONDS)


def _print_outcome(dataset: Dataset, configured_version: int | None, outcome: Outcome) -> None:
    """Print on stderr what the scan counted and which samples it could not read.

    configured_version  number of the version that this scan's options made of the same counts, if any
    """
    name, progress = dataset.name, outcome.progress
    text = f"{progress.counted} counted, {progress.reused} unchanged"
    if progress.recovered:
        text += f", {progress.recovered} of the counted recovered from an interrupted scan"
    if progress.removed:
        text += f", {progress.removed} removed"
    if progress.failed:
        text += f", {progress.failed} could not be read"
    if outcome.version is not None:
        version = f"version {outcome.version.number}"
        if (of := outcome.version.configuration.sampled_from) is not None:
            drawn = (outcome.version.samples or 0) + outcome.version.failed
            version += (
                f", an estimate from {drawn:,} of {of:,} label maps; a scan without --samples completes it"
            )
    elif configured_version is not None:
        version = f"version {configured_version}, the same counts with another configuration"
    else:
        version = "no new version"
    speed = f" ({pixel_rate(progress.rate())})" if progress.pixels else ""
    echo(f"{name}: {text}{speed}; {version}", err=True)
    _print_failures(progress, see=f". List them with: statsvc datasets {name}")


def _print_failures(progress: Progress, *, see: str = "", already_printed: str = "") -> None:
    """Print on stderr the samples that could not be read: each reason once, with the number of samples.

    see              where to find the samples beyond the first ones
    already_printed  text whose reasons are not repeated
    """
    paths_of: dict[str, list[str]] = {}
    for path, reason in progress.failures:
        paths_of.setdefault(reason, []).append(path)
    for reason, paths in paths_of.items():
        is_printed = reason in already_printed
        shown = [path for path in paths if not is_printed or f"{path}: {reason}" not in already_printed]
        shown = shown[:LISTED_PATHS]
        others = progress.reasons.get(reason, len(paths)) - (len(paths) if is_printed else len(shown))
        if shown:
            more = f" and {others} other{'' if others == 1 else 's'}" if others > 0 else ""
            text = "the same reason" if is_printed else reason
            echo(f"  {', '.join(shown)}{more}: {text}", err=True)
    counted = sum(progress.reasons.get(reason, len(paths)) for reason, paths in paths_of.items())
    if (more_failed := progress.failed - counted) > 0:
        echo(f"  … and {more_failed} more{see}", err=True)


def _print_weights(home: Home, catalog: Catalog, dataset: Dataset, progress: Progress, as_json: bool) -> bool:
    """Print the default weights; return whether there are any."""
    from statsvc.dataset.configuration_warnings import find_warnings

    table = open_table(home, catalog, dataset)
    for warning in find_warnings(table):
        echo(f"statsvc: {warning}", err=True)
    answer = default_answer(table)
    if as_json:
        print_json({"scan": progress.to_dict(), "weights": answer})
    elif answer is not None:
        from statsvc.weighting.display import print_class_table

        print_class_table(answer, file=sys.stdout)
    return answer is not None
