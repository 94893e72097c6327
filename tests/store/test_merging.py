"""Merging few changed samples into a version of several chunks, compared with NumPy on all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store import publication
from statsvc.store.catalog import jobs
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.arrays import ROWS_PER_CHUNK
from statsvc.store.versions.writer import VersionWriter, strings
from statsvc_workers.jobs.reader_digest import reader_digest
from support.label_maps import random_labels, write_png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from statsvc_workers.jobs.lease import Outcome
    from support.scans import Workspace

SAMPLES = 5 * ROWS_PER_CHUNK + 100
IDS = np.array([0, 1, 2, 3, 4, 5, 255])


@pytest.fixture
def rows(workspace: Workspace, tmp_path: Path) -> dict[str, NDArray[np.int64] | None]:
    """Publish a version of samples without files; return their rows by path, None for an unreadable one."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (SAMPLES, len(IDS))) * (rng.random((SAMPLES, len(IDS))) < 0.5)
    failed = np.arange(SAMPLES) % 997 == 5
    counts[failed] = 0
    paths = [f"{number:06d}.png" for number in range(SAMPLES)]
    numbers = np.arange(SAMPLES, dtype=np.int64)
    (tmp_path / "labels").mkdir()
    write_png(tmp_path / "labels" / "unnamed.png", random_labels(0))
    dataset = workspace.catalog.create_dataset("streets", str(tmp_path / "labels"), "*.png", Configuration())
    columns: dict[str, Any] = {
        "path": strings(paths),
        **dict.fromkeys(("size", "mtime_ns", "ctime_ns", "height", "width"), numbers),
        "etag": strings([""] * SAMPLES),
        "content": numbers.astype(np.uint64),
        "pixels": counts.sum(axis=1),
        "mode": np.zeros(SAMPLES, np.uint8),
        "status": failed.astype(np.uint8),
        "error": strings(["no picture" if bad else "" for bad in failed]),
    }
    writer = VersionWriter(workspace.store / dataset.uid / "first", IDS, SAMPLES, {})
    for start in range(0, SAMPLES, ROWS_PER_CHUNK):
        part = slice(start, start + ROWS_PER_CHUNK)
        writer.append({name: values[part] for name, values in columns.items()}, counts[part])
    totals, digests = writer.finish()
    uri = f"{dataset.uid}/first"
    new = NewVersion(
        kind="scan",
        group_uri=uri,
        arrays_uri=uri,
        configuration=Configuration(num_classes=6),
        reader=reader_digest(),
        digests=digests,
        samples=SAMPLES,
        failed=int(failed.sum()),
        pixels=int(totals.pixels.sum()),
    )
    publication.publish(workspace.catalog, workspace.store, dataset, new)
    listed = zip(paths, counts, failed, strict=True)
    return {path: None if bad else row for path, row, bad in listed}


def changed(workspace: Workspace, *paths: str) -> Outcome:
    jobs.submit(workspace.catalog, workspace.catalog.dataset("streets"), paths=paths)
    job = jobs.lease(workspace.catalog, jobs.process_identity())
    assert job is not None
    return workspace.run(job)


def counted(folder: Path, path: str, seed: int) -> NDArray[np.int64]:
    labels = random_labels(seed)
    write_png(folder / path, labels)
    return np.array([(labels == raw).sum() for raw in IDS])


def assert_equal(workspace: Workspace, rows: dict[str, NDArray[np.int64] | None]) -> None:
    version = workspace.version()
    paths = sorted(rows)
    table = np.array([np.zeros(len(IDS), np.int64) if rows[p] is None else rows[p] for p in paths])
    assert version.array("path").tolist() == paths
    assert version.array("class_id").tolist() == IDS.tolist()
    np.testing.assert_array_equal(version.array("status") == 1, [rows[path] is None for path in paths])
    np.testing.assert_array_equal(np.concatenate([block.counts for block in version.blocks()]), table)
    np.testing.assert_array_equal(version.array("class_pixels"), table.sum(axis=0))
    np.testing.assert_array_equal(version.array("class_images"), (table > 0).sum(axis=0))
    np.testing.assert_array_equal(version.array("cooccurrence"), (table > 0).astype(np.int64).T @ table)
    assert version.failed() == sum(row is None for row in rows.values())
    version.verify()


def test_rows_are_changed_added_and_removed_among_many_chunks(
    workspace: Workspace, rows: dict[str, NDArray[np.int64] | None], tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    for path in ("003000.png", "003007.png", "000005.png"):  # the last was unreadable
        rows[path] = counted(folder, path, 1)
    assert changed(workspace, "003000.png", "003007.png", "000005.png").error is None
    assert_equal(workspace, rows)
    rows["zz.png"] = counted(folder, "zz.png", 2)  # the last chunk grows, the others stand
    assert changed(workspace, "zz.png").error is None
    assert_equal(workspace, rows)
    del rows["zz.png"], rows["010300.png"]  # the last chunk shrinks
    (folder / "zz.png").unlink()
    assert changed(workspace, "zz.png", "010300.png").error is None
    assert_equal(workspace, rows)
    rows["002050-more.png"] = counted(folder, "002050-more.png", 3)  # all behind move on
    del rows["000000.png"]
    assert changed(workspace, "002050-more.png", "000000.png").error is None
    assert_equal(workspace, rows)
    assert changed(workspace, "002050-more.png").version is None


def test_a_damaged_chunk_of_the_base_is_never_copied(
    workspace: Workspace, rows: dict[str, NDArray[np.int64] | None], tmp_path: Path
) -> None:
    chunk = workspace.files / workspace.record().arrays_uri / "counts" / "c" / "2" / "0"
    whole = bytearray(chunk.read_bytes())
    whole[len(whole) // 2] ^= 1
    chunk.write_bytes(whole)
    counted(tmp_path / "labels", "000001.png", 1)
    # Every sample would be recounted, but the files do not exist here: the job must not publish a loss.
    assert "nothing was published" in str(changed(workspace, "000001.png").error)
    assert workspace.record().number == 1
    chunk.unlink()
    assert "nothing was published" in str(changed(workspace, "000001.png").error)


def test_what_does_not_change_is_copied_as_it_is_stored(
    workspace: Workspace, rows: dict[str, NDArray[np.int64] | None], tmp_path: Path
) -> None:
    before = workspace.files / workspace.record().arrays_uri
    rows["003000.png"] = counted(tmp_path / "labels", "003000.png", 1)
    assert changed(workspace, "003000.png").error is None
    after = workspace.files / workspace.record().arrays_uri
    assert after != before
    for name in ("path", "etag", "error", "counts"):  # of counts, the chunks without the changed row
        for chunk in (before / name / "c").rglob("0"):
            if chunk.is_file() and chunk.parent.name != "1":
                assert (after / name / "c" / chunk.relative_to(before / name / "c")).read_bytes() == (
                    chunk.read_bytes()
                ), chunk
    assert (after / "content" / "c" / "0").read_bytes() != (before / "content" / "c" / "0").read_bytes()
    assert_equal(workspace, rows)
