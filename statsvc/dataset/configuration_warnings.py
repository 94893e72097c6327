"""Warnings about a valid configuration that does not fit the label maps of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from statsvc.common.plurals import part_with_verb, plural
from statsvc.dataset.splits import path_stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.splits import Split


class TableWithPaths(Protocol):
    """A version's table, of which the per-sample array "path" can be read: strings [n], ascending."""

    configuration: Configuration
    has_rows: bool

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return a per-sample array by name. Raises `DamagedVersion`."""


def find_warnings(table: TableWithPaths) -> list[str]:
    """Return warnings about too few class names, and about listed splits whose entries match no sample.

    Raises `DamagedVersion` if the paths cannot be read.
    """
    configuration = table.configuration
    warnings = []
    names, classes = len(configuration.class_names), configuration.num_classes
    if 0 < names < classes:
        unnamed = f"class {names} has" if names == classes - 1 else f"classes {names} to {classes - 1} have"
        warnings.append(
            f"{plural(names, 'class name')} for {plural(classes, 'class')}: {unnamed} no name; give "
            f"{classes} names"
        )
    if table.has_rows and any(split.paths or split.names for split in configuration.splits.values()):
        paths = table.array("path").tolist()
        warnings += _unmatched_entries(configuration.splits.items(), paths)
    return warnings


def _unmatched_entries(splits: Iterable[tuple[str, Split]], paths: Sequence[str]) -> list[str]:
    known_paths = set(paths)
    warnings = []
    for name, split in splits:
        unmatched = sorted(split.paths - known_paths)
        if split.names:
            stems = {path_stem(path) for path in paths}
            unmatched += sorted(split.names - stems - {stem.rpartition("/")[2] for stem in stems})
        if unmatched:
            entries = len(split.paths | split.names)
            warnings.append(
                f"split {name}: {part_with_verb(len(unmatched), entries, 'path', 'is', 'are')} not in the "
                f"dataset, for instance {unmatched[0]}; write them relative to the source, such as {paths[0]}"
            )
    return warnings
