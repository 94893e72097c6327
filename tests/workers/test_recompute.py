"""Scans through the real store and a real Dask cluster, compared with what NumPy counts in the files."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.store.catalog import jobs
from statsvc.store.publication import configure
from statsvc.store.versions import checkpoints
from statsvc_workers.cluster import batches, in_process, worth
from statsvc_workers.cluster.count_options import CountOptions
from statsvc_workers.cluster.in_process import ImmediateCount
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.progress import Progress
from statsvc_workers.jobs.reader_digest import reader_digest
from support.damage import damaged_files, flipped, png, truncated
from support.label_maps import FILE_COUNT, expected_counts, random_labels, write_folder, write_png
from support.scans import Workspace, assert_matches_folder, scan_numbers
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc_workers.sources.listing import Listing


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    made = LocalCluster(workers=2)
    made.client()  # a few files would start none
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield folders of label maps that were written long enough ago to be counted once only."""
    root = tmp_path_factory.mktemp("pool")
    folders = [write_folder(root / f"{k:02}", seed=k) for k in range(60)]
    wait_until_stable(root)
    return iter(folders)


@pytest.fixture
def folder(pool: Iterator[Path]) -> Path:
    return next(pool)


@pytest.fixture
def scanned(workspace: Workspace, folder: Path) -> Workspace:
    """Return a place whose dataset "streets" has its first version."""
    workspace.add(folder)
    outcome, job = workspace.scan()
    assert (outcome.error, job.state) == (None, "succeeded")
    return workspace


def numbers(**given: int) -> dict[str, int]:
    return {"counted": 0, "reused": 0, "removed": 0, "failed": 0, "recovered": 0} | given


def published(workspace: Workspace, folder: Path, number: int) -> None:
    """Check that the current version has this number and is exactly what the folder holds."""
    version = workspace.version()
    assert version.version == number
    assert_matches_folder(version, folder)
    assert not (workspace.files / workspace.record().dataset_uid / "parts").exists()


# First scans


def test_a_first_scan_counts_every_file_exactly(workspace: Workspace, folder: Path) -> None:
    workspace.add(folder)
    outcome, job = workspace.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT)
    published(workspace, folder, 1)
    record = workspace.record()
    assert (record.kind, record.job_id, record.samples, record.failed) == ("scan", job.id, FILE_COUNT, 0)
    assert record.pixels == FILE_COUNT * 16 * 24
    assert record.reader == reader_digest()
    assert record.configuration.num_classes == 6
    assert set(record.configuration.splits) == {"train", "val"}
    assert (job.state, job.version_number, job.progress["counted"]) == ("succeeded", 1, FILE_COUNT)
    assert workspace.groups() == {record.group_uri}


def test_a_pattern_is_found_out_and_kept(workspace: Workspace, folder: Path) -> None:
    from statsvc.dataset.configuration import Configuration

    workspace.catalog.create_dataset("streets", str(folder), None, Configuration())
    outcome, _ = workspace.scan()
    assert outcome.error is None
    assert workspace.catalog.dataset("streets").pattern is not None
    published(workspace, folder, 1)


def test_a_first_scan_with_bad_files_publishes_the_rest_and_names_them(
    workspace: Workspace, folder: Path
) -> None:
    for name in ("truncated.png", "zero.png"):
        (folder / name).write_bytes(damaged_files()[name][0])
    (folder / "link.png").symlink_to("nowhere.png")
    workspace.add(folder)
    outcome, job = workspace.scan()
    assert outcome.error is None
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, failed=3)
    version = workspace.version()
    count, named = version.failures(limit=None)
    assert count == 3
    assert [path for path, _ in named] == ["link.png", "truncated.png", "zero.png"]
    assert sorted(path for path, _ in outcome.progress.failures) == [path for path, _ in named]
    assert {row["path"] for row in job.progress["failures"]} == {path for path, _ in named}
    (folder / "link.png").unlink()
    assert version.totals().samples == FILE_COUNT
    assert workspace.record().samples == FILE_COUNT


