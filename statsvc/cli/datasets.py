"""`statsvc datasets`: list the datasets; show, configure or delete one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options, open_table
from statsvc.cli._options import AUTOMATIC_SCANS, json_option, print_json, trigger_changes, trigger_options
from statsvc.cli._tables import iso, print_fields, print_table
from statsvc.common.durations import format_duration
from statsvc.common.one_line import one_line
from statsvc.dataset.selection import Selection

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home

COLUMNS = ("dataset", "version", "images", "failed", "pixels", "source")


@click.command(short_help="List, show, configure or delete datasets.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@click.option("--delete", is_flag=True, help="Delete dataset NAME and its versions, but no label map.")
@click.option(
    "--keep",
    type=int,
    metavar="N",
    show_default="20",
    help="Number of newest versions that keep their per-image rows.",
)
@trigger_options
@json_option
@home_options
def datasets(
    name: str | None,
    delete: bool,
    keep: int | None,
    every: str | None,
    watch: bool | None,
    as_json: bool,
    options: HomeOptions,
) -> None:
    """List the datasets, or show dataset NAME with every image that could not be read.

    --keep, --every and --watch configure dataset NAME before it is shown.
    """
    triggers = trigger_changes(every, watch)
    if name is None and (delete or keep is not None or triggers):
        raise click.UsageError(
            "Name the dataset: statsvc datasets NAME with --delete, --keep N, --every TIME or --watch"
        )
    if delete and (keep is not None or triggers):
        raise click.UsageError("--delete cannot be combined with --keep, --every or --watch.")
    with options.open() as (home, catalog):
        if name is None:
            _list(catalog, as_json)
        elif delete:
            _delete(catalog, name, as_json)
        else:
            dataset = _configured(catalog, name, keep, triggers)
            _show(home, catalog, dataset, as_json)
            if any(triggers.values()):
                echo(AUTOMATIC_SCANS, err=True)


def _list(catalog: Catalog, as_json: bool) -> None:
    from statsvc.store.catalog import overview

    rows = [
        (
            dataset.name,
            dataset.current_number,
            version and version.samples,
            version and version.failed,
            version and version.pixels,
            dataset.source,
        )
        for dataset, version in overview.current(catalog)
    ]
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    elif rows:
        print_table(COLUMNS, rows)
    else:
        echo("There is no dataset yet. Add one with: statsvc scan SOURCE", err=True)


def _delete(catalog: Catalog, name: str, as_json: bool) -> None:
    catalog.delete_dataset(name)
    if as_json:
        print_json({"dataset": name, "deleted": True})
    echo(f"Deleted {name}. Its version numbers will not be used again.", err=True)


def _configured(
    catalog: Catalog, name: str, keep: int | None, trigger_changes: dict[str, float | bool | None]
) -> Dataset:
    """Apply the options that configure a dataset and return it."""
    from statsvc.store.catalog import triggers

    if trigger_changes:
        triggers.change(catalog, catalog.dataset(name), trigger_changes)
    if keep is not None:
        catalog.set_keep(catalog.dataset(name), keep)
    return catalog.dataset(name)


def _show(home: Home, catalog: Catalog, dataset: Dataset, as_json: bool) -> None:
    from statsvc.store.catalog import jobs

    description = _description(home, catalog, dataset)
    if as_json:
        print_json(description)
    else:
        _print_description(description)
    for job, _ in jobs.recent(catalog, dataset, 1):
        if job.state == "failed":
            echo(f"statsvc: the newest job, {job.id}, failed: {job.error}", err=True)


def _description(home: Home, catalog: Catalog, dataset: Dataset) -> dict[str, Any]:
    """Return everything about a dataset as JSON."""
    from statsvc.store.catalog import triggers

    trigger = triggers.of(catalog, [dataset])[dataset.uid]
    description: dict[str, Any] = {
        "dataset": dataset.name,
        "uid": dataset.uid,
        "source": dataset.source,
        "pattern": dataset.pattern,
        "version": dataset.current_number,
        "keep": dataset.keep,
        "every": None if trigger.every is None else format_duration(trigger.every),
        "watch": trigger.watch,
        "next scan": iso(trigger.due_at),
        "configuration": dataset.configuration.to_dict(),
    }
    if dataset.current_number is not None:
        failed, failures = open_table(home, catalog, dataset).failures(limit=None)
        description["failed"] = failed
        description["failures"] = [{"path": path, "error": error} for path, error in failures]
    return description


def _print_description(description: dict[str, Any]) -> None:
    fields = dict(description)
    configuration = fields.pop("configuration")
    failures = fields.pop("failures", [])
    class_map, ignored = configuration["class_map"], configuration["ignore_index"]
    selection = configuration.get("selection")
    print_fields(
        fields
        | {
            "classes": configuration["num_classes"] or "not inferred yet",
            "names": ", ".join(configuration["class_names"]) or None,
            "class map": None if class_map is None else class_map["name"],
            "ignored": "255 and negative ids" if ignored is None else ", ".join(map(str, ignored)) or "none",
            "splits": ", ".join(configuration["splits"]) or None,
            "files": None if selection is None else "; ".join(Selection.from_dict(selection).lines()),
        }
    )
    for subject, text in configuration.get("notes", {}).items():
        echo(f"  {subject}: {text}")
    for failure in failures:
        echo(one_line(f"  {failure['path']}: {failure['error']}"))
