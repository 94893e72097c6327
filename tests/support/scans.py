"""Scans in this process through the real catalog, version store and cluster, compared with NumPy's counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from statsvc.store.versions.open_location import open_location
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress
from statsvc_workers.processes.stalls import STALL_TIMEOUT
from support.label_maps import expected_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.version import Version
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.lease import Outcome


@dataclass
class Workspace:
    """A home directory with a catalog and a version store, and the cluster that counts for it."""

    home: Path
    catalog: Catalog
    cluster: Cluster
    device: str = "cpu"
    roots: tuple[str, ...] | None = None
    stall_timeout: float = STALL_TIMEOUT

    @property
    def files(self) -> Path:
        """The folder of the version store."""
        return self.home / "versions"

    @property
    def store(self) -> Location:
        return open_location(str(self.files))

    def add(self, folder: Path, name: str = "streets", **configuration: Any) -> Dataset:
        """Register a folder of PNG label maps."""
        return self.catalog.create_dataset(name, str(folder), "*.png", Configuration(**configuration))

    def lease(self, name: str = "streets", **options: Any) -> Job:
        """Submit a job and lease it for this process."""
        job = jobs.submit_leased(self.catalog, self.catalog.dataset(name), jobs.process_identity(), **options)
        assert job is not None
        return job

    def scan(
        self,
        name: str = "streets",
        stop: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
        **options: Any,
    ) -> tuple[Outcome, Job]:
        """Submit a job and run one attempt; return its outcome and the job's row afterwards."""
        job = self.lease(name, **options)
        return self.run(job, stop, progress), jobs.get(self.catalog, job.id)

    def run(
        self, job: Job, stop: Callable[[], bool] = lambda: False, progress: Progress | None = None
    ) -> Outcome:
        """Run one attempt of a leased job."""
        settings = Settings(
            device=self.device, roots=self.roots, only_roots=True, stall_timeout=self.stall_timeout
        )
        return execute(self.catalog, self.store, job, self.cluster, settings, progress or Progress(), stop)

    def version(self, name: str = "streets", number: int | None = None) -> Version:
        """Open a version, by default the current one. Nothing is cached: each call reads the store again."""
        dataset = self.catalog.dataset(name)
        return open_version(self.store, name, self.catalog.version(dataset, number))

    def record(self, name: str = "streets") -> VersionRecord:
        """Return the catalog's record of the current version."""
        return self.catalog.version(self.catalog.dataset(name))

    def groups(self) -> set[str]:
        """Return the Zarr groups in the store, as the catalog names them."""
        return {
            str(folder.relative_to(self.files))
            for folder in self.files.glob("*/*")
            if folder.is_dir() and folder.name != "parts"
        }


def scan_numbers(outcome: Outcome) -> Mapping[str, int]:
    """Return how many samples a scan counted, reused, removed, could not read, and recovered."""
    progress = outcome.progress
    return {name: getattr(progress, name) for name in ("counted", "reused", "removed", "failed", "recovered")}


def assert_matches_folder(version: Version, folder: Path) -> None:
    """Compare every array of a version with what NumPy counts in the folder now."""
    expected = expected_counts(folder)
    paths = sorted([*expected.counts, *expected.failed])
    assert version.array("path").tolist() == paths
    assert version.array("class_id").tolist() == expected.ids
    table = expected.table()
    readable = version.array("status") == 0
    assert [path for path, ok in zip(paths, readable, strict=True) if not ok] == expected.failed
    counts = np.concatenate([block.counts for block in version.blocks()])
    np.testing.assert_array_equal(counts[readable], table)
    assert not counts[~readable].any()
    np.testing.assert_array_equal(version.array("pixels")[readable], table.sum(axis=1))
    assert version.array("class_pixels").tolist() == table.sum(axis=0).tolist()
    assert version.array("class_images").tolist() == (table > 0).sum(axis=0).tolist()
    cooccurrence = [table[table[:, c] > 0].sum(axis=0).tolist() for c in range(len(expected.ids))]
    assert version.array("cooccurrence").tolist() == cooccurrence
    version.verify()


def counts_by_path(table: Any) -> dict[str, dict[int, int]]:
    """Return {path: {raw id: pixels}} of all samples of a version or a `Table`."""
    class_ids = table.totals().class_id.tolist()
    rows = {}
    for block in table.blocks():
        for path, row in zip(block.path, block.counts.tolist(), strict=True):
            rows[path] = {i: n for i, n in zip(class_ids, row, strict=True) if n}
    return rows


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One worker process for all tests of a file. It starts when the first sample is counted."""
    local_cluster = LocalCluster(workers=1)
    yield local_cluster
    local_cluster.close()


@pytest.fixture
def workspace(tmp_path: Path, cluster: LocalCluster) -> Iterator[Workspace]:
    """An empty catalog and version store in the test's temporary folder."""
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    yield Workspace(tmp_path / "home", catalog, cluster)
    catalog.close()
