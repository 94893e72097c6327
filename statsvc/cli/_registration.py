"""Which dataset `statsvc scan SOURCE --name NAME` means: one that is registered, moved, or made for it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from statsvc.cli._options import reading_changes
from statsvc.common.object_urls import is_url, normalized
from statsvc.dataset.splits import FOLDERS
from statsvc.errors import Conflict, NotFound

if TYPE_CHECKING:
    from statsvc.dataset.counting_rule import Counting
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home

PLAIN_FOLDERS = {*FOLDERS, "labels", "label", "masks", "mask", "annotations", "gtfine", "gt"}
"""Folder names that say nothing of the dataset: its default name takes the parent's in front."""


def registered(
    place: Home,
    catalog: Catalog,
    source: str | None,
    name: str | None,
    pattern: str | None,
    counting: Counting | None,
    splits: tuple[str, ...],
    reading: dict[str, Any],
    *,
    move: bool,
) -> tuple[Dataset, int | None]:
    """Return the dataset meant, registered and configured as the options say.

    With it, the number of the version that this made, if the counts are to be read in another way.
    """
    from statsvc.dataset.configuration import Configuration
    from statsvc.store.publication import configure
    from statsvc.store.reconfigure import apply_changes, check_class_names, configuration_change
    from statsvc_workers.sources.sources import open_source

    changes = reading_changes(splits=splits, **reading)
    place_of = None if source is None else _location(source)
    if name is not None:
        known = _named(catalog, name, place_of, pattern, move=move)
    else:
        known = _at(catalog, place_of, pattern)
    if known is None:
        if source is None:
            raise NotFound(f"there is no dataset {name!r} yet; give its folder too: statsvc scan SOURCE")
        found = open_source(source, pattern)
        counted = Configuration() if counting is None else Configuration(counting=counting)
        configuration = check_class_names(apply_changes(counted, changes))
        name = default_name(found.root) if name is None else name
        try:
            return catalog.create_dataset(name, found.root, found.pattern, configuration), None
        except Conflict:
            # Another scan may have registered the same files since we looked.
            known = _named(catalog, name, place_of, pattern, move=False)
            if known is None:
                raise
    if counting is not None and counting != known.configuration.counting:
        raise Conflict(
            f"{known.name} is counted by {known.configuration.counting}, not {counting}; other counts are "
            "another dataset: choose another name with --name"
        )
    change = configuration_change(catalog, place.store, known, changes)
    configured, record = configure(catalog, place.store, known, change)
    made = record is not None and record.kind == "configuration" and record.number != known.current_number
    return configured, record.number if record is not None and made else None


def _location(source: str) -> tuple[str, str | None]:
    """Return the folder or URL that SOURCE means and, for one file, the pattern that means it alone."""
    from statsvc_workers.sources.sources import open_source, single_file_source

    if is_url(source):
        one = single_file_source(source)
        return (normalized(source), None) if one is None else (one.root, one.pattern)
    where = Path(source).expanduser()
    if where.is_dir():
        return _resolved(source), None
    one = open_source(source, None)
    return _resolved(one.root), one.pattern


def _resolved(source: str) -> str:
    """Return a source as it is compared: a path without links, a URL as it is."""
    return source if is_url(source) else str(Path(source).expanduser().resolve())


def _named(
    catalog: Catalog,
    name: str,
    location: tuple[str, str | None] | None,
    pattern: str | None,
    *,
    move: bool,
) -> Dataset | None:
    """Return the dataset of that name; a dataset is its folder and its pattern, so both must be the same.

    With `move`, or where its pattern was never found out, it means the given files from now on.
    """
    known = next((dataset for dataset in catalog.datasets() if dataset.name == name), None)
    if known is None or (location is None and pattern is None):
        if move:
            raise NotFound(f"there is no dataset {name!r} to move; leave --move out to register it")
        return known
    folder, file = location or (None, None)
    wanted = file or pattern
    if known.source is None:
        raise Conflict(f"{name} is a table of imported counts; choose another name with --name")
    if move or (known.pattern is None and folder in (None, _resolved(known.source))):
        return _moved(catalog, known, folder, wanted)
    instead = (
        f"choose another name with --name, or, if its label maps are there now, add --name {name} --move"
    )
    if folder is not None and _resolved(known.source) != folder:
        raise Conflict(f"{name} is {known.source}, not {folder}; {instead}")
    if wanted != known.pattern and (wanted is not None or _is_file(known)):
        raise Conflict(f"{name} counts the files {known.pattern!r} in {known.source}; {instead}")
    return known


def _moved(catalog: Catalog, known: Dataset, folder: str | None, pattern: str | None) -> Dataset:
    """Return the dataset, registered over the files that it means now. Raises `SourceError` for none."""
    from statsvc.store.reconfigure import change_source
    from statsvc_workers.sources.list_samples import list_samples
    from statsvc_workers.sources.listing import Source
    from statsvc_workers.sources.sources import open_source

    def choose(now: Dataset) -> tuple[str, str | None]:
        root = str(folder or now.source)
        kept = None if _is_file(now) else now.pattern
        wanted = pattern or kept
        if wanted is None:
            found = open_source(root, None)
            return found.root, found.pattern
        list_samples(Source(root, wanted))
        return root, wanted

    return change_source(catalog, known, choose)


def _at(catalog: Catalog, location: tuple[str, str | None] | None, pattern: str | None) -> Dataset | None:
    """Return the dataset over that folder and pattern; a usage error where several could be meant."""
    if location is None:
        return None
    folder, file = location
    wanted = file or pattern
    found = [
        dataset
        for dataset in catalog.datasets()
        if dataset.source is not None
        and _resolved(dataset.source) == folder
        and (dataset.pattern == wanted if wanted is not None else not _is_file(dataset))
    ]
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise click.UsageError(f"several datasets are counted from {folder}: give --name, one of {names}")
    return found[0] if found else None


def _is_file(dataset: Dataset) -> bool:
    return dataset.pattern is not None and dataset.pattern.startswith("/")


def default_name(root: str) -> str:
    """Return a dataset name made from its folder or URL: `camvid-train` for `…/camvid/train`."""
    url = urlsplit(root)
    folder = PurePosixPath(url.netloc + unquote(url.path)) if is_url(root) else Path(root).resolve()
    parts = [folder.name]
    if folder.name.lower() in PLAIN_FOLDERS and folder.parent.name:
        parts.insert(0, folder.parent.name)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)).strip("-._")
    return name[:100] or "dataset"