def test_a_first_scan_that_can_read_nothing_fails(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    (tmp_path / "labels" / "b.png").write_bytes(b"")
    workspace.add(tmp_path / "labels")
    outcome, job = workspace.scan()
    assert job.state == "failed"
    assert outcome.error == job.error
    assert (
        "none of the 2 label maps could be read. The first one, a.png: is not a valid PNG: it is empty"
        in str(job.error)
    )
    assert workspace.groups() == set()


def test_imported_counts_cannot_be_scanned(workspace: Workspace) -> None:
    from statsvc.dataset.configuration import Configuration

    workspace.catalog.create_dataset("streets", None, None, Configuration())
    _, job = workspace.scan()
    assert (job.state, job.error) == (
        "failed",
        "streets contains imported counts, so there are no label maps to count",
    )


def test_the_same_files_listed_in_any_order_give_the_same_arrays(
    workspace: Workspace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.add(folder)
    workspace.scan()
    real = os.scandir

    class Reversed:
        def __init__(self, path: object) -> None:
            with real(path) as entries:  # type: ignore[call-overload]
                self.entries = sorted(entries, key=lambda entry: entry.name)

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return self

        def __next__(self) -> os.DirEntry[str]:
            if not self.entries:
                raise StopIteration
            entry: os.DirEntry[str] = self.entries.pop()
            return entry

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return self

        def __exit__(self, *_: object) -> None: ...

    workspace.add(folder, "backwards")
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", Reversed)
        workspace.scan("backwards")
    assert workspace.record("backwards").digests == workspace.record("streets").digests


# Incremental scans: a change costs exactly the files that changed.


def test_nothing_changed_counts_nothing_publishes_nothing_and_starts_no_cluster(scanned: Workspace) -> None:
    idle = LocalCluster(workers=2)
    place = Workspace(scanned.home, scanned.catalog, idle)
    groups = place.groups()
    outcome, job = place.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT)
    assert (outcome.version, job.state, job.version_number) == (None, "succeeded", None)
    assert not idle.running
    assert place.groups() == groups
    assert place.version().version == 1


def is_running(workspace: Workspace) -> bool:
    return workspace.cluster.running


def test_png_files_start_no_cluster_unless_another_library_decodes_one(
    scanned: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worth, "MEASURED_SECONDS", 600.0)  # a busy machine must not start a cluster
    write_png(folder / "train/00.png", random_labels(99, classes=9))
    write_png(folder / "new/wide.png", random_labels(98).astype(np.uint16) + 300)
    (folder / "new/cut.png").write_bytes((folder / "train/01.png").read_bytes()[:-20])
    place = Workspace(scanned.home, scanned.catalog, LocalCluster(workers=1))
    try:
        outcome, _ = place.scan()
        assert scan_numbers(outcome) == numbers(counted=2, reused=FILE_COUNT - 1, failed=1)
        assert "truncated" in outcome.progress.failures[0][1]
        assert not is_running(place)
        (folder / "new/cut.png").unlink()
        (folder / "new/interlaced.png").write_bytes(png(random_labels(97), interlaced=True))
        outcome, _ = place.scan()
        assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT + 1, removed=1)
        assert is_running(place)
    finally:
        place.cluster.close()
    published(place, folder, 3)


@pytest.mark.parametrize(("rule", "streamed"), [("value", True), ("argmax:3", False)])
def test_volumes_are_counted_without_workers_only_if_they_are_streamed(rule: str, streamed: bool) -> None:
    options = CountOptions("/labels", 1 << 28, "cpu", read_counting(rule, None))
    volumes = [("a.nii.gz", 1 << 20), ("b.nii", 1 << 20)]
    counting = ImmediateCount(LocalCluster(workers=1), options, volumes, lambda: None)
    assert counting.remaining == ([] if streamed else volumes)


