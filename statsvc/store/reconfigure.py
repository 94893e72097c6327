"""Change a dataset's configuration or source, and check that the result is consistent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc.common.plurals import plural
from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable
from statsvc.dataset import splits
from statsvc.dataset.num_classes import infer_num_classes
from statsvc.errors import Conflict, Inapplicable, InvalidParameter
from statsvc.store.catalog.catalog import Stale
from statsvc.store.publication import configure, open_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.selection import Selection
    from statsvc.dataset.splits import Split
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.versions.location import Location


_FOLD = re.compile(r"fold[0-9]+_(train|val)")
"""Names of the splits of folds."""


def apply_changes(configuration: Configuration, changes: Mapping[str, Any]) -> Configuration:
    """Return the configuration with changed fields; None resets a field to its default.

    `grid` is the field of `counting`.

    `num_classes` 0 means that it is to be inferred. A different class map also resets the class names, the
    number of classes and the ignored ids, unless `changes` sets them. Raises `InvalidParameter` if the fields
    contradict each other, or contain text that cannot be encoded as UTF-8.
    """
    values = dict(changes)
    if "grid" in values:
        values["counting"] = replace(configuration.counting, grid=values.pop("grid"))
    if "class_map" in values and values["class_map"] != configuration.class_map:
        values = {"class_names": None, "ignore_index": None, "num_classes": None} | values
    values["notes"] = {name: text for name, text in configuration.notes.items() if name not in values}
    empty: dict[str, Any] = {"class_names": (), "num_classes": 0, "splits": {}, "groups": {}}
    for name, value in empty.items():
        if name in values and values[name] is None:
            values[name] = value
    result = replace(configuration, **values)
    unencodable = [
        (name, NOT_ENCODABLE) for name, value in result.to_dict().items() if not is_encodable(value)
    ]
    if unencodable:
        raise InvalidParameter(*unencodable)
    return result


def check_class_names(configuration: Configuration) -> Configuration:
    """Return the configuration. Raises `Inapplicable` if it has more class names than classes."""
    names, classes = len(configuration.class_names), configuration.num_classes
    if classes and names > classes:
        raise Inapplicable(
            (
                "class_names",
                f"there are {names} names for {plural(classes, 'class')} (ids 0 to {classes - 1}); "
                "set num_classes as well",
            )
        )
    return configuration


def configuration_change(
    catalog: Catalog, store: Location, dataset: Dataset, changes: Mapping[str, Any]
) -> Callable[[Configuration], Configuration]:
    """Return the function that `statsvc.store.publication.configure` applies to a configuration.

    If `changes` resets the number of classes or the splits, they are inferred from the version that is
    current when the change is made.
    """

    def change(configuration: Configuration) -> Configuration:
        result = apply_changes(configuration, changes)
        current = catalog.dataset_by_uid(dataset.uid)
        if current.current_number is None:
            return check_class_names(result)
        record = catalog.version(current)
        table = open_version(store, current.name, replace(record, configuration=result))
        if not result.splits and table.has_rows and changes.get("splits", ...) is None:
            result = replace(result, splits=splits.detect(table.array("path").tolist()))
        if changes.get("splits") and table.has_rows:
            splits.check_not_empty(changes["splits"], table.array("path").tolist())
        if not result.num_classes and table.exact:
            totals = table.totals()
            occurring = totals.class_id[totals.pixels > 0]
            result = replace(result, num_classes=infer_num_classes(occurring, result))
        return check_class_names(result)

    return change


def add_splits(
    catalog: Catalog, store: Location, dataset: Dataset, added: Mapping[str, Split], *, replace_existing: bool
) -> VersionRecord | None:
    """Add splits to a dataset's configuration, which publishes a version over the same counts.

    Returns the dataset's version after the change. Raises `Conflict` if one of the names has another split,
    unless `replace_existing`; folds that the added ones replace are removed, also those with higher numbers.
    """

    def change(configuration: Configuration) -> Configuration:
        present = configuration.splits
        different = [name for name in added if name in present and present[name] != added[name]]
        if different and not replace_existing:
            raise Conflict(
                f"{dataset.name} already has other splits named {', '.join(different)}. Replace them "
                "(--replace), or choose other names"
            )
        new_folds = any(_FOLD.fullmatch(name) for name in different)
        kept = {name: split for name, split in present.items() if not (new_folds and _FOLD.fullmatch(name))}
        return replace(configuration, splits={**kept, **added})

    return configure(catalog, store, dataset, change)[1]


def change_source(
    catalog: Catalog, dataset: Dataset, choose: Callable[[Dataset], tuple[str, str | None, Selection | None]]
) -> Dataset:
    """Change the source and the pattern that the dataset's next job lists.

    `choose` returns them for the state of the dataset when the change is made, with what was found at the
    source if it was inspected. Raises `Conflict` for imported counts.
    """
    while True:
        if dataset.source is None:
            raise Conflict(f"{dataset.name} contains imported counts, so it has no source to change")
        source, pattern, selection = choose(dataset)
        if (source, pattern) == (dataset.source, dataset.pattern):
            return dataset
        try:
            return catalog.set_source(dataset, source, pattern, selection)
        except Stale as stale:
            dataset = stale.dataset
