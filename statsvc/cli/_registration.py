"""Which dataset `statsvc scan SOURCE --name NAME` scans: a registered, a moved, or a new one.

A dataset is identified by its name, or by its source and pattern. A source is compared as a location: the
resolved folder or normalized URL and, for a single file, the pattern that matches only this file.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click
from msgspec.structs import replace

from statsvc.cli._configuration import configuration_changes
from statsvc.cli._echo import echo
from statsvc.common.object_urls import is_url, normalized
from statsvc.common.utf8 import printable
from statsvc.dataset.splits import FOLDERS
from statsvc.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.counting_rule import Counting
    from statsvc.dataset.known_layouts import Layout
    from statsvc.dataset.selection import Selection
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.home import Home

GENERIC_FOLDERS = {*FOLDERS, "labels", "label", "masks", "mask", "annotations", "gtfine", "gt"}
"""Folder names that do not identify a dataset: its default name starts with the parent folder's name."""

MAX_NAME_LENGTH = 100
"""Longest default name of a dataset."""


def register(
    home: Home,
    catalog: Catalog,
    source: str | None,
    name: str | None,
    pattern: str | None,
    counting: Counting | None,
    splits: tuple[str, ...],
    configuration: dict[str, Any],
    *,
    layout: Layout | None,
    move: bool,
    trusted: bool,
    before_reading: Callable[[], None],
) -> tuple[Dataset, int | None]:
    """Find or create the dataset, and configure it as the options say.

    A known layout provides the pattern, and what the other options do not set. `trusted` means that the user
    says that the values of the files are class ids. `before_reading` is called before files of a folder are
    inspected, which may start threads.

    Returns the dataset and, if the options published a version with another configuration of the same
    counts, the number of that version. Raises `Conflict`, `NotFound`, `InvalidParameter`, `SourceError`.
    """
    changes = configuration_changes(splits=splits, **configuration)
    if layout is not None:
        pattern = layout.pattern if pattern is None else pattern
        changes = layout.changes() | changes
    location = None if source is None else _location(source)
    if name is None:
        dataset = _find_by_location(catalog, location, pattern)
    else:
        dataset = _find_by_name(
            catalog, name, location, pattern, move=move, trusted=trusted, before_reading=before_reading
        )
    if dataset is None:
        if source is None:
            raise NotFound(f"There is no dataset {name!r} yet. Name its folder, too: statsvc scan SOURCE")
        before_reading()
        dataset, created = _create(
            catalog, source, name, pattern, counting, changes, layout=layout, trusted=trusted
        )
        if created:
            return dataset, None
    # The grid is one of the changes, so it may differ; the classes were found by the first scan.
    if counting is not None and counting != replace(dataset.configuration.counting, grid=None, classes=()):
        if dataset.current_number is not None or dataset.source is None:
            raise Conflict(
                f"{dataset.name} is counted with {dataset.configuration.counting}, not {counting}, and its "
                "versions never mix rules. Repeat the command with another name, for example --name "
                f"{dataset.name}-2, or delete this dataset first: statsvc datasets {dataset.name} --delete"
            )
        before_reading()
        dataset = _recount(catalog, dataset, counting, pattern, layout=layout, trusted=trusted)
    return _configure(home, catalog, dataset, changes)


def _create(
    catalog: Catalog,
    source: str,
    name: str | None,
    pattern: str | None,
    counting: Counting | None,
    changes: dict[str, Any],
    *,
    layout: Layout | None,
    trusted: bool,
) -> tuple[Dataset, bool]:
    """Create a dataset, or return the one that a concurrent scan has created; with whether it is new."""
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.counting_rule import Counting
    from statsvc.store.reconfigure import apply_changes, check_class_names
    from statsvc_workers.sources.sources import open_source

    counting = Counting() if counting is None else counting
    opened = open_source(source, pattern, counting, layout=layout, trusted=trusted)
    print_selection(opened.selection)
    initial = Configuration(splits=opened.splits, counting=counting, selection=opened.selection)
    configuration = check_class_names(apply_changes(initial, changes))
    name = default_name(opened.root) if name is None else name
    try:
        return catalog.create_dataset(name, opened.root, opened.pattern, configuration), True
    except Conflict:
        dataset = _find_by_name(catalog, name, _location(source), pattern, move=False, trusted=trusted)
        if dataset is None:
            raise
        return dataset, False


def _recount(
    catalog: Catalog,
    dataset: Dataset,
    counting: Counting,
    pattern: str | None,
    *,
    layout: Layout | None,
    trusted: bool,
) -> Dataset:
    """Give another counting rule to a dataset that has no version, because its first scan failed."""
    from statsvc_workers.sources.sources import open_source

    # The pattern was detected for the other rule; that of a single file is its name.
    chosen = pattern or (dataset.pattern if _is_file(dataset) or not counting.masks else None)
    location = str(dataset.source)
    if _is_file(dataset) and pattern is None:
        return catalog.configure_unversioned(dataset, replace(dataset.configuration, counting=counting))
    opened = open_source(location, chosen, counting, layout=layout, trusted=trusted)
    print_selection(opened.selection)
    dataset = catalog.set_source(dataset, opened.root, opened.pattern, opened.selection, opened.splits)
    return catalog.configure_unversioned(dataset, replace(dataset.configuration, counting=counting))


