"""Automatic scans: schedules and watched folders, with real servers, runners and files."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from statsvc.dataset.configuration import Configuration
from statsvc.store import home as homes
from statsvc.store.catalog import jobs, triggers
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from support.catalogs import execute_sql
from support.commands import statsvc
from support.label_maps import expected_counts, random_labels, write_folder, write_png
from support.scans import assert_matches_folder
from support.servers import free_port
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc.store.catalog.connection import Connection

QUIET = "2s"
"""Quiet period of the runner: longer than a busy machine interrupts a test that changes many files."""

IDLE_SECONDS = 5.0
"""How long no job is queued before a test goes on: the quiet period and some polls of a busy machine."""


def idle(jobs: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the jobs once all have ended and no new one was queued for longer than the quiet period."""
    seen: tuple[int, float] = (0, time.monotonic())
    while True:
        found = jobs()
        if len(found) != seen[0] or any(job["state"] in ("queued", "running") for job in found):
            seen = (len(found), time.monotonic())
        elif time.monotonic() - seen[1] > IDLE_SECONDS:
            return found
        time.sleep(0.1)


class Server:
    """`statsvc serve` with its runner; it can be stopped and started again."""

    def __init__(self, home: Path, root: Path) -> None:
        self.home, self.root = home, root
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = free_port()
        command = [sys.executable, "-m", "statsvc", "serve", "--port", str(port), "--root", str(self.root)]
        options = ["--home", str(self.home), "--quiet", QUIET, "--workers", "1"]
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        wait_for(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/readyz").status_code == 200
        return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def add(self, source: Path, **fields: Any) -> dict[str, Any]:
        body = {"name": "streets", "source": str(source), "pattern": "*.png"} | fields
        answer = httpx2.post(f"{self.url}/datasets", json=body)
        assert answer.status_code == 201, answer.text
        added: dict[str, Any] = answer.json()
        return added

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx2.get(f"{self.url}/jobs").json()["jobs"]
        return found

    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx2.get(f"{self.url}/datasets/streets").json()
        return found

    def when_idle(self) -> list[dict[str, Any]]:
        return idle(self.jobs)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "home", tmp_path)
    made.start()
    yield made
    made.stop()


def assert_current_version_exact(home: Path, folder: Path) -> None:
    """Check that the current version has the counts that NumPy finds in the folder."""
    resolved = homes.resolve(str(home))
    catalog = Catalog.open(resolved.database)
    record = catalog.version(catalog.dataset("streets"))
    assert_matches_folder(open_version(resolved.store, "streets", record), folder)
    catalog.close()


def test_two_hundred_files_copied_into_a_watched_folder_in_two_seconds_queue_one_job(
    server: Server, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels")
    copied = tmp_path / "copied"
    for number in range(200):
        write_png(copied / f"{number:03}.png", random_labels(number))
    server.add(folder, watch=True)
    before = len(server.when_idle())
    for number, file in enumerate(sorted(copied.iterdir())):
        target = folder / f"batch-{number % 2}"
        target.mkdir(exist_ok=True)
        shutil.copy(file, target / file.name)
        time.sleep(0.01)
    after = wait_for(lambda: (found := server.jobs()) and len(found) > before and found)
    after = server.when_idle()
    assert len(after) == before + 1
    assert (after[0]["state"], after[0]["progress"]["counted"]) == ("succeeded", 200)
    assert_current_version_exact(server.home, folder)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "1.png").write_bytes(b"no sample")
    list(folder.rglob("*"))
    assert len(server.when_idle()) == len(after)  # neither reading files nor hidden files count as changes


