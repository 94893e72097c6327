"""Changing how a dataset is read, by a request or on the command line: the parts must fit each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable
from statsvc.dataset import splits
from statsvc.dataset.num_classes import infer_num_classes
from statsvc.errors import Conflict, InvalidParameter
from statsvc.store.catalog.catalog import Stale
from statsvc.store.publication import open_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset
    from statsvc.store.versions.location import Location


def applied(configuration: Configuration, changes: Mapping[str, Any]) -> Configuration:
    """Return a configuration with changes; 0 classes where they are to be settled anew.

    With another class map, the names, the number of classes and the ignored ids that are not given
    as well no longer apply. Raises `InvalidParameter` where the parts do not fit each other, or hold text
    that cannot be stored.
    """
    values = dict(changes)
    if "class_map" in values and values["class_map"] != configuration.class_map:
        values = {"class_names": None, "ignore_index": None, "num_classes": None} | values
    empty: dict[str, Any] = {"class_names": (), "num_classes": 0, "splits": {}}
    for name, value in empty.items():
        if name in values and values[name] is None:
            values[name] = value
    result = replace(configuration, **values)
    halves = [(name, NOT_ENCODABLE) for name, value in result.to_dict().items() if not is_encodable(value)]
    if halves:
        raise InvalidParameter(*halves)
    return result


def fitting(configuration: Configuration) -> Configuration:
    """Return the configuration. Raises `InvalidParameter` where it has more names than classes."""
    names, classes = len(configuration.class_names), configuration.num_classes
    if classes and names > classes:
        raise InvalidParameter(
            (
                "class_names",
                f"{names} names for {classes} classes (ids 0 to {classes - 1}); give num_classes too",
            )
        )
    return configuration


def changed(
    catalog: Catalog, store: Location, dataset: Dataset, changes: Mapping[str, Any]
) -> Callable[[Configuration], Configuration]:
    """Return the change that `statsvc.store.publication.configure` makes.

    What null leaves to the label maps, the number of classes and the splits, is settled from the
    version that is current when the change is made.
    """

    def change(configuration: Configuration) -> Configuration:
        wanted = applied(configuration, changes)
        now = catalog.dataset_by_uid(dataset.uid)
        if now.current_number is None:
            return fitting(wanted)
        record = catalog.version(now)
        table = open_version(store, now.name, replace(record, configuration=wanted))
        if not wanted.splits and table.has_rows and changes.get("splits", ...) is None:
            wanted = replace(wanted, splits=splits.detect(table.array("path").tolist()))
        if not wanted.num_classes:
            totals = table.totals()
            occurring = totals.class_id[totals.pixels > 0]
            wanted = replace(wanted, num_classes=infer_num_classes(occurring, wanted))
        return fitting(wanted)

    return change


def moved(catalog: Catalog, dataset: Dataset, choose: Callable[[Dataset], tuple[str, str | None]]) -> Dataset:
    """Say that a dataset's label maps are elsewhere, or are other files: what its next job lists.

    `choose` returns source and pattern from the dataset as it is when the change is made. Raises
    `Conflict` for imported counts.
    """
    while True:
        if dataset.source is None:
            raise Conflict(f"{dataset.name} is a table of imported counts: it has no source to change")
        source, pattern = choose(dataset)
        if (source, pattern) == (dataset.source, dataset.pattern):
            return dataset
        try:
            return catalog.set_source(dataset, source, pattern)
        except Stale as stale:
            dataset = stale.dataset
