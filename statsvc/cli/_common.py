"""What several commands share: where state lives, opening it, and JSON on stdout."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from statsvc.common.durations import parse_schedule
from statsvc.errors import CatalogError, StatsvcError
from statsvc.store import home as homes
from statsvc.store.versions import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home
    from statsvc.store.versions.version import Version


def home_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --home, --database and --store."""
    for option in (
        click.option(
            "--store",
            metavar="PLACE",
            help="Folder of versions, or s3://bucket/prefix.  [env: STATSVC_STORE; default: in the home]",
        ),
        click.option("--database", metavar="URL", help="Catalog.  [default: an SQLite file in the home]"),
        click.option(
            "--home",
            metavar="DIR",
            help="Folder where state lives.  [env: STATSVC_HOME; default: ~/.local/share/statsvc]",
        ),
    ):
        command = option(command)
    return command


def version_name(text: str) -> int | str:
    """Return a version's number, or its tag as it is."""
    if text[:1].isalpha():
        return text
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise click.BadParameter(f"{text!r} is neither the number of a version nor a tag")
    return int(text)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def trigger_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --every and --watch."""
    for option in (
        click.option(
            "--watch/--no-watch",
            default=None,
            help="Let runners scan the dataset when its source has changed and is quiet again.",
        ),
        click.option(
            "--every", metavar="TIME", help="Let runners scan the dataset so often: 10m, 2h, 1d, or none."
        ),
    ):
        command = option(command)
    return command


def trigger_changes(every: str | None, watch: bool | None) -> dict[str, float | bool | None]:
    """Return the changes that the options of `trigger_options` make. Raises `InvalidParameter`."""
    given: dict[str, float | bool | None] = {} if every is None else {"every": parse_schedule(every)}
    return given if watch is None else given | {"watch": watch}


BY_ITSELF = "statsvc: while a runner runs (statsvc serve), it is scanned by itself"


@contextmanager
def opened(home: str | None, database: str | None, store: str | None) -> Iterator[tuple[Home, Catalog]]:
    """Open the catalog of the home that the options name. Raises `StatsvcError` with the extra to install."""
    try:
        from sqlalchemy.exc import DBAPIError

        from statsvc.store.catalog.catalog import Catalog
    except ModuleNotFoundError as error:
        raise needs("workers", error) from error
    place = homes.resolve(home, database, store)
    catalog = Catalog.open(place.database)
    try:
        yield place, catalog
    except DBAPIError as error:
        raise CatalogError(f"the catalog cannot be used: {error.orig}") from error
    except OSError as error:
        if (told := durable.advice(error, place.folder)) is None:
            raise
        raise StatsvcError(told) from error
    finally:
        catalog.close()


def needs(extra: str, error: ModuleNotFoundError) -> StatsvcError:
    """Return the error that names the extra a missing module belongs to."""
    return StatsvcError(f"this needs {error.name}, which the extra brings: pip install 'statsvc[{extra}]'")


def the_dataset(catalog: Catalog, name: str | None) -> Dataset:
    """Return the named dataset, or the only one. Raises `NotFound`, or a usage error listing the names."""
    if name is not None:
        return catalog.dataset(name)
    there = catalog.datasets()
    # A first scan that failed or was stopped leaves a dataset without a version: nobody means that one.
    meant = [one for one in there if one.current_number is not None] or there
    if len(meant) == 1:
        return meant[0]
    if not there:
        raise StatsvcError("there is no dataset yet; add one with: statsvc scan SOURCE")
    raise click.UsageError("which dataset? name one of: " + ", ".join(one.name for one in meant))


def current_table(
    place: Home, catalog: Catalog, dataset: Dataset, number: int | str | None = None
) -> Version:
    """Return the table of a dataset's version, by default the current one."""
    from statsvc.store.publication import open_version

    return open_version(place.store, dataset.name, catalog.version(dataset, number))


def print_json(value: Any) -> None:
    """Print JSON for machines."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
