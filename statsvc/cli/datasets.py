"""`statsvc datasets`, `versions` and `upgrade`: looking at what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import (
    BY_ITSELF,
    current_table,
    home_options,
    json_option,
    opened,
    print_json,
    the_dataset,
    trigger_changes,
    trigger_options,
)
from statsvc.cli._tables import iso, print_table, text_of
from statsvc.common.durations import format_duration
from statsvc.errors import InvalidParameter
from statsvc.store import home as homes

if TYPE_CHECKING:
    from statsvc.store.catalog.records import VersionRecord


@click.command()
@click.argument("name", required=False)
@click.option("--delete", is_flag=True, help="Forget dataset NAME; its label maps are not touched.")
@click.option("--keep", type=int, metavar="N", help="Let N newest versions keep their rows.  [default: 20]")
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
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """List the datasets, or show dataset NAME with every sample that could not be read."""
    scanned = trigger_changes(every, watch)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store.catalog import jobs, triggers

        if scanned:
            if name is None or delete:
                raise click.UsageError("name the dataset: statsvc datasets NAME --every TIME, or --watch")
            triggers.change(catalog, catalog.dataset(name), scanned)
        if keep is not None:
            if name is None or delete:
                raise click.UsageError("name the dataset: statsvc datasets NAME --keep N")
            catalog.set_keep(catalog.dataset(name), keep)
        if delete:
            if name is None:
                raise click.UsageError("name the dataset: statsvc datasets NAME --delete")
            catalog.delete_dataset(name)
            click.echo(f"{name} is forgotten; its version numbers are never given out again", err=True)
        elif name is None:
            from statsvc.store.catalog import overview

            found = overview.current(catalog)
            rows = [
                (d.name, d.current_number, v and v.samples, v and v.failed, v and v.pixels, d.source)
                for d, v in found
            ]
            columns = ("dataset", "version", "images", "failed", "pixels", "source")
            if as_json:
                print_json([dict(zip(columns, row, strict=True)) for row in rows])
            elif rows:
                print_table(columns, rows)
            else:
                click.echo("no datasets yet; add one with: statsvc scan SOURCE", err=True)
        else:
            dataset = catalog.dataset(name)
            trigger = triggers.of(catalog, [dataset])[dataset.uid]
            shown: dict[str, Any] = {
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
                failed, failures = current_table(place, catalog, dataset).failures(limit=None)
                shown |= {"failed": failed, "failures": [{"path": p, "error": e} for p, e in failures]}
            if as_json:
                print_json(shown)
            else:
                _describe(shown)
            for job, _ in jobs.recent(catalog, dataset, 1):
                if job.state == "failed":
                    click.echo(f"statsvc: the newest job, {job.id}, has failed: {job.error}", err=True)
            if any(scanned.values()):
                click.echo(BY_ITSELF, err=True)


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
        click.echo(f"{key:<10} {text_of(value)}")
    for failure in failures:
        click.echo(f"  {failure['path']}: {failure['error']}")


@click.command()
@click.argument("name", required=False)
@click.option("--tag", "tagged", multiple=True, metavar="N=TAG", help="Let TAG stand for version N.")
@click.option("--untag", multiple=True, metavar="TAG", help="Take TAG away.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@home_options
def versions(
    name: str | None,
    tagged: tuple[str, ...],
    untag: tuple[str, ...],
    limit: int,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """List the versions of dataset NAME, newest first; or tag some.

    With --json, each with the folder of its arrays. A tag names a version for --version and ?version=, and
    keeps its rows from `statsvc gc`.
    """
    with opened(home, database, store) as (place, catalog):
        from statsvc.store.catalog import tags

        dataset = the_dataset(catalog, name)
        for item in tagged:
            number, _, tag = item.partition("=")
            if not (number.isascii() and number.isdigit() and len(number) < 10):
                raise InvalidParameter(("tagged", f"{item!r}: write N=TAG, a version's number and its tag"))
            tags.put(catalog, dataset, tag, int(number))
        for tag in untag:
            tags.remove(catalog, dataset, tag)
        found = catalog.versions(dataset, limit)
        known = tags.of(catalog, dataset)

    def row(record: VersionRecord) -> tuple[Any, ...]:
        names = ", ".join(tag for tag, number in known.items() if number == record.number)
        rows = "removed" if record.expired_at is not None else "kept" if "path" in record.digests else "none"
        published = iso(record.created_at)
        return (
            *(record.number, names or None, published, record.kind),
            *(record.samples, record.failed, record.pixels, rows),
        )

    # A version that only reads the counts in another way has the arrays of an earlier one.
    arrays = [str(place.store / record.arrays_uri) for record in found]
    columns = ("version", "tags", "published", "by", "images", "failed", "pixels", "rows")
    if as_json:
        rows = zip(found, arrays, strict=True)
        print_json([dict(zip(columns, row(one), strict=True)) | {"arrays": folder} for one, folder in rows])
        return
    print_table(columns, [row(record) for record in found])
    if found:
        click.echo(f"the arrays of version {found[0].number}, a Zarr group: {arrays[0]}", err=True)


@click.command()
@home_options
def upgrade(home: str | None, database: str | None, store: str | None) -> None:
    """Create or update the catalog's tables; SQLite does it by itself."""
    from statsvc.store.catalog.engine import SCHEMA, upgrade_url

    upgrade_url(homes.resolve(home, database, store).database)
    click.echo(f"the catalog has schema {SCHEMA}", err=True)
