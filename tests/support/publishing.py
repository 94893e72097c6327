"""Versions of datasets from arrays, published through the real catalog and version store without a scan."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.configuration import Configuration
from statsvc.errors import NotFound
from statsvc.store import publication
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.writer import VersionWriter, strings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.testclient import TestClient

    from statsvc.store.catalog.records import VersionRecord
    from statsvc.store.home import Home


def label_maps(seed: int = 0, images: int = 6, classes: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    """Return {path: uint8 label map [8, 12]} below train/ and val/. The first row of each is 255."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1) ** 2
    maps = {}
    for number in range(images):
        labels = rng.choice(classes, (8, 12), p=share / share.sum()).astype(np.uint8)
        labels[0] = 255
        maps[f"{'val' if number % 3 == 2 else 'train'}/{number:03}.png"] = labels
    return maps


def publish(
    home: Home,
    name: str,
    maps: Mapping[str, np.ndarray[Any, Any] | str],
    source: str | None = None,
    **configuration: Any,
) -> VersionRecord:
    """Publish a version of a dataset; create the dataset if it does not exist.

    maps  {path: label map}; a string instead of a label map is the error message of a failed sample
    """
    catalog = Catalog.open(home.database)
    try:
        try:
            dataset = catalog.dataset(name)
        except NotFound:
            dataset = catalog.create_dataset(name, source or f"/labels/{name}", None, Configuration())
        ids = sorted({int(i) for m in maps.values() if not isinstance(m, str) for i in np.unique(m)})
        class_id = np.array(ids, np.int64)
        uri = f"{dataset.uid}/test-{uuid.uuid4().hex}"
        writer = VersionWriter(home.store / uri, class_id, len(maps), {})
        paths = sorted(maps)
        for start in range(0, len(paths), 2048):
            _append(writer, {path: maps[path] for path in paths[start : start + 2048]}, class_id)
        totals, digests = writer.finish()
        new = NewVersion(
            kind="scan",
            group_uri=uri,
            arrays_uri=uri,
            configuration=Configuration(**configuration) if configuration else dataset.configuration,
            reader="test",
            digests=digests,
            samples=len(maps),
            failed=writer.failed,
            pixels=int(totals.pixels.sum()),
        )
        return publication.publish(catalog, home.store, dataset, new)
    finally:
        catalog.close()


def _append(
    writer: VersionWriter, maps: Mapping[str, np.ndarray[Any, Any] | str], class_id: np.ndarray[Any, Any]
) -> None:
    arrays = [None if isinstance(m, str) else m for m in maps.values()]
    counts = np.zeros((len(maps), len(class_id)), np.int64)
    for row, labels in enumerate(arrays):
        if labels is not None:
            counts[row] = [int((labels == i).sum()) for i in class_id]
    numbers = np.arange(len(maps), dtype=np.int64)
    columns = {
        "path": strings(list(maps)),
        "size": 100 + numbers,
        "mtime_ns": numbers,
        "ctime_ns": numbers,
        "etag": strings([""] * len(maps)),
        "content": numbers.astype(np.uint64),
        "height": np.array([0 if a is None else a.shape[0] for a in arrays], np.int64),
        "width": np.array([0 if a is None else a.shape[1] for a in arrays], np.int64),
        "pixels": counts.sum(axis=1),
        "mode": np.zeros(len(maps), np.uint8),
        "status": np.array([a is None for a in arrays], np.uint8),
        "error": strings([m if isinstance(m, str) else "" for m in maps.values()]),
    }
    writer.append(columns, counts)


def refresh_catalog_state(client: TestClient) -> None:
    """Make an application in this process read the catalog now instead of at its next poll."""
    app: Any = client.app
    assert client.portal is not None
    client.portal.call(app.state.service.watcher.refresh)
