"""Publish imported counts as a version: totals, or rows if the counts of each sample are known."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from statsvc.dataset import splits
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.num_classes import infer_num_classes
from statsvc.errors import Conflict, NotFound
from statsvc.store.catalog.catalog import check_name, new_uid
from statsvc.store.catalog.records import NewVersion
from statsvc.store.import_files import SampleCounts
from statsvc.store.publication import IMPORTED, publish
from statsvc.store.reconfigure import apply_changes, check_class_names
from statsvc.store.versions.arrays import ATTRIBUTES, PLACE, ROWS_PER_CHUNK, SAMPLE_ARRAYS
from statsvc.store.versions.attributes import IMPORT_PREFIX
from statsvc.store.versions.checkpoints import CountedRows, blank
from statsvc.store.versions.writer import VersionWriter, strings, write_totals
from statsvc.store.versions.zarr_files import create_group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from statsvc.dataset.histogram import Histogram
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc.store.versions.location import Location


def import_counts(
    catalog: Catalog, store: Location, name: str, counts: Histogram | SampleCounts, changes: Mapping[str, Any]
) -> VersionRecord:
    """Publish counts as the next version of a dataset, which is created if it does not exist.

    changes  fields of the configuration, as `statsvc.store.reconfigure.apply_changes` takes them

    Raises `Conflict` for a dataset whose label maps are scanned, `InvalidParameter` for an inconsistent
    configuration, `Unanswerable` if the number of classes cannot be inferred from the ids.
    """
    dataset = _imported_dataset(catalog, name)
    before = Configuration() if dataset is None else dataset.configuration
    occurring = _occurring_ids(counts)
    configuration = _complete(check_class_names(apply_changes(before, changes)), counts, occurring)
    if dataset is None:
        check_name(name)
    store.create()
    uid = new_uid() if dataset is None else dataset.uid
    uri = f"{uid}/{IMPORT_PREFIX}{uuid.uuid4().hex}"
    try:
        totals, digests = _write(store / uri, counts, occurring)
        if dataset is None:
            # Only now, because a store that cannot be written must not leave an empty dataset.
            dataset = catalog.create_dataset(name, None, None, configuration, uid)
    except BaseException:
        (store / uri).remove()
        raise
    new = NewVersion(
        kind="import",
        group_uri=uri,
        arrays_uri=uri,
        configuration=configuration,
        reader=IMPORTED,
        digests=digests,
        samples=len(counts.path) if isinstance(counts, SampleCounts) else counts.samples,
        failed=0,
        pixels=int(np.sum(totals.pixels)),
    )
    return publish(catalog, store, dataset, new)


def _imported_dataset(catalog: Catalog, name: str) -> Dataset | None:
    """Return the dataset to import into, or None if it does not exist yet."""
    try:
        dataset = catalog.dataset(name)
    except NotFound:
        return None
    if dataset.source is not None:
        raise Conflict(
            f"counts cannot be imported into {name}, because it is counted from {dataset.source}; "
            "choose another name"
        )
    return dataset


def _occurring_ids(counts: Histogram | SampleCounts) -> NDArray[np.int64]:
    """Return the raw ids with at least one pixel, int64 [K], ascending."""
    return np.unique(counts.ids) if isinstance(counts, SampleCounts) else counts.class_id[counts.pixels > 0]


def _complete(
    configuration: Configuration, counts: Histogram | SampleCounts, occurring: NDArray[np.int64]
) -> Configuration:
    """Detect the splits and infer the number of classes, if the configuration leaves them open."""
    if isinstance(counts, SampleCounts) and not configuration.splits:
        configuration = replace(configuration, splits=splits.detect(counts.path))
    if configuration.num_classes == 0:
        classes = infer_num_classes(occurring, configuration)
        configuration = check_class_names(replace(configuration, num_classes=classes))
    return configuration


def _write(
    location: Location, counts: Histogram | SampleCounts, occurring: NDArray[np.int64]
) -> tuple[Histogram, dict[str, str]]:
    """Write the arrays of the new group; return the totals and the digests."""
    if isinstance(counts, SampleCounts):
        return _write_rows(location, counts, occurring)
    create_group(location, {ATTRIBUTES: {}})
    return counts, write_totals(location, counts)


def _write_rows(
    location: Location, counts: SampleCounts, class_id: NDArray[np.int64]
) -> tuple[Histogram, dict[str, str]]:
    """Write one row per sample. Unknown values (file size, shape, fingerprint) are zero."""
    sparse = CountedRows.without_grid({}, counts.offsets, counts.ids, counts.counts)
    writer = VersionWriter(location, class_id, len(counts.path), {})
    for start in range(0, len(counts.path), ROWS_PER_CHUNK):
        paths = counts.path[start : start + ROWS_PER_CHUNK]
        dense = sparse.dense(np.arange(start, start + len(paths)), class_id)
        columns = blank(len(paths)) | {"etag": np.full(len(paths), "", object)}
        columns |= {"path": strings(paths), "pixels": dense.sum(axis=1)}
        del columns[PLACE]  # imported counts have no positions
        assert set(columns) == set(SAMPLE_ARRAYS)
        writer.append(columns, dense)
    return writer.finish()