def test_changes_in_a_watched_folder_while_no_runner_is_up_are_counted_by_the_next_runner(
    server: Server, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels")
    server.add(folder, watch=True)
    server.when_idle()
    server.stop(signal.SIGKILL)
    write_png(folder / "new.png", random_labels(7))
    (folder / "train" / "00.png").unlink()
    server.start()
    wait_for(lambda: server.described()["version"] == 2)
    assert_current_version_exact(server.home, folder)
    httpx2.patch(f"{server.url}/datasets/streets", json={"watch": False})
    time.sleep(4)  # the runner reads the catalog every second
    before = len(server.when_idle())
    write_png(folder / "later.png", random_labels(8))
    assert len(server.when_idle()) == before
    shutil.move(folder, tmp_path / "away")
    httpx2.patch(f"{server.url}/datasets/streets", json={"watch": True})
    assert len(server.when_idle()) == before  # a missing folder queues no jobs ...
    shutil.move(tmp_path / "away", folder)
    wait_for(lambda: server.described()["version"] == 3)  # ... and is scanned when it is back
    assert_current_version_exact(server.home, folder)


def test_a_watched_folder_that_disappears_queues_one_failing_job_and_one_when_it_returns(
    server: Server, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels")
    server.add(folder, watch=True)
    before = len(server.when_idle())
    shutil.move(folder, tmp_path / "away")
    after = wait_for(lambda: (found := server.when_idle()) and len(found) > before and found)
    assert len(after) == before + 1
    assert after[0]["state"] == "failed"
    assert "is the disk mounted?" in after[0]["error"]
    shutil.move(tmp_path / "away", folder)
    write_png(folder / "new.png", random_labels(7))
    wait_for(lambda: server.described()["version"] == 2)
    assert len(server.when_idle()) == before + 2


def test_a_schedule_publishes_versions_survives_a_kill_and_can_be_changed(
    server: Server, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "labels")
    added = server.add(folder, every="1s")
    assert (added["every"], added["watch"]) == ("1s", False)
    wait_for(lambda: server.described()["version"] == 1)
    write_png(folder / "new.png", random_labels(7))
    wait_for(lambda: server.described()["version"] == 2)
    assert_current_version_exact(server.home, folder)
    server.stop(signal.SIGKILL)
    (folder / "new.png").unlink()
    server.start()
    wait_for(lambda: server.described()["version"] == 3)
    shutil.move(folder, tmp_path / "away")
    # The kill may have left a failed job of its own, so the text tells which job found no folder.
    wait_for(lambda: [job for job in server.jobs() if "is the disk mounted?" in (job["error"] or "")])
    began, made = time.monotonic(), len(server.jobs())
    time.sleep(3)
    assert len(server.jobs()) - made <= time.monotonic() - began + 1  # one job per due time, not more
    patched = httpx2.patch(f"{server.url}/datasets/streets", json={"every": "2d"}).json()
    assert (patched["every"], patched["version"]) == ("2d", 3)
    server.when_idle()
    cleared = httpx2.patch(f"{server.url}/datasets/streets", json={"every": None}).json()
    assert (cleared["every"], cleared["next_scan_at"]) == (None, None)


def test_a_due_schedule_queues_one_job_with_several_runners(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogs = [Catalog.open(database) for _ in range(4)]
    dataset = catalogs[0].create_dataset("streets", "/labels", "*.png", Configuration())
    triggers.change(catalogs[0], dataset, {"every": 3600.0})
    assert triggers.queue_due(catalogs[0]) == []
    for _ in range(5):
        # Long overdue, as after a long time without a runner.
        execute_sql(catalogs[0], "UPDATE triggers SET due_at = 1")
        barrier = threading.Barrier(len(catalogs))

        def poll(catalog: Catalog, barrier: threading.Barrier = barrier) -> list[Any]:
            barrier.wait()
            return triggers.queue_due(catalog)

        with ThreadPoolExecutor(len(catalogs)) as pool:
            made = [one for found in pool.map(poll, catalogs) for one in found]
        assert len(made) == 1
        with catalogs[0].read() as connection:
            left = connection.scalar("SELECT due_at - clock() FROM triggers")
        assert 3590 < left <= 3600
        jobs.cancel(catalogs[0], made[0][1].id)
    other = catalogs[0].create_dataset("other", "/others", "*.png", Configuration())
    triggers.change(catalogs[0], other, {"every": 3600.0})
    execute_sql(catalogs[0], "UPDATE triggers SET due_at = 1")
    read = catalogs[0].engine.read

    @contextlib.contextmanager
    def read_and_delete() -> Iterator[Connection]:
        with read() as connection:
            yield connection
        monkeypatch.undo()
        catalogs[1].delete_dataset("streets")  # between reading what is due and queueing

    monkeypatch.setattr(catalogs[0].engine, "read", read_and_delete)
    assert [found.name for found, _ in triggers.queue_due(catalogs[0])] == ["other"]
    execute_sql(catalogs[0], "DELETE FROM triggers WHERE dataset_uid = :uid", uid=other.uid)
    execute_sql(catalogs[0], "UPDATE triggers SET due_at = 1")
    assert triggers.queue_due(catalogs[0]) == []
    for catalog in catalogs:
        catalog.close()


def test_two_runners_that_watch_one_folder_queue_one_job_per_change(tmp_path: Path) -> None:
    folder, home = write_folder(tmp_path / "labels"), tmp_path / "home"
    statsvc("scan", folder, "--home", home, "--name", "streets", "--watch", "--workers", "1")
    command = [sys.executable, "-m", "statsvc", "-v", "runner", "--home", str(home), "--quiet", QUIET]
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    runners = []
    for file in logs:
        with file.open("wb") as stderr:
            runners.append(subprocess.Popen([*command, "--workers", "1"], stderr=stderr))
    catalog = Catalog.open(homes.resolve(str(home)).database)
    dataset = catalog.dataset("streets")

    def states() -> list[dict[str, Any]]:
        return [{"state": job.state} for job, _ in jobs.recent(catalog, dataset)]

    try:
        wait_for(lambda: all("watching its source" in file.read_text() for file in logs))
        before = len(idle(states))
        write_png(folder / "new.png", random_labels(7))
        wait_for(lambda: len(states()) > before)
        assert len(idle(states)) == before + 1
        assert len(expected_counts(folder).counts) == catalog.version(catalog.dataset("streets")).samples
    finally:
        for runner in runners:
            runner.terminate()
        for runner in runners:
            runner.wait(60)
        catalog.close()


def test_the_command_line_sets_shows_and_clears_triggers(tmp_path: Path) -> None:
    folder, home = write_folder(tmp_path / "labels"), ("--home", tmp_path / "home")
    done = statsvc("scan", folder, "--name", "streets", "--every", "10m", "--watch", *home)
    assert "scan this dataset automatically" in done.stderr
    shown = statsvc("datasets", "streets", *home).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith(("every", "watch"))] == [
        "10m",
        "True",
    ]
    statsvc("datasets", "streets", "--every", "none", "--no-watch", *home)
    shown = statsvc("datasets", "streets", *home).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith(("every", "watch"))] == [
        "–",
        "False",
    ]
    for wrong in ("0s", "10", "1.5h", "m", "-1s", "9999d"):
        assert "--every: " in statsvc("datasets", "streets", "--every", wrong, *home, code=2).stderr
    assert statsvc("versions", "streets", *home).stdout.count("\n") == 2  # no new version
