"""A runner with roots opens nothing outside them, whatever links, containers and web servers say."""

from __future__ import annotations

import http.server
import json
import shutil
import socketserver
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from statsvc.dataset.counting_rule import Counting
from statsvc.errors import SourceError
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.samples import roots
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.changed_paths import check_changed_paths
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.sources import open_source
from statsvc_workers.sources.watching import SourceWatcher
from support import damage
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.scans import Workspace

LABELS = np.arange(16, dtype=np.uint8).reshape(4, 4)
SECRET = b"s3cr3t-database-password"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder `allowed` with a dataset, next to a folder `secret` with files of every kind."""
    for name in ("allowed/ds", "secret/sub"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("allowed/ds/a.png", "allowed/other.png", "secret/b.png", "secret/sub/c.png"):
        (tmp_path / name).write_bytes(damage.png(LABELS))
    (tmp_path / "secret/pgpass").write_bytes(SECRET)
    stored = zarr.create_array(tmp_path / "secret/s.zarr", shape=(4, 4), dtype="u1", chunks=(2, 4))
    stored[:] = LABELS
    return tmp_path.resolve()


def count(root: Path, allowed: Path, samples: list[str | Member]) -> dict[str, str]:
    """Return path → error."""
    rows = count_samples(CountOptions(str(root), 1 << 20, "cpu", roots=(str(allowed),)), samples)
    return dict(zip(rows.path, rows.error, strict=True))


def test_links_within_the_roots_are_followed_and_links_out_of_them_are_named(tree: Path) -> None:
    folder = tree / "allowed/ds"
    (folder / "inside.png").symlink_to(tree / "allowed/other.png")
    (folder / "file.png").symlink_to(tree / "secret/pgpass")
    (folder / "missing.png").symlink_to(tree / "secret/missing")
    (folder / "folder").symlink_to(tree / "secret")
    (folder / "README.md").symlink_to(tree / "secret/pgpass")
    outside = {"file.png", "folder", "missing.png"}
    with roots.restricted([str(tree / "allowed")]):
        listing = list_samples(Source(str(folder), "**/*.png"))
        assert list(listing.path) == sorted({"a.png", "inside.png"} | outside)
        assert set(listing.unreadable) == outside
        # What exists outside is not visible: all messages are equal, and the sizes are those of the links.
        assert len(set(listing.unreadable.values())) == 1
        sizes = dict(zip(listing.path, listing.size.tolist(), strict=True))
        assert sizes["file.png"] == len(str((folder / "file.png").readlink()))
        with pytest.raises(SourceError, match="no file"):
            list_samples(Source(str(folder), "train/*.png"))
    assert len(list_samples(Source(str(folder), "*.png")).path) == 6  # a local scan follows links


def test_a_file_that_is_replaced_by_a_link_after_the_listing_is_not_opened(tree: Path) -> None:
    folder = tree / "allowed/ds"
    (folder / "sub").mkdir()
    (folder / "sub/b.png").write_bytes(damage.png(LABELS))
    assert not any(count(folder, tree / "allowed", ["a.png", "sub/b.png"]).values())
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tree / "secret/b.png")
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to(tree / "secret")
    errors = count(folder, tree / "allowed", ["a.png", "sub/b.png"])
    assert all("outside the folders that may be read" in error for error in errors.values())


def test_no_link_is_opened_while_another_process_swaps_it(tree: Path) -> None:
    folder = tree / "allowed/ds"
    (folder / "good").mkdir()
    (folder / "good/b.png").write_bytes(damage.png(np.zeros((4, 4), np.uint8)))
    (folder / "evil").symlink_to(tree / "secret")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in ("good", "evil"):
                (folder / "next").symlink_to(target)
                (folder / "next").replace(folder / "link")

    (folder / "link").symlink_to("good")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        options = CountOptions(str(folder), 1 << 20, "cpu", roots=(str(tree / "allowed"),))
        rows = count_samples(options, ["link/b.png"] * 500)
    finally:
        stop.set()
        thread.join()
    assert set(rows.ids.tolist()) <= {0}  # the label map outside has other ids


def test_a_zarr_folder_with_links_out_of_the_roots_is_refused(tree: Path) -> None:
    folder = tree / "allowed/ds"
    (folder / "whole.zarr").symlink_to(tree / "secret/s.zarr")
    shutil.copytree(tree / "secret/s.zarr", folder / "chunk.zarr")
    shutil.copytree(tree / "secret/s.zarr", folder / "good.zarr")
    shutil.rmtree(folder / "chunk.zarr/c/1")
    (folder / "chunk.zarr/c/1").symlink_to(tree / "secret/s.zarr/c/1")
    (folder / "good.zarr/loop").symlink_to(folder / "good.zarr")
    with roots.restricted([str(tree / "allowed")]):
        listing = list_samples(Source(str(folder), "*.zarr"))
        assert set(listing.unreadable) == {"chunk.zarr", "whole.zarr"}
    samples: list[str | Member] = [Member(name, name, "zarr") for name in ("chunk.zarr", "good.zarr")]
    errors = count(folder, tree / "allowed", samples)
    assert "outside the folders" in errors["chunk.zarr"]
    assert errors["good.zarr"] == ""


def test_a_root_may_be_a_zarr_folder_whose_parent_must_not_be_listed(tree: Path) -> None:
    root = str(tree / "secret/s.zarr")
    with roots.restricted([root]):
        source = open_source(root, None)
        assert source.root == str(tree / "secret")
        assert list(list_samples(source).path) == ["s.zarr"]
        with pytest.raises(SourceError, match="no file"):
            list_samples(Source(source.root, "*.png"))


def test_a_panoptic_json_cannot_refer_to_files_outside(tree: Path) -> None:
    folder = tree / "allowed/ds"
    content: dict[str, Any] = {"categories": [{"id": 1, "name": "x"}], "images": []}
    for number, name in enumerate(("/etc/passwd", "../../secret/b.png", "a\0b.png", "linked/b.png")):
        annotation = {"file_name": name, "image_id": 1, "segments_info": []}
        (folder / f"{number}.json").write_text(json.dumps(content | {"annotations": [annotation]}))
    (folder / "linked").symlink_to(tree / "secret")
    with roots.restricted([str(tree / "allowed")]):
        listing = list_samples(Source(str(folder), "*.json"))
    assert set(listing.unreadable) == {"0.json", "1.json", "2.json", "linked", "linked/b.png"}


def test_a_dataset_that_is_replaced_by_a_link_is_not_scanned(workspace: Workspace, tree: Path) -> None:
    folder = tree / "allowed/ds"
    workspace.roots = (str(tree / "allowed"),)
    workspace.add(folder)
    outcome, _ = workspace.scan()
    assert outcome.error is None
    base = workspace.version()

    (folder / "x.png").symlink_to(tree / "secret/b.png")
    with roots.restricted(workspace.roots):
        changed = check_changed_paths(Source(str(folder), "*.png"), Counting(), base, ["x.png"])
    assert changed is not None
    assert set(changed.listing.unreadable) == {"x.png"}

    shutil.rmtree(folder)
    folder.symlink_to(tree / "secret")
    outcome, job = workspace.scan()
    assert job.state == "failed"
    assert "through a symbolic link outside the folders and URLs" in str(outcome.error)


def test_no_content_of_another_file_is_in_a_message(tree: Path) -> None:
    (tree / "allowed/ds/text.png").write_bytes(SECRET)
    (tree / "allowed/ds/binary.png").write_bytes(b"\x01\xfe" + SECRET)
    (tree / "allowed/ds/x.json").write_bytes(b'{"categories": [{"id": "' + SECRET + b'", "name": "x"}]}')
    errors = count(tree / "allowed/ds", tree / "allowed", ["text.png", "binary.png"])
    errors |= list_samples(Source(str(tree / "allowed/ds"), "*.json")).unreadable
    assert len(errors) == 3
    for error in errors.values():
        assert "s3cr3t" not in error
        assert SECRET[:4].hex(" ") not in error


@contextmanager
def web_server(folder: Path, redirect_to: str | None = None) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            if redirect_to is None or not self.path.endswith("moved.png"):
                return super().send_head()
            self.send_response(302)
            self.send_header("Location", redirect_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_redirect_of_a_web_server_is_not_followed(tree: Path) -> None:
    with web_server(tree / "secret") as elsewhere, web_server(tree / "allowed", f"{elsewhere}/pgpass") as url:
        with pytest.raises(SourceError, match="redirects are not followed") as caught:
            open_source(f"{url}/ds/moved.png", None)
        assert elsewhere not in str(caught.value)
        rows = count_samples(CountOptions(f"{url}/ds", 1 << 20, "cpu"), ["a.png", "moved.png"])
        assert rows.error[0] == ""
        assert "redirects are not followed" in rows.error[1]


def test_a_web_root_covers_only_the_files_below_it(tree: Path) -> None:
    with web_server(tree) as url, roots.restricted([f"{url}/allowed/ds"]):
        assert open_source(f"{url}/allowed/ds/a.png", None).pattern == "/a.png"
        rows = count_samples(
            CountOptions(f"{url}/allowed", 1 << 20, "cpu", roots=(f"{url}/allowed/ds",)),
            ["ds/a.png", "other.png"],
        )
        assert rows.error[0] == ""
        assert "outside the folders and URLs" in rows.error[1]


@pytest.mark.parametrize(
    ("source", "allowed", "only", "expected"),
    [
        ("allowed/ds", "allowed", True, "allowed"),
        ("secret", "allowed", True, None),
        ("secret", "allowed", False, "secret"),
        ("swapped", "allowed", False, None),
        ("secret/s.zarr", "secret/s.zarr", True, "secret/s.zarr"),
    ],
)
def test_a_source_outside_the_roots_is_refused_or_read_below_itself(
    tree: Path, source: str, allowed: str, only: bool, expected: str | None
) -> None:
    (tree / "swapped").symlink_to(tree / "secret")
    if expected is None:
        with pytest.raises(SourceError, match="--root"):
            roots.source_roots(str(tree / source), [str(tree / allowed)], only=only)
    else:
        chosen = roots.source_roots(str(tree / source), [str(tree / allowed)], only=only)
        assert chosen == (str(tree / expected),)


def test_only_changes_within_the_roots_count_where_a_source_is_watched(tmp_path: Path) -> None:
    inside, outside, other = (tmp_path / name for name in ("inside", "outside", "other"))
    for folder in (inside / "labels", outside, other):
        folder.mkdir(parents=True)
    (inside / "labels" / "link").symlink_to(outside)

    def has_changed() -> bool:
        watcher.poll()
        return watcher.since is not None

    watcher = SourceWatcher("street", (str(inside / "labels"), None), 0.1, [str(inside)], only_roots=True)
    try:
        watcher.poll()
        watcher.since = None  # that watching began counts as a change
        (outside / "a.png").write_bytes(b"a")
        assert not watcher._is_relevant(str(inside / "labels" / "link" / "a.png"))
        (inside / "labels" / "b.png").write_bytes(b"b")
        wait_for(has_changed)
        shutil.rmtree(inside / "labels")
        (inside / "labels").symlink_to(other)  # the source is replaced by a link out of the roots
        watcher._check(time.monotonic())
        assert watcher._events is None
    finally:
        watcher.close()
