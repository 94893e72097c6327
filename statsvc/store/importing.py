"""Making a version of counts taken elsewhere: totals, or rows where the counts of each sample are known."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset import splits
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.num_classes import infer_num_classes
from statsvc.errors import Conflict, NotFound
from statsvc.store.catalog.catalog import NewVersion
from statsvc.store.import_files import SampleCounts
from statsvc.store.publication import IMPORTED, publish
from statsvc.store.reconfigure import applied, fitting
from statsvc.store.versions.arrays import ROWS_PER_CHUNK, SAMPLE_ARRAYS, create_group
from statsvc.store.versions.checkpoints import CountedRows, blank
from statsvc.store.versions.writer import VersionWriter, strings, write_totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.table import Histogram
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import VersionRecord
    from statsvc.store.versions.location import Location


def import_counts(
    catalog: Catalog, store: Location, name: str, counts: Histogram | SampleCounts, changes: Mapping[str, Any]
) -> VersionRecord:
    """Publish counts as the next version of a dataset, which is made where there is none.

    changes  parts of the configuration, as `statsvc.store.reconfigure.applied` takes them

    Raises `Conflict` for a dataset whose label maps are counted here, `InvalidParameter` for a
    configuration that does not fit, `Unanswerable` where the ids are no classes.
    """
    try:
        dataset = catalog.dataset(name)
    except NotFound:
        dataset = None
    if dataset is not None and dataset.source is not None:
        raise Conflict(f"{name} is counted from {dataset.source}; import into another name")
    before = Configuration() if dataset is None else dataset.configuration
    configuration = fitting(applied(before, changes))
    if isinstance(counts, SampleCounts):
        occurring = np.unique(counts.ids)
        if not configuration.splits:
            configuration = replace(configuration, splits=splits.detect(counts.path))
    else:
        occurring = counts.class_id[counts.pixels > 0]
    if configuration.num_classes == 0:
        classes = infer_num_classes(occurring, configuration)
        configuration = fitting(replace(configuration, num_classes=classes))
    if dataset is None:
        dataset = catalog.create_dataset(name, None, None, configuration)
    store.make()
    uri = f"{dataset.uid}/import-{uuid.uuid4().hex}"
    try:
        if isinstance(counts, SampleCounts):
            totals, digests = _write_rows(store / uri, counts, occurring)
            samples: int | None = len(counts.path)
        else:
            group = create_group(store / uri, {})
            with store.answering():
                totals, digests = counts, write_totals(group, counts)
            samples = counts.samples
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
        samples=samples,
        failed=0,
        pixels=int(np.sum(totals.pixels)),
    )
    return publish(catalog, store, dataset, new)


def _write_rows(
    folder: Location, counts: SampleCounts, class_id: np.ndarray[Any, Any]
) -> tuple[Histogram, dict[str, str]]:
    """Write one row a sample. What a count does not tell, size, shape and fingerprint, is zero."""
    sparse = CountedRows({}, counts.offsets, counts.ids, counts.counts)
    writer = VersionWriter(folder, class_id, len(counts.path), {})
    for start in range(0, len(counts.path), ROWS_PER_CHUNK):
        paths = counts.path[start : start + ROWS_PER_CHUNK]
        dense = sparse.dense(np.arange(start, start + len(paths)), class_id)
        columns = blank(len(paths)) | {"etag": np.full(len(paths), "", object)}
        columns |= {"path": strings(paths), "pixels": dense.sum(axis=1)}
        assert set(columns) == set(SAMPLE_ARRAYS)
        writer.append(columns, dense)
    return writer.finish()
