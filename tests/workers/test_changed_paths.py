"""`POST /datasets/{name}/changed`: the paths that a pipeline names are looked at, and nothing is listed."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from PIL import Image
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.dataset.configuration import Configuration
from statsvc.store import home as homes
from statsvc.store.catalog import changed_paths, jobs
from statsvc.store.versions.checkpoints import write_checkpoint
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.jobs.count import as_rows
from statsvc_workers.jobs.reader_digest import reader_digest
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from support.commands import statsvc
from support.label_maps import expected_counts, gray_png, random_labels, write_folder, write_png
from support.scans import Workspace, assert_matches_folder, scan_numbers
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc_workers.jobs.lease import Outcome

LISTED: Counter[str] = Counter()
"""Folders that this process has listed, according to Python's audit events."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.scandir":
        LISTED[str(arguments[0])] += 1


sys.addaudithook(_note)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield folders of label maps that were written long enough ago to be counted once only."""
    root = tmp_path_factory.mktemp("pool")
    folders = [write_folder(root / f"{k:02}", seed=k, files=40) for k in range(12)]
    wait_until_stable(root)
    return iter(folders)


@pytest.fixture
def folder(pool: Iterator[Path]) -> Path:
    return next(pool)


@pytest.fixture
def client(workspace: Workspace) -> Iterator[TestClient]:
    app = build_app(homes.resolve(str(workspace.home)), roots=[workspace.home.parent])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def scanned(workspace: Workspace, folder: Path) -> Workspace:
    workspace.add(folder)
    outcome, _ = workspace.scan()
    assert outcome.error is None
    return workspace


def run(workspace: Workspace) -> Outcome:
    """Run the queued job as a runner does."""
    job = jobs.lease(workspace.catalog, jobs.process_identity())
    assert job is not None
    return workspace.run(job)


def changed(workspace: Workspace, *paths: str, **options: Any) -> Outcome:
    jobs.submit(workspace.catalog, workspace.catalog.dataset("streets"), paths=paths, **options)
    return run(workspace)


def test_only_the_reported_paths_are_checked_and_no_folder_is_listed(
    scanned: Workspace, folder: Path, client: TestClient
) -> None:
    write_png(folder / "train" / "named.png", random_labels(501))
    write_png(folder / "train" / "unlisted.png", random_labels(502))
    write_png(folder / "train" / "00.png", random_labels(503))
    write_png(folder / "train" / "01.png", random_labels(504))
    (folder / "val" / "03.png").unlink()
    (folder / "val" / "07.png").unlink()
    before = expected_counts(folder)
    named = ["train/named.png", "train/00.png", "./val/03.png", "train/02.png", "no/such.png", ".x/1.png"]
    answer = client.post("/datasets/streets/changed", json={"paths": named})
    assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{answer.json()['id']}")
    assert answer.json()["paths"] == 6
    LISTED.clear()
    outcome = run(scanned)
    assert [place for place in LISTED if place.startswith(str(folder))] == []
    assert outcome.error is None
    assert scan_numbers(outcome) == {"counted": 2, "reused": 38, "removed": 1, "failed": 0, "recovered": 0}
    assert outcome.progress.ignored == 2
    version = scanned.version()
    version.verify()
    paths = version.array("path").tolist()
    assert "train/named.png" in paths
    assert "val/03.png" not in paths
    assert "train/unlisted.png" not in paths  # nobody named it ...
    assert "val/07.png" in paths
    row = {path: at for at, path in enumerate(paths)}
    counts = np.concatenate([block.counts for block in version.blocks()])
    for path in ("train/named.png", "train/00.png", "train/02.png"):
        held = dict(zip(version.array("class_id").tolist(), counts[row[path]].tolist(), strict=True))
        assert {raw: n for raw, n in held.items() if n} == before.counts[path]
    outcome, _ = scanned.scan()  # ... until a scan lists the source
    assert outcome.error is None
    assert_matches_folder(scanned.version(), folder)


def test_a_path_that_has_not_changed_makes_no_version_and_a_folder_means_all_in_it(
    scanned: Workspace, folder: Path
) -> None:
    assert changed(scanned, "train/00.png").version is None
    shutil.rmtree(folder / "val")
    write_png(folder / "train" / "deep" / "1.png", random_labels(1))
    outcome = changed(scanned, "val", "train", max_removed=1.0)
    assert outcome.error is None
    assert_matches_folder(scanned.version(), folder)


def test_the_guard_applies_and_an_unmounted_source_removes_nothing(scanned: Workspace, folder: Path) -> None:
    names = [f"train/{number:02}.png" for number in range(10) if number % 4 != 3]
    for name in names:
        (folder / name).unlink()
    assert "more than the limit of 10%" in str(changed(scanned, *names).error)
    kept = folder.rename(folder.with_name(f"{folder.name}-away"))
    assert "is the disk mounted?" in str(changed(scanned, "train/12.png").error)
    folder.mkdir()
    assert "is the disk mounted?" in str(changed(scanned, "train/12.png").error)
    folder.rmdir()
    kept.rename(folder)
    assert scanned.record().number == 1


def test_samples_that_cannot_be_read_stay_so_until_they_are_named(workspace: Workspace, folder: Path) -> None:
    whole = (folder / "train" / "00.png").read_bytes()
    (folder / "train" / "00.png").write_bytes(whole[:40])
    (folder / "train" / "01.png").write_bytes(b"no picture")
    workspace.add(folder)
    outcome, _ = workspace.scan()
    assert outcome.progress.failed == 2
    reasons = dict(outcome.progress.failures)
    outcome = changed(workspace, "train/02.png")
    assert (outcome.version, dict(outcome.progress.failures)) == (None, reasons)
    (folder / "train" / "00.png").write_bytes(whole)
    outcome = changed(workspace, "train/00.png")
    assert outcome.progress.failures == [("train/01.png", reasons["train/01.png"])]
    assert_matches_folder(workspace.version(), folder)


def test_a_path_in_a_container_or_a_zarr_folder_means_the_whole_one(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def shard(name: str, members: dict[str, bytes]) -> None:
        with tarfile.open(source / name, "w") as archive:
            for member, data in members.items():
                (tmp_path / "member").write_bytes(data)
                archive.add(tmp_path / "member", member)

    def volume(value: int) -> None:
        array = zarr.create_array(
            zarr.storage.LocalStore(source / "v.zarr"),
            shape=(4, 4),
            chunks=(2, 2),
            dtype="u1",
            overwrite=True,
        )
        array[...] = value

    shard("a.tar", {"1.png": gray_png(1, (2, 2)), "2.png": gray_png(2, (2, 2))})
    shard("b.tar", {"1.png": gray_png(1, (2, 2))})
    volume(5)
    workspace.catalog.create_dataset("streets", str(source), "*.{tar,zarr}", Configuration())
    outcome, _ = workspace.scan()
    assert (outcome.error, outcome.progress.counted) == (None, 4)
    shard("a.tar", {"2.png": gray_png(3, (2, 2)), "9.png": gray_png(4, (2, 2))})
    shard("b.tar", {"7.png": gray_png(7, (2, 2))})
    outcome = changed(workspace, "a.tar/1.png", max_removed=1.0)
    assert outcome.error is None
    assert workspace.version().array("path").tolist() == [
        "a.tar/2.png",
        "a.tar/9.png",
        "b.tar/1.png",
        "v.zarr",
    ]
    assert workspace.version().array("class_id").tolist() == [1, 3, 4, 5]
    volume(6)
    assert changed(workspace, "v.zarr/c/0/0").error is None
    assert workspace.version().array("class_id").tolist() == [1, 3, 4, 6]
    shutil.rmtree(source / "v.zarr")
    (source / "a.tar").unlink()
    assert changed(workspace, "v.zarr/c/0/0", "a.tar/9.png", max_removed=1.0).error is None
    assert workspace.version().array("path").tolist() == ["b.tar/1.png"]
    workspace.version().verify()


@pytest.mark.parametrize("pattern", ["*.js[o]n", "*.{png,js{on,on5}}", "val.@(json|x.png)"])
def test_an_image_listed_in_a_json_file_stays_a_sample_for_any_pattern_of_the_json(
    workspace: Workspace, tmp_path: Path, pattern: str
) -> None:
    source = tmp_path / "source"
    segments = [{"id": 9, "category_id": 2}]
    described = {"annotations": [{"file_name": "0.png", "image_id": 0, "segments_info": segments}]}
    described |= {"categories": [{"id": 2, "name": "car"}], "images": []}
    (source / "val").mkdir(parents=True)
    (source / "val.json").write_text(json.dumps(described))
    Image.new("RGB", (4, 4), (9, 0, 0)).save(source / "val" / "0.png")
    workspace.catalog.create_dataset("streets", str(source), pattern, Configuration())
    assert workspace.scan()[0].error is None
    Image.new("RGB", (5, 4), (9, 0, 0)).save(source / "val" / "0.png")
    assert changed(workspace, "val/0.png", max_removed=1.0).error is None
    assert workspace.version().array("pixels").tolist() == [20]
    assert workspace.version().totals().class_id.tolist() == [2]


def test_checkpoints_of_a_canceled_scan_survive_a_job_for_other_paths(
    scanned: Workspace, folder: Path
) -> None:
    dataset = scanned.catalog.dataset("streets")
    for number in range(3):
        write_png(folder / "train" / f"new{number}.png", random_labels(600 + number))
    wait_until_stable(folder)
    listing = list_samples(Source(str(folder), "*.png"))
    new = [path for path in listing.path if "new" in path]
    rows = as_rows(count_samples(CountOptions(str(folder), 1 << 28, "cpu"), new))
    reader = reader_digest(dataset.configuration.counting)
    write_checkpoint(scanned.store / dataset.uid / "parts" / "cancelled", "1", reader, rows)
    assert changed(scanned, "train/00.png").error is None
    assert scan_numbers(scanned.scan()[0])["recovered"] == 3
    assert_matches_folder(scanned.version(), folder)


def test_the_source_is_listed_where_the_current_version_does_not_stand_for_it(
    workspace: Workspace, folder: Path, pool: Iterator[Path]
) -> None:
    workspace.add(folder)
    assert changed(workspace, "train/00.png").error is None  # no version yet
    assert_matches_folder(workspace.version(), folder)
    other = next(pool)
    workspace.catalog.set_source(workspace.catalog.dataset("streets"), str(other), "*.png")
    assert changed(workspace, "train/00.png", max_removed=1.0).error is None  # moved
    assert_matches_folder(workspace.version(), other)
    damaged = workspace.files / workspace.record().arrays_uri / "path" / "c" / "0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    write_png(other / "train" / "00.png", random_labels(77))
    assert changed(workspace, "train/00.png").error is None  # its rows cannot be read
    assert_matches_folder(workspace.version(), other)


def test_a_queued_job_accepts_further_paths_and_a_full_listing_stays_one(
    client: TestClient, workspace: Workspace
) -> None:
    dataset = workspace.add(workspace.home)
    first = client.post("/datasets/streets/changed", json={"paths": ["a.png", "b.png"]}).json()
    second = client.post("/datasets/streets/changed", json={"paths": ["b.png", "c/"], "max_removed": 0.5})
    assert (second.json()["id"], second.json()["paths"], second.json()["max_removed"]) == (
        first["id"],
        3,
        0.5,
    )
    assert changed_paths.paths_of(workspace.catalog, jobs.get(workspace.catalog, first["id"])) == [
        "a.png",
        "b.png",
        "c",
    ]
    assert client.post("/jobs", json={"dataset": "streets"}).json()["paths"] is None
    assert client.post("/datasets/streets/changed", json={"paths": ["d.png"]}).json()["paths"] is None
    jobs.cancel(workspace.catalog, first["id"])
    # Given back with a newer one queued, a job hands its paths on.
    client.post("/datasets/streets/changed", json={"paths": ["old.png"]})
    leased = jobs.lease(workspace.catalog, "me//")
    assert leased is not None
    newer = client.post("/datasets/streets/changed", json={"paths": ["new.png"]}).json()
    jobs.requeue(workspace.catalog, leased, "gone")
    assert changed_paths.paths_of(workspace.catalog, jobs.get(workspace.catalog, newer["id"])) == [
        "new.png",
        "old.png",
    ]
    many = [f"{number}.png" for number in range(changed_paths.MAX_NAMED)]
    joined, made = jobs.submit(workspace.catalog, dataset, paths=many)
    assert (made, joined.named) == (False, None)


def test_an_idempotency_key_belongs_to_its_paths(client: TestClient, workspace: Workspace) -> None:
    workspace.add(workspace.home)

    def post(**body: Any) -> Any:
        return client.post("/datasets/streets/changed", json=body, headers={"Idempotency-Key": "k"})

    first = post(paths=["a.png", "b.png"])
    assert post(paths=["b.png", "./a.png", "a.png"]).json()["id"] == first.json()["id"]
    assert post(paths=["a.png"]).status_code == 409
    assert post().status_code == 409


def test_invalid_paths_are_rejected_with_their_position(client: TestClient, workspace: Workspace) -> None:
    workspace.add(workspace.home)
    headers = {"Content-Type": "application/json"}
    paths = ["ok.png", "/etc/passwd", "a/../../b.png", "", "x\0y", "a" * 5000]
    answer = client.post("/datasets/streets/changed", json={"paths": paths})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == 422
    assert [one["parameter"] for one in answer.json()["errors"]] == [f"paths.{k}" for k in range(1, 6)]
    for body, parameter in (
        ('{"paths": []}', "paths"),
        ('{"paths": [1]}', "paths.0"),
        ('{"paths": "a.png"}', "paths"),
        ('{"paths": ["\\ud800"]}', "paths"),
        ('{"path": ["a.png"]}', "path"),
        ('{"max_removed": 2}', "max_removed"),
        (json.dumps({"paths": ["a"] * 10_001}), "paths"),
    ):
        answer = client.post("/datasets/streets/changed", content=body, headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, parameter)
    assert client.post("/datasets/streets/changed").status_code == 202  # without a body there is no type
    assert client.post("/datasets/streets/changed", headers=headers).json()["paths"] is None
    assert client.post("/datasets/none/changed", json={}).status_code == 404
    workspace.catalog.create_dataset("imported", None, None, Configuration())
    assert client.post("/datasets/imported/changed", json={}).status_code == 409


def test_the_command_line_queues_what_changed(scanned: Workspace, folder: Path) -> None:
    write_png(folder / "new.png", random_labels(5))
    home = ("--home", scanned.home)
    queued = statsvc("changed", "streets", "new.png", *home)
    more = statsvc("changed", "streets", "-", *home, input="train/00.png\ntrain/01.png\n")
    assert more.stdout == queued.stdout
    assert jobs.get(scanned.catalog, queued.stdout.strip()).named == 3
    assert "--max-removed" in statsvc("changed", "streets", "--max-removed", "nan", *home, code=2).stderr
    assert "'/x' is absolute" in statsvc("changed", "streets", "/x", *home, code=2).stderr
    assert run(scanned).version is not None
    wait_for(lambda: scanned.record().number == 2)
    assert_matches_folder(scanned.version(), folder)
