"""`statsvc scan`: count a source in this process, and show its weights."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._configuration import configuration_options
from statsvc.cli._default_answer import default_answer
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import (
    AUTOMATIC_SCANS,
    counting_options,
    json_option,
    max_removed_option,
    print_json,
    trigger_changes,
    trigger_options,
)
from statsvc.cli._registration import register
from statsvc.cli._scan_job import Counters, importing, run_job
from statsvc.cli._scan_report import print_failures, print_outcome
from statsvc.dataset.counting_rule import VALUE
from statsvc.dataset.counting_rule import read as read_counting

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home
    from statsvc_workers.jobs.progress import Progress


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
    if source is None and name is None:
        raise click.UsageError("Name a folder or URL of label maps: statsvc scan SOURCE")
    if move and (name is None or (source is None and pattern is None)):
        raise click.UsageError(
            "--move needs the dataset and its new location: statsvc scan FOLDER --name NAME --move"
        )
    with importing():
        import statsvc_workers.jobs.lease  # noqa: F401  (imports what recognizes an unchanged folder)
        from statsvc_workers.jobs.attempt import MAX_PIXELS, Settings
    if device == "cuda":
        from statsvc_workers.kernels.device import require

        require(device)
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed must be a number from 0 to 1.")
    known = None
    if layout is not None:
        from statsvc.dataset.known_layouts import find_layout

        known = find_layout(layout)
        rule = known.rule if rule is None else rule
    if dry_run:
        from statsvc.cli._scan_selection import show_selection

        show_selection(options, source, name, pattern, known, rule, key, rows, as_json)
        return
    triggers_wanted = trigger_changes(every, watch)
    with closing(Counters(workers)) as counters, options.open() as (home, catalog):
        if source is not None and not Path(source).is_dir():
            counters.prepare()  # only folders are recognized as unchanged
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
            before_reading=counters.load_machine_code,
        )
        if triggers_wanted:
            from statsvc.store.catalog import triggers

            triggers.change(catalog, dataset, triggers_wanted)
        settings = Settings(device, max_pixels or MAX_PIXELS, search_parent=True)
        outcome = run_job(home, catalog, dataset, settings, counters, max_removed, full, samples)
        dataset = catalog.dataset_by_uid(dataset.uid)
        progress = outcome.progress
        if outcome.error is not None:
            echo(f"statsvc: {dataset.name}: {outcome.error}", err=True)
            print_failures(progress, already_printed=outcome.error)
            raise click.exceptions.Exit(1)
        print_outcome(dataset, configured_version, outcome)
        if any(triggers_wanted.values()):
            echo(AUTOMATIC_SCANS, err=True)
        for name, text in dataset.configuration.notes.items():
            echo(f"statsvc: {name}: {text}", err=True)
        has_weights = _print_weights(home, catalog, dataset, progress, as_json)
        if progress.failed or not has_weights:
            raise click.exceptions.Exit(1)


def _print_weights(home: Home, catalog: Catalog, dataset: Dataset, progress: Progress, as_json: bool) -> bool:
    """Print the default weights; return whether there are any."""
    answer = default_answer(home, catalog, dataset)
    for warning in answer["warnings"]:
        echo(f"statsvc: {warning}", err=True)
    if answer["reason"] is not None:
        echo(f"statsvc: no weights: {answer['reason']}", err=True)
    if as_json:
        print_json({"scan": progress.to_dict(), "weights": answer["weights"]})
    elif answer["weights"] is not None:
        from statsvc.weighting.display import print_class_table

        print_class_table(answer["weights"], file=sys.stdout)
    return answer["weights"] is not None