def test_workers_take_over_while_this_process_counts(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worth, "OWN_START", -1e3)  # starting workers is worth it from the first batch on
    monkeypatch.setattr(worth, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(batches, "BATCH_SECONDS", 1e-9)  # batches of one file
    monkeypatch.setattr(batches, "FIRST_BATCH_FILES", 1)
    place = Workspace(workspace.home, workspace.catalog, LocalCluster(workers=1))
    monkeypatch.setattr(in_process.ImmediateCount, "_count", slowly(in_process.ImmediateCount._count))
    for number in range(100):
        write_png(folder / f"more/{number:03}.png", random_labels(number))
    place.add(folder)
    try:
        outcome, _ = place.scan()
        assert scan_numbers(outcome) == numbers(counted=FILE_COUNT + 100)
        assert is_running(place)
    finally:
        place.cluster.close()
    published(place, folder, 1)


def slowly(count: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that counts after a pause, so that the workers start before the files are counted."""

    def count_later(*arguments: Any) -> Any:
        time.sleep(0.1)
        return count(*arguments)

    return count_later


def test_only_changed_and_added_files_are_counted(scanned: Workspace, folder: Path) -> None:
    write_png(folder / "train/00.png", random_labels(99, classes=9))
    write_png(folder / "new/extra.png", random_labels(98).astype(np.uint16) + 300)
    (folder / "val/03.png").unlink()
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=2, reused=FILE_COUNT - 2, removed=1)
    published(scanned, folder, 2)
    # An id beyond the number of classes that the first scan inferred is kept and does not change that number.
    assert scanned.record().configuration.num_classes == 6
    # The old version still answers.
    assert len(scanned.version(number=1).array("path")) == FILE_COUNT


def test_an_id_that_no_longer_occurs_has_no_column(scanned: Workspace, folder: Path) -> None:
    write_png(folder / "rare.png", np.full((4, 4), 77, np.uint8))
    scanned.scan()
    assert 77 in scanned.version().array("class_id")
    (folder / "rare.png").unlink()
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT, removed=1)
    published(scanned, folder, 3)
    assert scanned.record().digests == scanned.catalog.version(scanned.catalog.dataset("streets"), 1).digests


def test_only_a_touched_file_is_counted_again(scanned: Workspace, folder: Path) -> None:
    os.utime(folder / "train/01.png")
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT - 1)
    published(scanned, folder, 2)
    assert scanned.version().totals().pixels.tolist() == scanned.version(number=1).totals().pixels.tolist()


def test_same_size_content_with_its_mtime_set_back_is_seen(scanned: Workspace, folder: Path) -> None:
    file = folder / "train/02.png"
    before = file.stat()
    labels = random_labels(1)
    for seed in range(1, 10000):
        labels = random_labels(seed)
        write_png(folder / ".try.png", labels)
        if (folder / ".try.png").stat().st_size == before.st_size:
            break
    content = (folder / ".try.png").read_bytes()
    assert content != file.read_bytes()
    assert len(content) == before.st_size
    (folder / ".try.png").unlink()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT - 1)
    published(scanned, folder, 2)


def ctimes(workspace: Workspace) -> dict[str, int]:
    version = workspace.version()
    return dict(zip(version.array("path"), version.array("ctime_ns").tolist(), strict=True))


def test_a_file_changed_just_before_a_scan_is_waited_for_and_counted_once(
    scanned: Workspace, folder: Path
) -> None:
    changed = write_png(folder / "train/04.png", random_labels(50))
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT - 1)
    assert ctimes(scanned)["train/04.png"] == changed.stat().st_ctime_ns
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT)
    published(scanned, folder, 2)


def test_a_file_changed_again_while_it_is_waited_for_is_counted_again_next_time(
    scanned: Workspace, folder: Path
) -> None:
    write_png(folder / "train/04.png", random_labels(50))
    progress = Progress()
    waiting: list[float] = []
    changed: list[object] = []

    def change() -> bool:
        if progress.stage.startswith("waiting"):
            waiting.append(time.monotonic())
            # At each poll until the wait ends, so that the file is younger than 2 s when it is read.
            if waiting[-1] - waiting[0] > 1:
                changed.append(write_png(folder / "train/04.png", random_labels(51)))
        return False

    scanned.scan(stop=change, progress=progress)
    assert [path for path, ctime in ctimes(scanned).items() if ctime == -1] == ["train/04.png"]
    published(scanned, folder, 2)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT - 1)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT)
    published(scanned, folder, 3)


def test_a_time_stamp_ahead_of_the_clock_is_not_waited_for(scanned: Workspace, folder: Path) -> None:
    ahead = time.time() + 3600
    os.utime(folder / "train/04.png", (ahead, ahead))
    os.utime(folder / "train/05.png", (13_569_465_600, 13_569_465_600))  # 2400: beyond 64 bits of nanoseconds
    start = time.monotonic()
    outcome, _ = scanned.scan()
    assert time.monotonic() - start < 300  # far less than the hour
    assert scan_numbers(outcome) == numbers(counted=2, reused=FILE_COUNT - 2)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT)


def test_failed_samples_are_tried_again_each_time(scanned: Workspace, folder: Path) -> None:
    good = (folder / "train/05.png").read_bytes()
    (folder / "train/05.png").write_bytes(truncated(good))
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(failed=1, reused=FILE_COUNT - 1)
    published(scanned, folder, 2)
    wait_until_stable(folder)
    # The same failure again, once its time stamps say that it is the same file, is no new version.
    outcome, job = scanned.scan()
    assert scan_numbers(outcome) == numbers(failed=1, reused=FILE_COUNT - 1)
    assert job.state == "succeeded"
    (folder / "train/05.png").write_bytes(good)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=1, reused=FILE_COUNT - 1)
    assert_matches_folder(scanned.version(), folder)


def test_a_full_scan_counts_everything_again(scanned: Workspace, folder: Path) -> None:
    outcome, _ = scanned.scan(full=True)
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT)
    published(scanned, folder, 2)


def test_rows_of_gif_files_that_an_earlier_release_counted_are_counted_again(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.array([[0, 7], [9, 9]], np.uint8)).save(folder / "a.gif")
    wait_until_stable(folder)
    dataset = workspace.catalog.create_dataset("streets", str(folder), "*", Configuration())
    with monkeypatch.context() as earlier:
        earlier.setattr("statsvc_workers.jobs.plan.reader_digest", lambda *rule, **_: reader_digest(*rule))
        assert workspace.scan()[0].error is None
    before = workspace.record().reader
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome)["counted"] == FILE_COUNT + 1
    assert workspace.record().reader != before == reader_digest(dataset.configuration.counting, "*")
    assert scan_numbers(workspace.scan()[0])["counted"] == 0


def test_rows_of_another_reader_are_counted_again(
    scanned: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statsvc_workers.jobs.reader_digest.REVISION", 999)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT)
    published(scanned, folder, 2)
    assert scanned.record().reader == reader_digest()


def test_a_changed_configuration_is_kept_by_later_scans(scanned: Workspace, folder: Path) -> None:
    from msgspec.structs import replace

    dataset = scanned.catalog.dataset("streets")
    configure(
        scanned.catalog, scanned.store, dataset, lambda c: replace(c, num_classes=20, class_names=("road",))
    )
    assert scanned.record().kind == "configuration"
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT)
    assert outcome.version is None
    write_png(folder / "more.png", random_labels(3))
    scanned.scan()
    published(scanned, folder, 3)
    assert scanned.record().configuration.num_classes == 20
    assert scanned.record().configuration.class_names == ("road",)


# The guard: a version must not lose many samples by accident.


def test_more_removed_files_than_allowed_fail_the_job_with_the_numbers(
    scanned: Workspace, folder: Path
) -> None:
    shutil.rmtree(folder / "val")
    outcome, job = scanned.scan()
    assert job.state == "failed"
    assert "of the 12 samples in the current version, 3 are missing and 0 can no longer be read" in str(
        job.error
    )
    assert "more than the limit of 10%" in str(job.error)
    assert "--max-removed 1" in str(job.error)
    assert outcome.progress.counted == 0
    assert scanned.version().version == 1
    assert len(scanned.groups()) == 1
    outcome, _ = scanned.scan(max_removed=1)
    assert scan_numbers(outcome) == numbers(reused=FILE_COUNT - 3, removed=3)
    published(scanned, folder, 2)


def test_more_files_that_went_bad_than_allowed_fail_the_job(scanned: Workspace, folder: Path) -> None:
    for name in ("train/00.png", "train/01.png"):
        (folder / name).write_bytes(b"")
    _, job = scanned.scan()
    assert job.state == "failed"
    assert "0 are missing and 2 can no longer be read (train/00.png: " in str(job.error)
    assert "; train/01.png: " in str(job.error)
    outcome, _ = scanned.scan(max_removed=1)
    assert scan_numbers(outcome) == numbers(failed=2, reused=FILE_COUNT - 2)
    published(scanned, folder, 2)
    # They are lost by now: failing again is not news.
    (folder / "train/00.png").write_bytes(b"x")
    outcome, job = scanned.scan()
    assert (job.state, scan_numbers(outcome)["failed"]) == ("succeeded", 2)


def test_removed_and_failed_files_count_together(scanned: Workspace, folder: Path) -> None:
    (folder / "train/00.png").unlink()
    (folder / "train/01.png").write_bytes(b"")
    _, job = scanned.scan()
    assert "1 are missing and 1 can no longer be read" in str(job.error)


def test_one_of_twelve_files_may_be_removed(scanned: Workspace, folder: Path) -> None:
    (folder / "train/00.png").unlink()
    outcome, job = scanned.scan()
    assert (job.state, outcome.progress.removed) == ("succeeded", 1)
    published(scanned, folder, 2)


def test_files_that_were_never_counted_may_all_go(scanned: Workspace, folder: Path) -> None:
    for number in range(6):
        (folder / f"train/bad{number}.png").write_bytes(b"no label map")
    _, job = scanned.scan()
    assert job.state == "succeeded"
    for number in range(6):
        (folder / f"train/bad{number}.png").unlink()
    outcome, job = scanned.scan()
    assert (job.state, outcome.progress.removed) == ("succeeded", 6)


def test_rows_counted_before_the_guard_failed_the_job_are_kept(scanned: Workspace, folder: Path) -> None:
    write_png(folder / "more.png", random_labels(70))
    wait_until_stable(folder)
    for name in ("train/00.png", "train/01.png"):
        (folder / name).write_bytes(b"")
    _, job = scanned.scan()
    assert job.state == "failed"
    outcome, _ = scanned.scan(max_removed=1)
    assert scan_numbers(outcome) == numbers(counted=1, recovered=1, failed=2, reused=FILE_COUNT - 2)
    published(scanned, folder, 2)


# Sources that go away


@pytest.mark.parametrize("gone", ["missing", "empty", "a file"])
def test_a_missing_source_fails_the_job_and_changes_nothing(
    scanned: Workspace, folder: Path, gone: str
) -> None:
    shutil.rmtree(folder)
    if gone == "empty":
        folder.mkdir()
    elif gone == "a file":
        folder.write_text("")
    outcome, job = scanned.scan(max_removed=1)
    assert job.state == "failed"
    assert str(folder) in str(job.error)
    assert outcome.error == job.error
    assert scanned.version().version == 1


MANY = 120
"""Files of which most wait while the first batches are counted: 2 workers hold 6 batches of 16."""


def take_away(folder: Path, how: str) -> Path:
    """Let a folder vanish as an unmounted, remounted or emptied one does; return where its files are."""
    aside = folder.with_name(folder.name + "-aside")
    if how == "emptied":
        aside.mkdir()
        for child in list(folder.iterdir()):
            child.rename(aside / child.name)
    else:
        folder.rename(aside)
    if how == "replaced":
        folder.mkdir()
        (folder / "other.txt").write_text("another disk")
    return aside


def bring_back(folder: Path, aside: Path) -> None:
    if folder.exists() and not any(folder.iterdir()):
        for child in list(aside.iterdir()):
            child.rename(folder / child.name)
        aside.rmdir()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield folders of `MANY` label maps whose time stamps are stable."""
    root = tmp_path_factory.mktemp("many")
    folders = [write_folder(root / f"{k}", files=MANY) for k in range(6)]
    wait_until_stable(root)
    return iter(folders)


@pytest.mark.parametrize("how", ["unmounted", "replaced", "emptied"])
@pytest.mark.parametrize("first", [True, False])
def test_a_source_that_disappears_fails_the_job_and_keeps_counted_rows(
    workspace: Workspace, how: str, first: bool, many: Iterator[Path]
) -> None:
    folder = next(many)
    workspace.add(folder)
    if not first:
        workspace.scan()
    progress = Progress()
    away: list[Path] = []

    def stop() -> bool:
        if progress.counted > 0 and progress.stage == "counting" and not away:
            away.append(take_away(folder, how))
        return False

    outcome, job = workspace.scan(stop=stop, progress=progress, full=not first)
    bring_back(folder, away[0])
    assert job.state == "failed"
    assert outcome.error == job.error
    assert str(folder) in str(job.error)
    assert workspace.catalog.dataset("streets").current_number == (None if first else 1)
    assert len(workspace.groups()) == (0 if first else 1)
    # Only the times of the folder changed; what was counted is not counted again.
    outcome, _ = workspace.scan(full=False)
    assert outcome.progress.counted + outcome.progress.reused == MANY
    if first:
        assert 0 < outcome.progress.recovered < MANY
        published(workspace, folder, 1)


# Damage


def harm_flip(array: Path) -> None:
    (chunk,) = [file for file in (array / "c").rglob("*") if file.is_file()]
    chunk.write_bytes(flipped(chunk.read_bytes()))


def harm_chunk(array: Path) -> None:
    shutil.rmtree(array / "c")


def harm_metadata(array: Path) -> None:
    (array / "zarr.json").write_bytes(b"{")


ARRAYS = (
    *("counts", "class_id", "class_pixels", "class_images", "cooccurrence", "path", "size", "mtime_ns"),
    *("ctime_ns", "etag", "content", "height", "width", "pixels", "mode", "status", "error"),
)
HARMS = [harm_flip, harm_chunk, harm_metadata]


def test_any_damaged_array_of_the_base_causes_a_full_recount(scanned: Workspace, folder: Path) -> None:
    for k, name in enumerate(ARRAYS):
        write_png(folder / "train/00.png", random_labels(60 + k, classes=4 + k % 5))
        HARMS[k % 3](scanned.files / scanned.record().arrays_uri / name)
        outcome, job = scanned.scan()
        assert (outcome.error, job.state) == (None, "succeeded"), name
        assert outcome.progress.counted == FILE_COUNT, name
        version = scanned.version()
        assert version.version == 2 + k
        assert version.array("class_pixels").tolist() == expected_counts(folder).table().sum(axis=0).tolist()
    published(scanned, folder, 1 + len(ARRAYS))


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_counts_are_detected_even_if_no_file_changed(
    scanned: Workspace, folder: Path, harm: Callable[[Path], None]
) -> None:
    harm(scanned.files / scanned.record().arrays_uri / "status")
    outcome, job = scanned.scan()
    assert (job.state, scan_numbers(outcome)) == ("succeeded", numbers(counted=FILE_COUNT))
    published(scanned, folder, 2)


def test_a_damaged_base_does_not_switch_the_guard_off(scanned: Workspace, folder: Path) -> None:
    harm_flip(scanned.files / scanned.record().arrays_uri / "path")
    shutil.rmtree(folder / "val")
    _, job = scanned.scan()
    assert job.state == "failed"
    assert "3 are missing" in str(job.error)


def test_a_version_whose_group_was_deleted_is_recreated(scanned: Workspace, folder: Path) -> None:
    shutil.rmtree(scanned.files / scanned.record().arrays_uri)
    outcome, _ = scanned.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT)
    published(scanned, folder, 2)


def stopped_once(workspace: Workspace, folder: Path) -> list[Path]:
    """Count, but fail before publishing, so that parts are left; return them."""
    workspace.add(folder)
    job = workspace.lease()
    progress = Progress()

    from statsvc_workers.jobs.attempt import Settings
    from statsvc_workers.jobs.lease import execute

    execute(
        workspace.catalog,
        workspace.store,
        job,
        workspace.cluster,
        Settings(device="cpu"),
        progress,
        stop=lambda: progress.counted == FILE_COUNT,
    )
    assert jobs.get(workspace.catalog, job.id).state == "queued"
    return sorted(workspace.files.glob("*/parts/*/*.part"))


def test_a_stopped_scan_is_continued(workspace: Workspace, folder: Path) -> None:
    assert len(stopped_once(workspace, folder)) == 1
    assert workspace.groups() == set()
    outcome, job = workspace.scan()
    assert job.attempt == 2
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, recovered=FILE_COUNT)
    published(workspace, folder, 1)


