"""`statsvc serve` and its runner as processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from statsvc.api.state.snapshot import POLL_SECONDS
from statsvc.cli.serve import _announce
from statsvc.store import home as homes
from support.command_line import invoke
from support.commands import scan_json, serve, statsvc
from support.expected import checkpoints, counted_by_pillow, pixels_of
from support.label_maps import gray_png
from support.processes import children
from support.servers import free_port
from support.waiting import wait_for


def test_a_server_answers_with_a_new_version_after_its_next_poll(street: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for file in street.rglob("*.png"):
        (labels / file.parent.name).mkdir(parents=True, exist_ok=True)
        (labels / file.parent.name / file.name).write_bytes(file.read_bytes())
    home = tmp_path / "home"
    scan_json(labels, "--name", "street", "--home", home)
    with serve(home, "--no-runner") as (url, _):
        assert httpx2.get(url + "/weights").json()["version"] == 1
        changed = next(iter(sorted(labels.rglob("*.png"))))
        changed.write_bytes(gray_png(3, (64, 128)))
        second = scan_json(labels, "--home", home)
        assert second["scan"]["counted"] == 1
        wait_for(lambda: httpx2.get(url + "/weights").json()["version"] == 2)
        assert POLL_SECONDS <= 0.5  # an idle server serves the new version within a second
        assert pixels_of(httpx2.get(url + "/weights?ignore_index=none&num_classes=256").json()) == (
            counted_by_pillow(labels)
        )


@pytest.mark.timeout(600)  # on a machine that runs other tests, too
def test_a_killed_runner_is_restarted_and_finishes_the_job(
    endless: tuple[Path, Path, dict[int, int]], tmp_path: Path
) -> None:
    folder, long, expected = endless
    home = tmp_path / "home"
    with serve(home, "--root", folder) as (url, process):
        created = httpx2.post(url + "/datasets", json={"name": "many", "source": str(folder)})
        assert created.status_code == 201, created.text
        wait_for(lambda: checkpoints(home))
        [runner] = children(process.pid)
        os.kill(runner, signal.SIGKILL)
        shutil.rmtree(long)
        wait_for(lambda: weights_of(url, "many") or newest_job(home)["state"] == "failed", 400)
        job = newest_job(home)
        assert (job["state"], job["error"]) == ("succeeded", None), job
        answer = wait_for(lambda: weights_of(url, "many"))
    assert pixels_of(answer) == expected
    assert answer["images"] == 100
    assert job["attempt"] == 2
    assert job["progress"]["recovered"] > 0


def newest_job(home: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(invoke("jobs", "--json", "--home", home).stdout)[0]
    return job


def weights_of(url: str, name: str) -> dict[str, Any] | None:
    response = httpx2.get(url + "/weights", params={"dataset": name}, timeout=10)
    return response.json() if response.status_code == 200 else None


def test_the_server_rejects_public_addresses_and_ports_in_use(tmp_path: Path) -> None:
    public = invoke("serve", "--host", "0.0.0.0", "--home", tmp_path, code=2)
    assert "loopback" in public.stderr
    assert "ssh -L" in public.stderr
    with serve(tmp_path, "--no-runner") as (url, _):
        port = url.rpartition(":")[2]
        in_use = statsvc("serve", "--port", port, "--home", tmp_path, "--no-runner", code=1)
    assert "in use" in in_use.stderr


def test_a_server_with_a_missing_root_does_not_start(tmp_path: Path) -> None:
    stderr = invoke("serve", "--home", tmp_path / "home", "--root", tmp_path / "missing", code=2).stderr
    assert "missing' is not a folder" in stderr


def test_a_catalog_that_becomes_unavailable_while_a_server_starts_does_not_end_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # Nothing listens on this port. The server itself had opened the catalog before it listened.
    home = homes.resolve(str(tmp_path / "home"), f"postgresql+psycopg://statsvc@127.0.0.1:{free_port()}/none")
    _announce(home, "127.0.0.1", 8000)
    assert capsys.readouterr().err.startswith("Serving on http://127.0.0.1:8000 ")
    assert "the catalog is unavailable" in caplog.text


def test_the_runner_ends_with_its_server(tmp_path: Path) -> None:
    with serve(tmp_path) as (_, process):
        [runner] = wait_for(lambda: children(process.pid))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        wait_for(lambda: not Path(f"/proc/{runner}").exists())


def test_a_job_estimates_to_a_relative_error_and_the_next_one_completes_the_counts(tmp_path: Path) -> None:
    labels, rng = tmp_path / "labels", np.random.default_rng(0)
    labels.mkdir()
    rows = rng.integers(1, 16, 600)
    for number, row in enumerate(rows.tolist()):
        label = np.zeros((16, 16), np.uint8)
        label[:row] = 1
        Image.fromarray(label).save(labels / f"{number:03}.png")

    def finished(url: str, job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(
            lambda: (now := httpx2.get(f"{url}/jobs/{job['id']}").json())["state"] in jobs_ended and now
        )
        assert found["state"] == "succeeded", found["error"]
        return found

    def answer(url: str, job: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = wait_for(
            lambda: (now := httpx2.get(f"{url}/weights").json()).get("version") == job["version"] and now
        )
        return body

    jobs_ended = ("succeeded", "failed", "cancelled")
    with serve(tmp_path / "home", "--root", labels) as (url, _):
        estimate = {"relative_error": 0.05, "confidence": 0.95}
        request = {"name": "x", "source": str(labels), "estimate": {"samples": 20}}
        made = httpx2.post(f"{url}/datasets", json=request).raise_for_status().json()
        job = finished(url, made["job"])
        assert (job["estimate"], job["progress"]["counted"]) == ({"samples": 20}, 20)
        request = {"dataset": "x", "estimate": estimate}
        job = finished(url, httpx2.post(f"{url}/jobs", json=request).json())
        assert job["estimate"] == estimate
        body = answer(url, job)
        drawn = body["images"]
        assert 400 <= drawn < 600
        assert (job["progress"]["counted"], job["progress"]["reused"]) == (drawn - 20, 20)
        assert (body["exact"], body["estimate"]["of"]) == (False, 600)
        share, (low, high) = rows.mean() / 16, body["classes"][1]["interval"]
        assert low < share < high
        assert (high - low) / 2 < 0.06 * share

        job = finished(url, httpx2.post(f"{url}/jobs", json={"dataset": "x"}).json())
        assert (job["progress"]["counted"], job["progress"]["reused"]) == (600 - drawn, drawn)
        body = answer(url, job)
        assert (body["exact"], body["classes"][1]["pixels"]) == (True, int(rows.sum()) * 16)
        assert httpx2.post(f"{url}/jobs", json=request).status_code == 409
