"""`statsvc versions`: list or tag the versions of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, find_dataset, home_options
from statsvc.cli._options import json_option, limit_option, print_json
from statsvc.cli._tables import iso, print_table
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog.records import VersionRecord

COLUMNS = ("version", "tags", "published", "by", "images", "failed", "pixels", "rows")


@click.command(short_help="List or tag the versions of a dataset.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@click.option(
    "--tag", "new_tags", multiple=True, metavar="N=TAG", help="Tag version N as TAG. Can be repeated."
)
@click.option("--untag", "old_tags", multiple=True, metavar="TAG", help="Remove TAG. Can be repeated.")
@limit_option("versions")
@json_option
@home_options
def versions(
    name: str | None,
    new_tags: tuple[str, ...],
    old_tags: tuple[str, ...],
    limit: int,
    as_json: bool,
    options: HomeOptions,
) -> None:
    """List the versions of dataset NAME, newest first, or tag them.

    A tag can replace the number in --version and ?version=. Tagged versions keep their per-image rows
    when `statsvc gc` runs. --json also prints the folder or URL of each version's arrays.
    """
    with options.open() as (home, catalog):
        from statsvc.store.catalog import tags

        dataset = find_dataset(catalog, name)
        for item in new_tags:
            number, tag = _parse_tag(item)
            tags.put(catalog, dataset, tag, number)
        for tag in old_tags:
            tags.remove(catalog, dataset, tag)
        records = catalog.versions(dataset, limit)
        numbers = tags.of(catalog, dataset)
    rows = [_row(record, numbers) for record in records]
    # A version that changes only the configuration has the arrays of an earlier version.
    arrays = [str(home.store / record.arrays_uri) for record in records]
    if as_json:
        print_json(
            [
                dict(zip(COLUMNS, row, strict=True)) | {"tags": _tags(record, numbers), "arrays": folder}
                for record, row, folder in zip(records, rows, arrays, strict=True)
            ]
        )
        return
    print_table(COLUMNS, rows)
    if records:
        echo(f"Arrays of version {records[0].number} (Zarr group): {arrays[0]}", err=True)


def _parse_tag(item: str) -> tuple[int, str]:
    """Parse N=TAG."""
    number, _, tag = item.partition("=")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise InvalidParameter(("new_tags", f"{item!r} is not N=TAG, a version number and its tag."))
    return int(number), tag


def _tags(record: VersionRecord, numbers: Mapping[str, int]) -> list[str]:
    return [tag for tag, number in numbers.items() if number == record.number]


def _row(record: VersionRecord, numbers: Mapping[str, int]) -> tuple[Any, ...]:
    stored = "kept" if "path" in record.digests else "none"
    return (
        record.number,
        ", ".join(_tags(record, numbers)) or None,
        iso(record.created_at),
        record.kind,
        record.samples,
        record.failed,
        record.pixels,
        "removed" if record.expired_at is not None else stored,
    )
