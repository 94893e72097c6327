"""`statsvc datasets`, `versions`, `jobs` and `upgrade`: looking at what there is."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli.common import current_table, home_options, json_option, opened, print_json, the_dataset
from statsvc.store import home as homes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.store.records import Job, VersionRecord


def iso(seconds: float | None) -> str | None:
    """Return a catalog time as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _shown(value: Any) -> str:
    """Return a value for a table: local time, and a dash for what there is not."""
    if value is None:
        return "–"
    if isinstance(value, str) and value.endswith("+00:00"):
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows: a table on a terminal; elsewhere, for another program, a line each with tabs between."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(_shown(value) for value in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    numbers = {k for row in rows for k, value in enumerate(row) if isinstance(value, int)}
    for k, column in enumerate(columns):
        table.add_column(
            column, justify="right" if k in numbers else "left", no_wrap=column != "source", overflow="fold"
        )
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else _shown(value) for value in row))
    Console().print(table)


@click.command()
@click.argument("name", required=False)
@click.option("--delete", is_flag=True, help="Forget dataset NAME; its label maps are not touched.")
@json_option
@home_options
def datasets(
    name: str | None, delete: bool, as_json: bool, home: str | None, database: str | None, store: str | None
) -> None:
    """List the datasets, or show dataset NAME with every sample that could not be read."""
    with opened(home, database, store) as (place, catalog):
        if delete:
            if name is None:
                raise click.UsageError("name the dataset: statsvc datasets NAME --delete")
            catalog.delete_dataset(name)
            click.echo(f"{name} is forgotten; its version numbers are never given out again", err=True)
        elif name is None:
            found = catalog.current()
            rows = [
                (d.name, d.current_number, v and v.samples, v and v.failed, v and v.pixels, d.source)
                for d, v in found
            ]
            columns = ("dataset", "version", "images", "failed", "pixels", "source")
            if as_json:
                print_json([dict(zip(columns, row, strict=True)) for row in rows])
            elif rows:
                _table(columns, rows)
            else:
                click.echo("no datasets yet; add one with: statsvc scan SOURCE", err=True)
        else:
            dataset = catalog.dataset(name)
            shown: dict[str, Any] = {
                "dataset": dataset.name,
                "uid": dataset.uid,
                "source": dataset.source,
                "pattern": dataset.pattern,
                "version": dataset.current_number,
                "configuration": dataset.configuration.to_dict(),
            }
            if dataset.current_number is not None:
                failed, failures = current_table(place, catalog, dataset).failures(limit=None)
                shown |= {"failed": failed, "failures": [{"path": p, "error": e} for p, e in failures]}
            if as_json:
                print_json(shown)
            else:
                _describe(shown)


def _describe(shown: dict[str, Any]) -> None:
    configuration = shown.pop("configuration")
    failures = shown.pop("failures", [])
    class_map = configuration["class_map"]
    ignore = configuration["ignore_index"]
    shown |= {
        "classes": configuration["num_classes"] or "not settled yet",
        "names": ", ".join(configuration["class_names"]) or "–",
        "class map": "–" if class_map is None else class_map["name"],
        "ignored": "255 and negative ids" if ignore is None else ", ".join(map(str, ignore)) or "none",
        "splits": ", ".join(configuration["splits"]) or "–",
    }
    for key, value in shown.items():
        click.echo(f"{key:<10} {_shown(value)}")
    for failure in failures:
        click.echo(f"  {failure['path']}: {failure['error']}")


@click.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@home_options
def versions(
    name: str | None, limit: int, as_json: bool, home: str | None, database: str | None, store: str | None
) -> None:
    """List the versions of dataset NAME, newest first; with --json, each with the folder of its arrays."""

    def row(record: VersionRecord) -> tuple[Any, ...]:
        published = iso(record.created_at)
        return record.number, published, record.kind, record.samples, record.failed, record.pixels

    with opened(home, database, store) as (place, catalog):
        found = catalog.versions(the_dataset(catalog, name), limit)
    # A version that only reads the counts in another way has the arrays of an earlier one.
    arrays = [str((place.store / record.arrays_uri).resolve()) for record in found]
    columns = ("version", "published", "by", "images", "failed", "pixels")
    if as_json:
        rows = zip(found, arrays, strict=True)
        print_json([dict(zip(columns, row(one), strict=True)) | {"arrays": folder} for one, folder in rows])
        return
    _table(columns, [row(record) for record in found])
    if found:
        click.echo(f"the arrays of version {found[0].number}, a Zarr group: {arrays[0]}", err=True)


@click.command()
@click.argument("job_id", required=False, metavar="[JOB]")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@home_options
def jobs(
    job_id: str | None, limit: int, as_json: bool, home: str | None, database: str | None, store: str | None
) -> None:
    """List the newest jobs, or show one with what it failed on."""
    from statsvc.cli.progress import speed

    def described(job: Job, dataset: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "dataset": dataset,
            "state": job.state,
            "attempt": job.attempt,
            "version": job.version_number,
            "created": iso(job.created_at),
            "finished": iso(job.finished_at),
            "error": job.error,
            "progress": dict(job.progress),
        }

    with opened(home, database, store) as (_place, catalog):
        from statsvc.store import jobs as queue

        if job_id is not None:
            job = queue.get(catalog, job_id)
            shown = described(job, catalog.dataset_by_uid(job.dataset_uid).name)
            if as_json:
                print_json(shown)
                return
            progress = shown.pop("progress")
            for key, value in shown.items():
                click.echo(f"{key:<10} {_shown(value)}")
            click.echo(f"{'progress':<10} {speed(progress)}")
            for failure in progress.get("failures", []):
                click.echo(f"  {failure['path']}: {failure['error']}")
            return
        found = [described(job, dataset) for job, dataset in queue.recent(catalog, limit=limit)]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no jobs yet", err=True)
        return
    _table(
        ("job", "dataset", "state", "version", "created"),
        [(row["id"], row["dataset"], row["state"], row["version"], row["created"]) for row in found],
    )
    for row in found:
        if row["error"]:
            click.echo(f"{row['id']}: {row['error']}")


@click.command()
@home_options
def upgrade(home: str | None, database: str | None, store: str | None) -> None:
    """Create or update the catalog's tables; SQLite does it by itself."""
    from statsvc.store.engine import SCHEMA, upgrade_url

    upgrade_url(homes.resolve(home, database, store).database)
    click.echo(f"the catalog has schema {SCHEMA}", err=True)
