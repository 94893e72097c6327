"""Answers to weights requests from the local home, and their warnings on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from statsvc.cli._echo import echo
from statsvc.cli._home import find_dataset
from statsvc.errors import Unanswerable
from statsvc.sampling import mixtures
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.classes.class_maps import ClassMap
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home
    from statsvc.store.versions.version import Version


def open_cached_table(
    home: Home, catalog: Catalog, name: str | None, number: int | str | None, class_map: ClassMap | None
) -> CachedTable:
    """Open a version of a dataset; its rows are read once for any number of requests.

    class_map  replaces the dataset's class map; None keeps it
    """
    from statsvc.store.publication import open_version
    from statsvc.store.reconfigure import apply_changes

    dataset = find_dataset(catalog, name)
    record = catalog.version(dataset, number)
    if class_map is not None:
        record = replace(record, configuration=apply_changes(record.configuration, {"class_map": class_map}))
    return CachedTable(open_version(home.store, dataset.name, record))


def answer_function(
    home: Home, catalog: Catalog, name: str | None, number: int | str | None, class_map: ClassMap | None
) -> Callable[[WeightSpec], dict[str, Any]]:
    """Return a function that answers weights requests about a dataset or a mixture.

    class_map  replaces the dataset's class map; None keeps it
    """
    from statsvc.sampling.weights import weights_response

    components = mixtures.parse(name)
    if components is None:
        table = open_cached_table(home, catalog, name, number, class_map)
        return lambda spec: weights_response(table, spec)
    mixture = [
        (
            open_cached_table(home, catalog, component.dataset, component.number, class_map),
            component.share,
        )
        for component in components
    ]
    return lambda spec: weights_response(mixture, spec)


def default_answer(table: Version) -> dict[str, Any] | None:
    """Return the default weights of a version; None, with the reason on stderr, where there are none."""
    from statsvc.sampling.weights import weights_response

    try:
        return weights_response(table, WeightSpec())
    except Unanswerable as error:
        echo(f"statsvc: no weights: {error}", err=True)
        return None


def print_warnings(answer: Mapping[str, Any]) -> None:
    """Print the warnings of an answer on stderr."""
    for warning in answer["warnings"]:
        echo(f"statsvc: {warning['message']}", err=True)


def print_failing_scans(catalog: Catalog, name: str | None) -> None:
    """Print on stderr if the counts of a dataset are old because its scans fail."""
    from statsvc.store.catalog import operations

    dataset = find_dataset(catalog, name)
    if dataset.current_number is None:
        return
    counted_at = catalog.version(dataset).created_at
    if (reason := operations.read(catalog).stale_counts(dataset.uid, counted_at)) is not None:
        echo(f"statsvc: {reason}; see: statsvc jobs --dataset {dataset.name} --state failed", err=True)
