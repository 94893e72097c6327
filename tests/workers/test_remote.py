"""Label maps in object stores: what boto3 put into a real S3 server, counted as the same files here are."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socketserver
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import statsvc as library
from statsvc.api.app import build_app
from statsvc.common import object_urls
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import AmbiguousSource, SourceError
from statsvc.store import home as homes
from statsvc_workers.cluster import preflight
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.sources import open_source
from support.commands import scan_json, statsvc
from support.label_maps import gray_png, random_labels, write_folder, write_png
from support.object_faults import faulty_proxy
from support.object_store import BUCKET, S3Server, s3_environment, s3_server
from support.scans import Workspace, assert_matches_folder, counts_by_path, scan_numbers
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = iter(range(10**6))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running, s3_environment(running):
        yield running


@pytest.fixture(scope="module")
def cluster(server: S3Server) -> Iterator[LocalCluster]:
    del server  # which the processes find in the environment they start with
    made = LocalCluster(workers=1)
    yield made
    made.close()


def key(url: str, path: str) -> str:
    return f"{url.removeprefix(f's3://{BUCKET}/')}/{path}"


def put(server: S3Server, folder: Path, url: str | None = None) -> str:
    """Put every file of a folder under a new prefix; return its URL."""
    url = url or f"s3://{BUCKET}/{next(PREFIX)}/labels"
    client = server.boto()
    for file in folder.rglob("*"):
        if file.is_file():
            path = file.relative_to(folder).as_posix()
            client.put_object(Bucket=BUCKET, Key=key(url, path), Body=file.read_bytes())
    return url


def there(server: S3Server, url: str) -> dict[str, dict[str, Any]]:
    """Return what boto3 lists below a URL: relative path → its entry."""
    prefix = key(url, "")
    pages = server.boto().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"].removeprefix(prefix): entry for entry in found}


def test_a_prefix_gives_the_rows_that_the_same_folder_gives_and_is_counted_once(
    server: S3Server, workspace: Workspace, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "local")
    (folder / "train" / "bad.png").write_bytes(gray_png(1, (9, 9))[:40])
    url = put(server, folder)
    for name, source in (("there", url), ("streets", str(folder))):
        workspace.catalog.create_dataset(name, source, "*.png", Configuration())
    outcome, job = workspace.scan("there")
    assert (outcome.error, job.state) == (None, "succeeded")
    workspace.scan("streets")
    version = workspace.version("there")
    assert_matches_folder(version, folder)
    for name in ("path", "size", "content", "height", "width", "pixels", "mode", "status", "error"):
        assert version.array(name).tolist() == workspace.version("streets").array(name).tolist()
    listed = there(server, url)
    assert version.array("etag").tolist() == [listed[path]["ETag"] for path in version.array("path").tolist()]
    outcome, _ = workspace.scan("there")
    assert scan_numbers(outcome) == {"counted": 0, "reused": 12, "removed": 0, "failed": 1, "recovered": 0}
    assert outcome.version is None


def test_an_object_that_is_replaced_added_or_removed_costs_itself(
    server: S3Server, workspace: Workspace, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "local")
    url = put(server, folder)
    workspace.catalog.create_dataset("there", url, "*.png", Configuration())
    workspace.scan("there")
    client, same = server.boto(), (folder / "train/00.png").read_bytes()
    client.put_object(Bucket=BUCKET, Key=key(url, "train/00.png"), Body=same)
    outcome, _ = workspace.scan("there")
    assert (outcome.progress.counted, outcome.version) == (0, None)
    write_png(folder / "train/01.png", random_labels(77))
    write_png(folder / "train/new.png", random_labels(78))
    (folder / "train/02.png").unlink()
    put(server, folder, url)
    client.delete_object(Bucket=BUCKET, Key=key(url, "train/02.png"))
    outcome, _ = workspace.scan("there")
    assert scan_numbers(outcome) == {"counted": 2, "reused": 10, "removed": 1, "failed": 0, "recovered": 0}
    assert_matches_folder(workspace.version("there"), folder)


def test_patterns_and_names_mean_the_same_as_in_a_folder(server: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    names = ["a b.png", "ü%20#1?.png", "deep/er/[x]{1}.png", ".hidden.png", "deep/.dot/y.png", "~z.png"]
    for name in names:
        write_png(folder / name, random_labels(len(name)))
    (folder / "notes.txt").write_text("no label map")
    url = put(server, folder)
    server.boto().put_object(Bucket=BUCKET, Key=key(url, "empty folder/"), Body=b"")
    for pattern in (None, "**/*.png", "deep/**", "[!a]*.png", "!(*z).png"):
        local, remote = (list_samples(open_source(s, pattern)) for s in (str(folder), url))
        assert remote.path == local.path, pattern
        assert remote.size.tolist() == local.size.tolist()
    assert counts_by_path(library.scan(url)) == counts_by_path(library.scan(folder))
    with pytest.raises(SourceError, match=r"no file in s3://.* matches .*notes.txt"):
        open_source(url, "*.tif")
    for name in names[:3]:
        write_png((folder / name).with_suffix(".tif"), random_labels(1))
    for source in (folder, put(server, folder)):
        with pytest.raises(AmbiguousSource, match=r"\*\.tif"):
            open_source(str(source), None)
    single = f"{url}/a b.png"
    assert counts_by_path(library.scan(single)) == {
        "a b.png": counts_by_path(library.scan(folder / "a b.png"))["a b.png"]
    }


LABELS = np.random.default_rng(0).integers(0, 5, (7, 40, 50)).astype(np.uint8)


def container(folder: Path, form: str) -> dict[str, Any]:
    """Write a container, or files, of a format into a folder; return how to scan it."""
    folder.mkdir()
    pictures = {f"{k}.seg.png": write_png(folder / f"{k}.seg.png", LABELS[k]).read_bytes() for k in range(7)}
    if form == "panoptic":
        shutil.rmtree(folder)
        annotations = []
        for k in range(7):
            write_png(folder / "val" / f"{k}.png", np.stack([LABELS[k], *[np.zeros_like(LABELS[k])] * 2], -1))
            segments = [{"id": i, "category_id": i + 1} for i in range(1, 5)]
            annotations.append({"file_name": f"{k}.png", "segments_info": segments})
        categories = [{"id": i, "name": f"class {i}"} for i in range(1, 6)]
        content = {"categories": categories, "annotations": annotations, "images": []}
        (folder / "val.json").write_text(json.dumps(content))
        return {"pattern": "val.json"}
    for file in folder.iterdir():
        file.unlink()
    if form == "tar":
        with tarfile.open(folder / "shard.tar", "w") as archive:
            for name, data in pictures.items():
                (folder / name).write_bytes(data)
                archive.add(folder / name, name)
                (folder / name).unlink()
    elif form == "parquet":
        table = pa.table({"label": [*pictures.values()]})
        pq.write_table(table, folder / "rows.parquet", row_group_size=3)
    elif form.startswith("zarr"):
        stored = zarr.create_array(
            folder / "a.zarr" / "labels", shape=LABELS.shape, dtype="u1", chunks=(3, 16, 50), fill_value=2
        )
        stored[:4] = LABELS[:4]  # the other chunks are not there
        zarr.create_group(folder / "a.zarr", overwrite=False)
    elif form.startswith("h5"):
        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset("labels", data=LABELS, chunks=(2, 20, 50), compression="gzip")
    else:
        np.save(folder / "a.npy", LABELS)
    rows = form.partition(" ")[2]
    return {"rows": rows} if rows else {}


FORMS = [
    "tar",
    "parquet",
    "panoptic",
    "zarr",
    "zarr chunk",
    "zarr index",
    "h5",
    "h5 index",
    "npy",
    "npy index",
]


@pytest.mark.parametrize("form", FORMS)
def test_containers_and_arrays_count_as_they_do_from_the_disk(
    server: S3Server, tmp_path: Path, form: str
) -> None:
    options = container(tmp_path / "local", form)
    url = put(server, tmp_path / "local")
    remote, local = library.scan(url, **options), library.scan(tmp_path / "local", **options)
    assert counts_by_path(remote) == counts_by_path(local)
    assert remote.failures()[0] == 0


@pytest.mark.parametrize("form", ["tar", "panoptic", "zarr chunk"])
def test_changes_in_a_container_are_detected_by_etag(
    server: S3Server, workspace: Workspace, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "local"
    options = container(folder, form)
    url = put(server, folder)
    counting = Counting(rows=options.get("rows", "array"))
    workspace.catalog.create_dataset("there", url, options.get("pattern"), Configuration(counting=counting))
    samples = 9 if form == "zarr chunk" else 7  # chunks of (3, 16, 50) in 7 label maps of 40 by 50
    assert [scan_numbers(workspace.scan("there")[0])["counted"] for _ in range(2)] == [samples, 0]
    chunks = sorted(path for path in there(server, url) if "/c/" in path)
    changed = {"tar": "shard.tar", "panoptic": "val/0.png", "zarr chunk": chunks[0] if chunks else ""}[form]
    if form == "tar":
        data = (folder / changed).read_bytes() + bytes(10240)
    else:
        data = (folder / changed).read_bytes()
        other = sorted({"panoptic": there(server, url).keys() - {"val.json"}, "zarr chunk": chunks}[form])[1]
        data = (folder / other).read_bytes()
    server.boto().put_object(Bucket=BUCKET, Key=key(url, changed), Body=data)
    assert scan_numbers(workspace.scan("there")[0])["counted"] == (7 if form == "tar" else 1)


def test_a_large_object_is_read_in_ranges_with_one_etag(server: S3Server, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 200, (3000, 3000)).astype(np.uint8)
    (tmp_path / "local").mkdir()
    np.save(tmp_path / "local" / "large.npy", labels)
    url = put(server, tmp_path / "local")
    [row] = counts_by_path(library.scan(url, rule="value")).values()  # noise looks like a photograph
    assert row == dict(enumerate(np.bincount(labels.ravel()).tolist()))


def test_a_container_that_is_replaced_between_listing_and_reading_is_reported(
    server: S3Server, tmp_path: Path
) -> None:
    container(tmp_path / "local", "tar")
    url = put(server, tmp_path / "local")
    listing = list_samples(Source(url, "*.tar"))
    longer = bytes(1024) + (tmp_path / "local" / "shard.tar").read_bytes()
    server.boto().put_object(Bucket=BUCKET, Key=key(url, "shard.tar"), Body=longer)
    rows = count_samples(CountOptions(url, 1 << 28, "cpu"), [listing.sample(path) for path in listing.path])
    assert all("replaced after it was listed" in error for error in rows.error)


def test_an_object_removed_or_changed_after_the_listing_is_handled(server: S3Server, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "local", files=2)
    url = put(server, folder)
    list_samples(Source(url, "*.png"))
    server.boto().delete_object(Bucket=BUCKET, Key=key(url, "train/00.png"))
    server.boto().put_object(Bucket=BUCKET, Key=key(url, "train/01.png"), Body=gray_png(3, (4, 5)))
    rows = count_samples(CountOptions(url, 1 << 28, "cpu"), ["train/00.png", "train/01.png"])
    assert "was removed" in rows.error[0]
    # The row has the ETag of the bytes that were counted, not of those that were listed.
    assert (rows.ids.tolist(), rows.counts.tolist()) == ([3], [20])
    assert rows.etag[1] == there(server, url)["train/01.png"]["ETag"]


def test_a_listing_error_is_one_line_with_the_url_and_the_next_step(
    server: S3Server, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(server, write_folder(tmp_path / "local"))
    workspace.catalog.create_dataset("there", url, "*.png", Configuration())
    workspace.scan("there")
    refused = {
        "s3://no-such-bucket-1/x": "no such bucket",
        f"s3://{BUCKET}/nothing": "does not exist",
        f"s3://name:secret@{BUCKET}/x": "credentials belong in the environment",
        f"s3://{BUCKET}/x?X-Amz-Signature=1": "can contain a secret",
        f"s3://{BUCKET}/a/%2e%2e/b": "'..'",
    }
    for bad, word in refused.items():
        with pytest.raises(SourceError) as caught:
            open_source(bad, None)
        assert word in str(caught.value)
        assert "secret@" not in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(object_urls, "RETRIES", 0)
    with (
        s3_environment(S3Server("127.0.0.1:9000", 0)),
        pytest.raises(SourceError, match="http://… or https://…"),
    ):
        open_source(url, None)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SourceError, match=r"az://box/x: .*Account must be specified; check the credentials"):
        open_source("az://box/x", None)
    with pytest.raises(SourceError, match="unsupported URL scheme"):
        open_source("s4://box/x", None)
    with s3_environment(S3Server("http://127.0.0.1:1", 0)):
        outcome, job = workspace.scan("there")
    assert job.state == "failed"
    assert "cannot be reached" in str(outcome.error)
    assert url in str(outcome.error)
    assert scan_numbers(workspace.scan("there")[0])["reused"] == 12


@contextmanager
def running(handler: Any) -> Iterator[str]:
    class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_server_errors_are_retried_and_rejections_are_not(server: S3Server, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "local")
    url = put(server, folder)
    pending: list[str] = []
    with faulty_proxy(server.url) as proxy, s3_environment(S3Server(proxy.url, 0)):
        proxy.behavior = lambda _method, _path: pending.pop() if pending else "relay"
        pending.extend(["500", "503", "429"])
        assert counts_by_path(library.scan(url, workers=1)) == counts_by_path(library.scan(folder))
        pending.extend(["403"] * 3)
        with pytest.raises(SourceError, match="access was denied; check the credentials"):
            library.scan(url)
        pending.clear()
        listing = list_samples(Source(url, "*.png"))
        pending.append("403")
        rows = count_samples(CountOptions(url, 1 << 28, "cpu"), list(listing.path))
    assert [("access was denied" in error) for error in rows.error].count(True) == 1
    assert sum(not error for error in rows.error) == 11


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files without an ETag, and without ranges."""

    def log_message(self, *_arguments: object) -> None:
        pass