@pytest.mark.parametrize("harm", [flipped, truncated, lambda data: b""])
def test_a_damaged_part_is_passed_over_and_its_samples_counted_again(
    workspace: Workspace, folder: Path, harm: Callable[[bytes], bytes]
) -> None:
    (part,) = stopped_once(workspace, folder)
    part.write_bytes(harm(part.read_bytes()))
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, recovered=0)
    published(workspace, folder, 1)


def test_a_checkpoint_row_of_a_changed_file_is_counted_again(workspace: Workspace, folder: Path) -> None:
    stopped_once(workspace, folder)
    write_png(folder / "train/00.png", random_labels(61))
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, recovered=FILE_COUNT - 1)
    published(workspace, folder, 1)


def test_checkpoints_of_another_reader_are_not_used(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_once(workspace, folder)
    monkeypatch.setattr("statsvc_workers.jobs.reader_digest.REVISION", 999)
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, recovered=0)


def test_a_full_scan_uses_only_its_own_checkpoints(workspace: Workspace, folder: Path) -> None:
    (part,) = stopped_once(workspace, folder)
    other = part.parent.with_name("another-job")
    part.parent.rename(other)
    outcome, _ = workspace.scan(full=True)
    assert scan_numbers(outcome) == numbers(counted=FILE_COUNT, recovered=0)


