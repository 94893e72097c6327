"""Datasets with several versions, and which versions still have rows after gc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.splits import detect
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home
    from support.stores import StoredFiles

SPLITS = detect(label_maps())


def publish_versions(home: Home, versions: int, name: str = "street", **configuration: Any) -> None:
    """Publish versions of a dataset. Each has different label maps and one sample that cannot be read."""
    for number in range(versions):
        maps: dict[str, np.ndarray[Any, Any] | str] = {**label_maps(number), "train/bad.png": "cut off"}
        maps["val/ids.png"] = np.full((2, 3), 9, np.uint8)
        options: dict[str, Any] = {"num_classes": 4, "splits": SPLITS} | configuration
        publish(home, name, maps, **options)


def versions_with_rows(stored_files: StoredFiles, catalog: Catalog, name: str = "street") -> list[int]:
    """Return the numbers of the versions whose rows are in the version store, ascending."""
    groups = {name.partition("/counts/")[0] for name in stored_files.names() if "/counts/" in name}
    return sorted(v.number for v in catalog.versions(catalog.dataset(name), 100) if v.arrays_uri in groups)