def test_a_web_server_serves_single_files_and_its_folders_are_rejected(tmp_path: Path) -> None:
    write_png(tmp_path / "label map.png", LABELS[0])
    options = container(tmp_path / "more", "panoptic")
    del options
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(9, 9), dtype="u1", chunks=(4, 4), fill_value=2)
    stored[:4] = 1
    os.utime(tmp_path / "label map.png", (1, 1))
    with running(partial(Quiet, directory=str(tmp_path))) as url:
        assert counts_by_path(library.scan(f"{url}/label%20map.png")) == counts_by_path(
            library.scan(tmp_path / "label map.png")
        )
        assert counts_by_path(library.scan(f"{url}/more/val.json")) == counts_by_path(
            library.scan(tmp_path / "more/val.json")
        )
        assert counts_by_path(library.scan(f"{url}/a.zarr")) == counts_by_path(
            library.scan(tmp_path / "a.zarr")
        )
        arguments: list[str | Path] = [f"{url}/label map.png", "--home", tmp_path / "home", "--workers", "1"]
        assert [scan_json(*arguments)["scan"]["counted"] for _ in range(2)] == [1, 0]
        listing = list_samples(Source(f"{url}/more", "/val.json"))
        described = (tmp_path / "more" / "val.json").read_bytes()
        (tmp_path / "more" / "val.json").write_bytes(described + b" ")
        rows = count_samples(CountOptions(f"{url}/more", 1 << 28, "cpu"), [*listing.members.values()])
        assert all("changed after it was listed" in error for error in rows.error)
        for bad in (f"{url}/more/", f"{url}/none.tar"):
            with pytest.raises(SourceError, match="a web server cannot list files"):
                library.scan(bad)