def test_rows_and_listing_agree_on_what_a_sample_is(folder: Path) -> None:
    """What the worker's `fstat` says is what the listing's `stat` says, or nothing would ever be reused."""
    from statsvc_workers.cluster.tasks import CountOptions, count_samples
    from statsvc_workers.sources.list_samples import list_samples
    from statsvc_workers.sources.listing import Source

    listing: Listing = list_samples(Source(str(folder), "*.png"))
    rows = count_samples(CountOptions(str(folder), 1 << 20, "cpu"), list(listing.path))
    for name in ("size", "mtime_ns", "ctime_ns"):
        assert getattr(rows, name).tolist() == getattr(listing, name).tolist()
    assert set(checkpoints.COLUMNS) <= set(rows.__struct_fields__)


def test_the_stored_digest_is_of_the_bytes_that_were_counted(scanned: Workspace, folder: Path) -> None:
    version = scanned.version()
    stored = dict(zip(version.array("path").tolist(), version.array("content").tolist(), strict=True))
    assert stored == {
        file.relative_to(folder).as_posix(): xxhash.xxh3_64_intdigest(file.read_bytes())
        for file in folder.rglob("*.png")
    }


@pytest.mark.parametrize("array", ["counts", "class_pixels", "cooccurrence"])
def test_a_damaged_version_is_made_anew_where_no_file_changed(
    scanned: Workspace, folder: Path, array: str
) -> None:
    shutil.rmtree(scanned.files / scanned.record().arrays_uri / array / "c")
    outcome, job = scanned.scan()
    assert (job.state, scan_numbers(outcome)) == ("succeeded", numbers(counted=FILE_COUNT))
    published(scanned, folder, 2)


def test_a_dataset_of_instance_ids_is_rejected_before_it_uses_up_the_memory(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "instances"
    folder.mkdir()
    for k in range(4):
        ids = np.arange(2500, dtype=np.uint16).reshape(50, 50) + np.uint16(2500 * k)
        Image.fromarray(ids).save(folder / f"{k}.png")
    workspace.add(folder)
    outcome, job = workspace.scan()
    assert job.state == "failed"
    assert "instance ids" in str(outcome.error)
