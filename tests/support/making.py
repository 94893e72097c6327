"""Folders of label maps, scans of them through the real store and cluster, and what NumPy says they hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from statsvc.store.versions.open_location import open_location
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc.store.catalog.records import Dataset, Job, VersionRecord
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.version import Version
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.lease import Outcome

FILES = 12
"""Label maps in a folder that `write_folder` makes."""


def write_png(file: Path, labels: NDArray[Any]) -> Path:
    """Write a label map as PNG with Pillow: 8 bits a pixel, or 16 where it holds uint16."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(file)
    return file


def random_labels(seed: int, classes: int = 6, shape: tuple[int, int] = (16, 24)) -> NDArray[np.uint8]:
    """Return a label map in which the first classes are the most frequent, with some 255."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, shape) - 1, classes - 1).astype(np.uint8)
    labels[0, : int(rng.integers(0, shape[1]))] = 255
    return labels


def write_folder(folder: Path, seed: int = 0, files: int = FILES) -> Path:
    """Write label maps `train/00.png`, `val/01.png`, … and return the folder."""
    for number in range(files):
        part = "val" if number % 4 == 3 else "train"
        write_png(folder / part / f"{number:02}.png", random_labels(1000 * seed + number))
    return folder


def settle_files(folder: Path) -> None:
    """Wait until every file was last changed more than the 2 s ago that make a row racy."""
    newest = max(file.stat().st_ctime for file in folder.rglob("*"))
    time.sleep(max(0.0, newest + 2.05 - time.time()))


@dataclass(frozen=True)
class Oracle:
    """What a folder of label maps holds, by `numpy.unique` over each file that Pillow can read.

    counts      {path: {raw id: pixels}}, in path order
    failed      paths that Pillow cannot read, or whose values are no labels
    """

    counts: dict[str, dict[int, int]]
    failed: list[str]

    @property
    def ids(self) -> list[int]:
        return sorted({raw for row in self.counts.values() for raw in row})

    def table(self) -> NDArray[np.int64]:
        """Return int64 [samples, ids], failed samples left out."""
        rows = [[row.get(raw, 0) for raw in self.ids] for row in self.counts.values()]
        return np.array(rows, np.int64).reshape(len(self.counts), len(self.ids))


def oracle(folder: Path, pattern: str = "*.png") -> Oracle:
    """Count every file now in the folder."""
    counts: dict[str, dict[int, int]] = {}
    failed = []
    for file in sorted(folder.rglob(pattern), key=lambda file: file.relative_to(folder).as_posix()):
        path = file.relative_to(folder).as_posix()
        try:
            with Image.open(file) as image:
                values, pixels = np.unique(np.asarray(image), return_counts=True)
        except (OSError, SyntaxError, ValueError):
            failed.append(path)
            continue
        counts[path] = {int(v): int(n) for v, n in zip(values, pixels, strict=True)}
    return Oracle(counts, failed)


def assert_exact(version: Version, folder: Path) -> None:
    """Compare every array of a version with what NumPy counts in the folder now."""
    expected = oracle(folder)
    paths = sorted([*expected.counts, *expected.failed])
    assert version.array("path").tolist() == paths
    assert version.array("class_id").tolist() == expected.ids
    table = expected.table()
    good = version.array("status") == 0
    assert [path for path, ok in zip(paths, good, strict=True) if not ok] == expected.failed
    counts = np.concatenate([block.counts for block in version.blocks()])
    np.testing.assert_array_equal(counts[good], table)
    assert not counts[~good].any()
    np.testing.assert_array_equal(version.array("pixels")[good], table.sum(axis=1))
    assert version.array("class_pixels").tolist() == table.sum(axis=0).tolist()
    assert version.array("class_images").tolist() == (table > 0).sum(axis=0).tolist()
    cooccurrence = [table[table[:, c] > 0].sum(axis=0).tolist() for c in range(len(expected.ids))]
    assert version.array("cooccurrence").tolist() == cooccurrence
    version.verify()


@dataclass
class Place:
    """A catalog and a store in one folder, and the cluster that counts for them."""

    home: Path
    catalog: Catalog
    cluster: Cluster
    device: str = "cpu"

    @property
    def files(self) -> Path:
        """The folder of the store's files."""
        return self.home / "versions"

    @property
    def store(self) -> Location:
        return open_location(str(self.files))

    def add(self, folder: Path, name: str = "streets", **configuration: Any) -> Dataset:
        """Register a folder of PNG label maps."""
        return self.catalog.create_dataset(name, str(folder), "*.png", Configuration(**configuration))

    def lease(self, name: str = "streets", **options: Any) -> Job:
        """Submit a job that this process runs."""
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
        """Run one job to its end; return how it went and its row then."""
        job = self.lease(name, **options)
        return self.run(job, stop, progress), jobs.get(self.catalog, job.id)

    def run(
        self, job: Job, stop: Callable[[], bool] = lambda: False, progress: Progress | None = None
    ) -> Outcome:
        """Run a leased job to its end."""
        settings = Settings(device=self.device)
        return execute(self.catalog, self.store, job, self.cluster, settings, progress or Progress(), stop)

    def version(self, name: str = "streets", number: int | None = None) -> Version:
        """Open a version, by default the current one, as from a new process: nothing is remembered."""
        dataset = self.catalog.dataset(name)
        return open_version(self.store, name, self.catalog.version(dataset, number))

    def record(self, name: str = "streets") -> VersionRecord:
        return self.catalog.version(self.catalog.dataset(name))

    def groups(self) -> set[str]:
        """Return the groups that lie in the store, as the catalog names them."""
        return {
            str(folder.relative_to(self.files))
            for folder in self.files.glob("*/*")
            if folder.is_dir() and folder.name != "parts"
        }


def done(outcome: Outcome) -> Mapping[str, int]:
    """Return the numbers of a scan that tests look at most."""
    progress = outcome.progress
    return {name: getattr(progress, name) for name in ("counted", "reused", "removed", "failed", "recovered")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Worker processes, of which tests of one file share one, started when something is counted."""
    made = LocalCluster(workers=1)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path, cluster: LocalCluster) -> Iterator[Place]:
    """A catalog and a store of the test's own."""
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    yield Place(tmp_path / "home", catalog, cluster)
    catalog.close()
