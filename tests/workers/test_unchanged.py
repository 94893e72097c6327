"""The digests of a listing recognize an unchanged folder exactly where comparing rows finds no change."""

from __future__ import annotations

import os
import shutil
import tarfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import Counting
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import configure
from statsvc.store.versions.arrays import SAMPLE_ARRAYS, digest
from statsvc.store.versions.location import CHECKPOINTS
from statsvc_workers.jobs.attempt import Settings
from statsvc_workers.jobs.lease import execute
from statsvc_workers.jobs.progress import Progress
from statsvc_workers.jobs.reader_digest import reader_digest
from statsvc_workers.jobs.unchanged import Checked, is_same
from statsvc_workers.sources.list_samples import FolderListing
from support.label_maps import random_labels, write_png
from support.scans import Workspace, cluster
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc.store.catalog.records import Dataset, VersionRecord
    from statsvc_workers.cluster.local_cluster import LocalCluster
    from statsvc_workers.jobs.lease import Outcome

__all__ = ["cluster"]

FILES = ("a.png", "b.png", "train/a.png", "train/deep/c.png")


def write_files(folder: Path) -> None:
    for seed, name in enumerate(FILES):
        write_png(folder / name, random_labels(seed))


def nothing(_folder: Path) -> None:
    """Change nothing."""


def change_content(folder: Path) -> None:
    write_png(folder / "a.png", random_labels(99))


def change_content_and_set_the_time_back(folder: Path) -> None:
    file = folder / "a.png"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def rewrite_the_same_content(folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes())


def touch(folder: Path) -> None:
    os.utime(folder / "a.png")