class Seconds(Quiet):
    """Files with an ETag of their time in seconds and their bytes, as many servers make it."""

    def end_headers(self) -> None:
        found = Path(self.translate_path(self.path)).stat()
        self.send_header("ETag", f'"{int(found.st_mtime):x}-{found.st_size:x}"')
        super().end_headers()


def test_a_recent_etag_of_a_web_server_is_not_trusted(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", LABELS[0])
    with running(partial(Seconds, directory=str(tmp_path))) as url:
        options = CountOptions(url, 1 << 28, "cpu")
        assert count_samples(options, ["a.png"]).etag == [""]
        os.utime(tmp_path / "a.png", (1, 1))
        size = (tmp_path / "a.png").stat().st_size
        assert count_samples(options, ["a.png"]).etag == [f'"1-{size:x}"']


def test_a_dataset_is_found_by_its_url_and_named_after_the_prefix(server: S3Server, tmp_path: Path) -> None:
    url = put(server, write_folder(tmp_path / "local"), f"s3://{BUCKET}/camvid/labels")
    arguments: list[str | Path] = ["--home", tmp_path / "home", "--workers", "1"]
    assert "camvid-labels: 12 counted" in statsvc("scan", url + "/", *arguments).stderr
    assert "12 unchanged" in statsvc("scan", url, *arguments).stderr
    looked = statsvc("doctor", "camvid-labels", "--home", tmp_path / "home")
    assert "12 images" in looked.stdout
    moved = put(server, tmp_path / "local")
    assert "--move" in statsvc("scan", moved, "--name", "camvid-labels", *arguments, code=1).stderr
    statsvc("scan", moved, "--name", "camvid-labels", "--move", *arguments)


def test_a_request_may_name_urls_below_a_root_only(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    home = homes.resolve(str(tmp_path / "home"))
    app = build_app(home, roots=[f"s3://{BUCKET}/data", tmp_path])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for bad in ("data-not/x", "data/../secret", "data/%2e%2e/secret", "data/.\\../secret", ""):
            body = {"name": "x", "source": f"s3://{BUCKET}/{bad}"}
            assert client.post("/datasets", json=body).status_code in (403, 422), bad
        body = {"name": "x", "source": f"s3://key:secret@{BUCKET}/data"}
        assert "secret" not in client.post("/datasets", json=body).text
        body = {"name": "x", "source": f"s3://{BUCKET}/data/labels/"}
        answer = client.post("/datasets", json=body)
        assert (answer.status_code, answer.json()["source"]) == (201, f"s3://{BUCKET}/data/labels")
        moved = client.patch("/datasets/x", json={"source": f"s3://{BUCKET}/data"})
        assert moved.json()["source"] == f"s3://{BUCKET}/data"
        assert client.patch("/datasets/x", json={"source": f"s3://{BUCKET}"}).status_code == 403


def test_a_worker_without_access_to_the_bucket_fails_the_preflight_check(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.boto().put_object(Bucket=BUCKET, Key="asked/a.png", Body=b"1")
    root = f"s3://{BUCKET}/asked"
    assert not preflight._read_problem(root, "a.png")
    assert not preflight._read_problem(root, Member("a.zarr", "a.zarr", "zarr"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for sample in ("a.png", Member("a.zarr", "a.zarr", "zarr")):
        assert "cannot be reached" in preflight._read_problem(root, sample)