def _configure(
    home: Home, catalog: Catalog, dataset: Dataset, changes: dict[str, Any]
) -> tuple[Dataset, int | None]:
    """Change the dataset's configuration; with the number of the version that this published, if any."""
    if not changes and dataset.configuration.num_classes:
        return dataset, None  # there is nothing to change, and nothing to infer
    from statsvc.store.publication import configure
    from statsvc.store.reconfigure import configuration_change

    change = configuration_change(catalog, home.store, dataset, changes)
    configured, record = configure(catalog, home.store, dataset, change)
    if record is None or record.kind != "configuration" or record.number == dataset.current_number:
        return configured, None
    return configured, record.number


def _location(source: str) -> tuple[str, str | None]:
    """Return the folder or URL of a source and, for a single file, the pattern that matches only it."""
    if not is_url(source) and Path(source).expanduser().is_dir():
        return _resolved(source), None
    from statsvc_workers.sources.sources import open_source, single_file_source  # not for a folder

    if is_url(source):
        file = single_file_source(source)
        return (normalized(source), None) if file is None else (file.root, file.pattern)
    opened = open_source(source, None, trusted=True)
    return _resolved(opened.root), opened.pattern


def _resolved(source: str) -> str:
    """Return a source for comparison: a path without symbolic links, a URL unchanged."""
    return source if is_url(source) else str(Path(source).expanduser().resolve())


def _find_by_name(
    catalog: Catalog,
    name: str,
    location: tuple[str, str | None] | None,
    pattern: str | None,
    *,
    move: bool,
    trusted: bool,
    before_reading: Callable[[], None] = lambda: None,
) -> Dataset | None:
    """Return the dataset of that name; its source and pattern must equal those of the command.

    They are changed instead with `move`, or where the pattern was never inferred.
    """
    dataset = next((dataset for dataset in catalog.datasets() if dataset.name == name), None)
    if dataset is None or (location is None and pattern is None):
        if move:
            raise NotFound(f"There is no dataset {name!r} to move. Omit --move to register it.")
        return dataset
    folder, file_pattern = location or (None, None)
    new_pattern = file_pattern or pattern
    if dataset.source is None:
        raise Conflict(f"{name} contains imported counts. Choose another name with --name.")
    if move or (dataset.pattern is None and folder in (None, _resolved(dataset.source))):
        before_reading()
        return _move(catalog, dataset, folder, new_pattern, trusted=trusted)
    advice = f"Choose another name with --name or, if the dataset has moved, add --name {name} --move."
    if folder is not None and _resolved(dataset.source) != folder:
        raise Conflict(f"The source of {name} is {dataset.source}, not {folder}. {advice}")
    if new_pattern != dataset.pattern and (new_pattern is not None or _is_file(dataset)):
        raise Conflict(f"{name} counts the files {dataset.pattern!r} in {dataset.source}. {advice}")
    return dataset


def _move(
    catalog: Catalog, dataset: Dataset, folder: str | None, pattern: str | None, *, trusted: bool
) -> Dataset:
    """Change the source or pattern of a dataset. Raises `SourceError` if no file matches."""
    from statsvc.store.reconfigure import change_source
    from statsvc_workers.sources.sources import open_source

    def choose(current: Dataset) -> tuple[str, str | None, Selection | None]:
        root = str(folder or current.source)
        new_pattern = pattern or (None if _is_file(current) else current.pattern)
        opened = open_source(root, new_pattern, current.configuration.counting, trusted=trusted)
        print_selection(opened.selection)
        return opened.root, opened.pattern, opened.selection

    return change_source(catalog, dataset, choose)


def print_selection(selection: Selection | None) -> None:
    """Print on stderr which files are counted and which are skipped, if the source was inspected."""
    for line in selection.lines() if selection is not None else ():
        echo(f"statsvc: {printable(line)}", err=True)


def _find_by_location(
    catalog: Catalog, location: tuple[str, str | None] | None, pattern: str | None
) -> Dataset | None:
    """Return the dataset with that source and pattern; a usage error if there are several."""
    if location is None:
        return None
    folder, file_pattern = location
    wanted = file_pattern or pattern
    matches = [
        dataset
        for dataset in catalog.datasets()
        if dataset.source is not None
        and _resolved(dataset.source) == folder
        and (dataset.pattern == wanted if wanted is not None else not _is_file(dataset))
    ]
    if len(matches) > 1:
        names = ", ".join(dataset.name for dataset in matches)
        raise click.UsageError(f"Several datasets have the source {folder}. Add --name with one of: {names}")
    return matches[0] if matches else None


def _is_file(dataset: Dataset) -> bool:
    """Return whether the pattern is the escaped name of one file; `/*.png` matches the files of a folder."""
    pattern = dataset.pattern
    return pattern is not None and pattern.startswith("/") and not re.search(r"(?<!\\)[*?{\[]", pattern)


def default_name(root: str) -> str:
    """Return a dataset name made from its folder or URL: `camvid-train` for `…/camvid/train`."""
    url = urlsplit(root)
    folder = PurePosixPath(url.netloc + unquote(url.path)) if is_url(root) else Path(root).resolve()
    parts = [folder.name]
    if folder.name.lower() in GENERIC_FOLDERS and folder.parent.name:
        parts.insert(0, folder.parent.name)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)).strip("-._")
    return name[:MAX_NAME_LENGTH] or "dataset"