def one_nanosecond_later(folder: Path) -> None:
    status = (folder / "b.png").stat()
    os.utime(folder / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def long_before_1970(folder: Path) -> None:
    os.utime(folder / "b.png", (-1e9, -1e9))


def rename(folder: Path) -> None:
    (folder / "b.png").rename(folder / "c.png")


def swap(folder: Path) -> None:
    (folder / "a.png").rename(folder / "x")
    (folder / "b.png").rename(folder / "a.png")
    (folder / "x").rename(folder / "b.png")


def move_to_another_folder(folder: Path) -> None:
    (folder / "b.png").rename(folder / "train/b.png")


def add(folder: Path) -> None:
    write_png(folder / "train/b.png", random_labels(7))


def remove(folder: Path) -> None:
    (folder / "train/deep/c.png").unlink()


def remove_and_add(folder: Path) -> None:
    remove(folder)
    add(folder)


def add_files_that_do_not_count(folder: Path) -> None:
    write_png(folder / ".hidden.png", random_labels(8))
    write_png(folder / ".hidden/d.png", random_labels(8))
    (folder / "notes.txt").write_text("notes")


def hide(folder: Path) -> None:
    (folder / "b.png").rename(folder / ".b.png")


def add_a_link(folder: Path) -> None:
    (folder / "link.png").symlink_to("a.png")


def replace_by_a_link(folder: Path) -> None:
    (folder / "b.png").rename(folder / "b.target")
    (folder / "b.png").symlink_to("b.target")


def link_a_folder(folder: Path) -> None:
    (folder / "again").symlink_to("train", target_is_directory=True)


def break_a_link(folder: Path) -> None:
    (folder / "broken.png").symlink_to("nowhere")


def replace_the_folder_by_a_copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


def replace_a_folder_by_itself(folder: Path) -> None:
    """Rename a folder and back, which changes no file."""
    (folder / "train").rename(folder / "moved")
    (folder / "moved").rename(folder / "train")


def a_name_that_is_not_utf8(folder: Path) -> None:
    shutil.copy(os.fsencode(folder / "a.png"), os.fsencode(folder) + b"/\xff.png")


def a_name_of_wide_characters(folder: Path) -> None:
    write_png(folder / "標籤 \U0001f9ed.png", random_labels(6))


def damage(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no image")


def a_huge_file(folder: Path) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate((1 << 32) + 5)


def a_folder_named_like_a_file(folder: Path) -> None:
    (folder / "folder.png").mkdir()


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")


CHANGES = [
    nothing,
    change_content,
    change_content_and_set_the_time_back,
    rewrite_the_same_content,
    touch,
    one_nanosecond_later,
    long_before_1970,
    rename,
    swap,
    move_to_another_folder,
    add,
    remove,
    remove_and_add,
    add_files_that_do_not_count,
    hide,
    add_a_link,
    replace_by_a_link,
    link_a_folder,
    break_a_link,
    replace_the_folder_by_a_copy,
    replace_a_folder_by_itself,
    a_name_that_is_not_utf8,
    a_name_of_wide_characters,
    damage,
    a_huge_file,
    a_folder_named_like_a_file,
    a_pipe,
]


@dataclass(frozen=True)
class Pair:
    """Two homes with the same datasets, each of a folder of its own that both share.

    by_digests  the home whose jobs may be recognized by the digests of the listing
    by_rows     the home whose jobs compare rows
    """

    by_digests: Workspace
    by_rows: Workspace
    folder: Path

    def add(self, name: str) -> Path:
        """Register a dataset in both homes, and return its folder with label maps."""
        folder = self.folder / name
        write_files(folder)
        for workspace in (self.by_digests, self.by_rows):
            workspace.add(folder, name)
        return folder

    def both(self) -> tuple[tuple[Workspace, Checked | None], ...]:
        """Return the two homes with the `checked` of their jobs."""
        return (self.by_digests, None), (self.by_rows, Checked())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, cluster: LocalCluster) -> Iterator[Pair]:
    """Yield two homes with one dataset per change that is scanned, and whose folder was changed then."""
    root = tmp_path_factory.mktemp("unchanged")
    with ExitStack() as stack:
        workspaces = []
        for home in (root / "by digests", root / "by rows"):
            catalog = stack.enter_context(closing(Catalog.open(f"sqlite:///{home / 'catalog.sqlite'}")))
            workspaces.append(Workspace(home, catalog, cluster))
        both = Pair(workspaces[0], workspaces[1], root / "labels")
        folders = [both.add(change.__name__) for change in CHANGES]
        for name in OTHERS:
            both.add(name)
        wait_until_stable(both.folder)
        for change, folder in zip(CHANGES, folders, strict=True):
            for workspace in workspaces:
                workspace.scan(change.__name__)
            change(folder)
        wait_until_stable(both.folder)
        yield both


def run(workspace: Workspace, name: str, checked: Checked | None, **options: Any) -> dict[str, Any]:
    """Run a job, and return everything that is the same if the same job runs in another home."""
    job = workspace.lease(name, **options)
    outcome = execute(
        *(workspace.catalog, workspace.store, job, workspace.cluster, Settings(device="cpu"), Progress()),
        retry=False,
        checked=checked,
    )
    return described(workspace, name, outcome, job.id)


def described(workspace: Workspace, name: str, outcome: Outcome, job_id: str) -> dict[str, Any]:
    job, dataset = jobs.get(workspace.catalog, job_id), workspace.catalog.dataset(name)
    record = workspace.record(name)
    equal = ("state", "full", "max_removed", "named", "estimate", "attempt", "released", "owner", "error")
    return {
        "job": {field: getattr(job, field) for field in (*equal, "version_number", "request_id")},
        "times": [time is not None for time in (job.started_at, job.finished_at, job.lease_until)],
        "stored progress": dict(job.progress) | VARYING,
        "progress": outcome.progress.to_dict() | VARYING,
        "outcome": (outcome.error, None if outcome.version is None else outcome.version.number),
        "dataset": (dataset.current_number, dataset.next_number, dataset.configuration, dataset.revision),
        "version": (record.number, record.digests, record.samples, record.failed, record.pixels),
        "groups": len([group for group in workspace.groups() if group.startswith(dataset.uid)]),
        "checkpoints": (workspace.files / dataset.uid / CHECKPOINTS).exists(),
    }


VARYING = {"pixels_per_second": 0, "progressed_at": None}
"""Fields of the progress that depend on the speed of the machine."""


def is_unchanged(described: dict[str, Any]) -> bool:
    """Whether a job found nothing to count, and no sample that cannot be read."""
    progress = described["progress"]
    return described["outcome"] == (None, None) and not progress["counted"] and not progress["failed"]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_digests_recognize_what_comparing_rows_recognizes(pair: Pair, change: Callable[[Path], None]) -> None:
    name, home = change.__name__, pair.by_digests
    # Once more after that, because what cannot be read is tried again, and what was counted is not.
    for _ in range(2):
        job = home.lease(name)
        settings = Settings(device="cpu")
        outcome = execute(home.catalog, home.store, job, None, settings, Progress(), retry=False)
        if is_recognized := outcome.remaining is None:
            ours = described(home, name, outcome, job.id)
        else:
            outcome = execute(
                *(home.catalog, home.store, job, home.cluster, settings, Progress()),
                retry=False,
                checked=outcome.remaining,
            )
            ours = described(home, name, outcome, job.id)
        expected = run(pair.by_rows, name, Checked())
        assert ours == expected
        assert is_recognized == is_unchanged(expected)
    if change in (nothing, add_files_that_do_not_count, replace_a_folder_by_itself):
        assert home.record(name).number == 1


OTHERS = ["full", "estimate", "max_removed", "configured", "checkpoints"]
"""Datasets of the following tests."""


@pytest.mark.parametrize(
    "options",
    [{"full": True}, {"estimate": {"samples": 2}}, {"max_removed": 0.0}],
    ids=lambda options: next(iter(options)),
)
def test_jobs_with_options_end_the_same_way(pair: Pair, options: dict[str, Any]) -> None:
    name = next(iter(options))
    results = []
    for workspace, checked in pair.both():
        if "estimate" not in options:
            workspace.scan(name)
        first = [run(workspace, name, checked, **options) for _ in range(2)]
        results.append([*first, run(workspace, name, checked), run(workspace, name, checked)])
    assert results[0] == results[1]
    assert is_unchanged(results[0][-1])


def test_a_configured_version_is_recognized(pair: Pair) -> None:
    results = []
    for workspace, checked in pair.both():
        workspace.scan("configured")
        dataset = workspace.catalog.dataset("configured")
        configure(
            workspace.catalog, workspace.store, dataset, lambda before: replace(before, ignore_index=(0,))
        )
        results.append(run(workspace, "configured", checked))
    assert results[0] == results[1]
    assert is_unchanged(results[0])
    assert pair.by_digests.record("configured").number == 2


def test_checkpoints_are_removed(pair: Pair) -> None:
    for workspace, checked in pair.both():
        workspace.scan("checkpoints")
        uid = workspace.catalog.dataset("checkpoints").uid
        checkpoint = workspace.files / uid / CHECKPOINTS / "earlier" / "001.part"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
        assert is_unchanged(run(workspace, "checkpoints", checked))
        assert not checkpoint.parent.parent.exists()


@pytest.mark.parametrize("rows", ["array", "index"])
def test_containers_and_parts_of_arrays_are_recognized_where_child_processes_may_be_started(
    pair: Pair, tmp_path: Path, rows: str
) -> None:
    folder = tmp_path / "labels"
    write_files(folder)
    with tarfile.open(folder / "more.tar", "w") as archive:
        archive.add(folder / "a.png", "a.png")
    np.save(folder / "stack.npy", np.stack([random_labels(seed) for seed in range(3)]))
    pattern = "*.{png,tar}" if rows == "array" else "*.npy"
    wait_until_stable(folder)
    results = []
    for workspace, checked in pair.both():
        configuration = Configuration(counting=Counting(rows=rows))
        workspace.catalog.create_dataset(rows, str(folder), pattern, configuration)
        workspace.scan(rows)
        results.append(run(workspace, rows, checked))
    assert results[0] == results[1]
    assert is_unchanged(results[0])
    home, job = pair.by_digests, pair.by_digests.lease(rows)
    outcome = execute(home.catalog, home.store, job, None, Settings(), Progress(), retry=False)
    assert outcome.remaining == Checked()
    jobs.cancel(home.catalog, job.id)


paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=6)
int64 = st.integers(-(2**63), 2**63 - 1)
rows = st.dictionaries(paths, st.tuples(int64, int64, int64), min_size=1, max_size=6)


