"""Where the state of statsvc lives: the options --home, --database and --store, and opening the catalog."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from statsvc.errors import CatalogError, StatsvcError
from statsvc.store import home as homes
from statsvc.store.versions import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home
    from statsvc.store.versions.version import Version


class HomeOptions(Struct, frozen=True):
    """The values of --home, --database and --store; None is the default."""

    home: str | None
    database: str | None
    store: str | None

    def resolve(self) -> Home:
        """Return the home with its defaults filled in. Raises `InvalidParameter` for a malformed store."""
        return homes.resolve(self.home, self.database, self.store)

    @contextmanager
    def open(self, *, lost: bool = False) -> Iterator[tuple[Home, Catalog]]:
        """Open the catalog and close it at the end. Raises `StatsvcError`, also for a missing extra.

        lost  whether the catalog may be empty although there are versions, for commands that repair that
        """
        from statsvc.store.catalog.catalog import Catalog
        from statsvc.store.catalog.database_errors import DatabaseError
        from statsvc.store.catalog.sqlite import is_disk_full

        home = self.resolve()
        catalog = Catalog.open(home.database) if lost else home.open_catalog()
        try:
            yield home, catalog
        except DatabaseError as error:
            if is_disk_full(error.orig):
                raise CatalogError(
                    f"The disk of the catalog is full ({home.folder}). "
                    "Free space, for example with: statsvc gc"
                ) from error
            raise CatalogError(
                f"The catalog database reported an error: {error}. Check --database."
            ) from error
        except ModuleNotFoundError as error:
            raise missing_extra("workers", error) from error
        except OSError as error:
            if (advice := durable.advice(error, home.folder)) is None:
                raise
            raise StatsvcError(advice) from error
        finally:
            catalog.close()


def home_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --home, --database and --store; the command receives them as `options`, a `HomeOptions`."""

    @functools.wraps(command)
    def with_options(
        *args: Any, home: str | None, database: str | None, store: str | None, **params: Any
    ) -> Any:
        return command(*args, options=HomeOptions(home, database, store), **params)

    decorated: Callable[..., Any] = with_options
    for option in (
        click.option(
            "--store",
            metavar="URL",
            envvar="STATSVC_STORE",
            show_envvar=True,
            show_default="HOME/versions",
            help="Version store: a folder or s3://bucket/prefix.",
        ),
        click.option(
            "--database",
            metavar="URL",
            envvar="STATSVC_DATABASE",
            show_envvar=True,
            show_default="SQLite file in HOME",
            help="URL of the catalog: sqlite:///FILE or postgresql://HOST/NAME.",
        ),
        click.option(
            "--home",
            metavar="FOLDER",
            envvar="STATSVC_HOME",
            show_envvar=True,
            show_default="~/.local/share/statsvc",
            help="Home directory with the catalog and the versions.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def missing_extra(extra: str, error: ModuleNotFoundError) -> StatsvcError:
    """Return the error that names the extra to install for a missing module."""
    package = str(error.name).partition(".")[0]
    return StatsvcError(f"{package} is not installed. Run: pip install 'statsvc[{extra}]'")


def find_dataset(catalog: Catalog, name: str | None) -> Dataset:
    """Return the named dataset, or the only one. Raises `NotFound`, or a usage error listing the names."""
    if name is not None:
        return catalog.dataset(name)
    datasets = catalog.datasets()
    if not datasets:
        raise StatsvcError("There is no dataset yet. Add one with: statsvc scan SOURCE")
    # A dataset without a version is left by a first scan that failed: it has nothing to show.
    candidates = [dataset for dataset in datasets if dataset.current_number is not None] or datasets
    if len(candidates) > 1:
        names = ", ".join(dataset.name for dataset in candidates)
        raise click.UsageError(f"There are several datasets. Name one of: {names}")
    return candidates[0]


def open_table(home: Home, catalog: Catalog, dataset: Dataset, number: int | str | None = None) -> Version:
    """Open a version of a dataset by number or tag, by default the current one. Raises `NotFound`."""
    from statsvc.store.publication import open_version

    return open_version(home.store, dataset.name, catalog.version(dataset, number))
