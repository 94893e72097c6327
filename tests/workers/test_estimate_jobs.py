"""Jobs that count a sample of the label maps: which files they open, their sizes, and unusual sources."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.errors import Conflict
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster import worth
from statsvc_workers.cluster.local_cluster import LocalCluster
from support.label_maps import write_png
from support.scans import Workspace, assert_matches_folder, scan_numbers
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = 450

NOTHING = dict.fromkeys(("counted", "reused", "removed", "failed", "recovered"), 0)

_recorded: list[Counter[str]] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _recorded and isinstance(arguments[0], str):
        _recorded[-1][arguments[0]] += 1


@pytest.fixture(scope="module")
def audited() -> None:
    """Record each file that this process opens, with an audit hook, which cannot be removed."""
    sys.addaudithook(_record)


@contextmanager
def opened_in(folder: Path) -> Iterator[Counter[str]]:
    """Yield how often each file below a folder was opened, complete at the end."""
    everything: Counter[str] = Counter()
    below: Counter[str] = Counter()
    _recorded.append(everything)
    try:
        yield below
    finally:
        _recorded.remove(everything)
        for path, times in everything.items():
            if path.startswith(f"{folder}/"):
                below[Path(path).name] += times


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(0)
    for number in range(IMAGES):
        label = np.zeros((8, 8), np.uint8)
        label[: rng.integers(1, 8)] = 1
        write_png(root / f"{number:03}.png", label)
    wait_until_stable(root)
    return root


def names(workspace: Workspace) -> set[str]:
    return {Path(path).name for path in workspace.version().array("path").tolist()}


@pytest.fixture
def audited_workspace(audited: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Yield a workspace that counts in this process, where the audit hook is."""
    monkeypatch.setattr(worth, "MEASURED_SECONDS", 600.0)  # no worker process is started
    unused, catalog = LocalCluster(workers=1), Catalog.open(f"sqlite:///{tmp_path / 'audited.sqlite'}")
    yield Workspace(tmp_path / "audited", catalog, unused)
    catalog.close()
    unused.close()


def test_completing_an_estimate_opens_no_file_that_was_counted(
    audited_workspace: Workspace, folder: Path
) -> None:
    workspace = audited_workspace
    workspace.add(folder)
    workspace.scan(estimate={"samples": 60})
    sample = names(workspace)
    assert len(sample) == 60
    with opened_in(folder) as opened:
        workspace.scan()
    assert opened.keys() == {path.name for path in folder.iterdir()} - sample
    assert workspace.version().sampled_from is None
    assert_matches_folder(workspace.version(), folder)


def test_a_pilot_is_counted_once_and_completed_without_it(workspace: Workspace, folder: Path) -> None:
    workspace.add(folder)
    outcome, _ = workspace.scan(estimate={"relative_error": 0.5, "confidence": 0.5})
    # The job recovers the rows of its pilot from its checkpoints.
    assert scan_numbers(outcome) == NOTHING | {"counted": 400, "recovered": 400}
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome) == NOTHING | {"counted": IMAGES - 400, "reused": 400}
    assert_matches_folder(workspace.version(), folder)


def test_queued_estimates_merge_to_the_larger_sample(workspace: Workspace, folder: Path) -> None:
    dataset = workspace.add(folder)
    for size in (30, 50, 40):
        merged, _ = jobs.submit(workspace.catalog, dataset, estimate={"samples": size})
    assert merged.estimate == {"samples": 50}
    _, job = workspace.scan(estimate={"samples": 20})
    assert (job.id, len(names(workspace))) == (merged.id, 50)


def test_a_number_and_an_error_merge_to_the_larger_of_both_samples(
    workspace: Workspace, folder: Path
) -> None:
    dataset = workspace.add(folder)
    loose = {"relative_error": 0.5, "confidence": 0.5}  # the pilot of 400 suffices
    jobs.submit(workspace.catalog, dataset, estimate=loose)
    _, job = workspace.scan(estimate={"samples": 420})
    assert job.estimate == {"samples": 420, **loose}
    assert len(names(workspace)) == 420
    # A later estimate never shrinks the sample.
    workspace.scan(estimate={"samples": 10})
    assert len(names(workspace)) == 420


def test_an_estimate_merged_with_a_scan_of_all_samples_is_exact(workspace: Workspace, folder: Path) -> None:
    dataset = workspace.add(folder)
    jobs.submit(workspace.catalog, dataset, estimate={"samples": 30})
    _, job = workspace.scan()
    assert job.estimate is None
    assert workspace.version().sampled_from is None
    with pytest.raises(Conflict, match="counts of all samples"):
        workspace.scan(estimate={"samples": 30})


@pytest.mark.parametrize(
    "estimate", [{"samples": 30}, {"samples": 10**6}, {"relative_error": 0.001, "confidence": 0.999}]
)
def test_a_sample_as_large_as_the_source_is_exact(
    workspace: Workspace, tmp_path: Path, estimate: dict[str, float]
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(30):
        write_png(folder / f"{number}.png", np.full((4, 4), number % 3, np.uint8))
    workspace.add(folder)
    _, job = workspace.scan(estimate=estimate)
    assert job.state == "succeeded"
    assert workspace.version().sampled_from is None
    assert_matches_folder(workspace.version(), folder)


@pytest.mark.parametrize("estimate", [{"samples": 5}, {"relative_error": 0.1, "confidence": 0.95}])
def test_an_estimate_of_unreadable_files_fails_and_names_one(
    workspace: Workspace, tmp_path: Path, estimate: dict[str, float]
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(410):
        (folder / f"{number:03}.png").write_bytes(b"no image")
    workspace.add(folder)
    _, job = workspace.scan(estimate=estimate)
    assert job.state == "failed"
    assert job.error is not None
    assert "could be read" in job.error
    assert ".png" in job.error
    assert workspace.catalog.dataset("streets").current_number is None


def test_one_class_that_is_everywhere_needs_only_the_pilot(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(420):
        write_png(folder / f"{number:03}.png", np.ones((4, 4), np.uint8))
    # The other ids are ignored, or merged into the class.
    write_png(folder / "a.png", np.full((4, 4), 255, np.uint8))
    workspace.add(folder)
    _, job = workspace.scan(estimate={"relative_error": 0.01, "confidence": 0.99})
    assert job.state == "succeeded"
    assert len(names(workspace)) == 400
    assert workspace.version().sampled_from == 421