def record_of(listed: dict[str, tuple[int, int, int]], failed: set[str]) -> VersionRecord:
    """Return the record of a version with these rows: path → size, mtime, ctime."""
    ascending = sorted(listed)
    table = np.array([listed[path] for path in ascending], np.int64).reshape(-1, 3)
    columns = {
        "path": np.array(ascending, SAMPLE_ARRAYS["path"][0]),
        "size": table[:, 0],
        "mtime_ns": table[:, 1],
        "ctime_ns": table[:, 2],
        "status": np.array([path in failed for path in ascending], np.uint8),
    }
    digests = {name: digest(values) for name, values in columns.items()}
    gif = any(path.lower().endswith(".gif") for path in listed)
    return cast(
        "VersionRecord",
        SimpleNamespace(samples=len(listed), digests=digests, reader=reader_digest(Counting(), "*", gif=gif)),
    )


@given(rows, rows, st.sets(paths), st.randoms(use_true_random=False))
def test_a_listing_has_the_digests_of_equal_rows_only(
    stored: dict[str, tuple[int, int, int]],
    other: dict[str, tuple[int, int, int]],
    failed: set[str],
    random: Any,
) -> None:
    dataset = cast(
        "Dataset", SimpleNamespace(pattern="*", configuration=SimpleNamespace(counting=Counting()))
    )
    record = record_of(stored, failed)
    for listed in (stored, other, stored | other, dict(zip(stored, other.values(), strict=False))):
        folder = FolderListing("/", Counting())
        for path in random.sample(sorted(listed), len(listed)):
            folder.columns.add(path, (0, 0, 0))  # a later sample of the same path replaces it
            folder.columns.add(path, listed[path])
        assert is_same(folder, dataset, record) == (listed == stored and not failed & set(stored))
