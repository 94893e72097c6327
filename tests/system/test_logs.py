"""The log of a server and its runner: JSON lines, request ids from the client to the job, an orderly stop."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2
import numpy as np
from PIL import Image

from statsvc.api.app import build_app
from statsvc.common.logs import JsonFormatter, OneLineFormatter, log_context
from support.contract import ApiClient
from support.servers import free_port, responds
from support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home


def test_an_error_of_a_command_is_an_error_in_a_json_log(tmp_path: Path) -> None:
    command = ["--log-format", "json", "weights", "street", "--home", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "statsvc", *command], capture_output=True, text=True)
    assert done.returncode == 2
    [line] = [json.loads(text) for text in done.stderr.splitlines()]
    assert line["level"] == "ERROR"
    assert "street" in line["message"]


SLOW_SERVER = """
import asyncio, logging, sys
from statsvc.api import serve
from statsvc.common.logs import configure_logging
from statsvc.store import home as homes

async def slow():
    print("slow", flush=True)
    await asyncio.sleep(600)

def build_app(*args, **options):
    app = original(*args, **options)
    app.add_api_route("/slow", slow)
    return app

original, serve.build_app = serve.build_app, build_app
configure_logging(logging.WARNING)
ready = lambda _port: print("ready", flush=True)
serve.run(homes.resolve(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), [], ready=ready)
"""
"""A server with a request that takes longer than stopping."""


def test_a_request_that_stopping_ends_is_a_warning_and_no_error(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SLOW_SERVER, str(tmp_path / "home"), str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server,
        socket.socket() as client,
    ):
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.stdout.readline() == "slow\n"
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    [line] = log.splitlines()
    assert "WARNING" in line
    assert "Cancel 1 running task" in line


def test_a_request_id_leads_from_the_request_to_the_response_the_job_and_every_log_line(
    tmp_path: Path,
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(labels / "a.png")
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    home = tmp_path / "home"
    home.mkdir()
    (home / "statsvc.toml").write_text(
        f'log-format = "json"\n[serve]\naccess-log = true\nport = {port}\nroot = ["{labels}"]\nworkers = 1\n'
    )
    command = [sys.executable, "-m", "statsvc", "serve", "--home", str(home)]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as server:
        try:
            wait_for(lambda: responds(f"{url}/readyz"))
            headers = {"X-Request-ID": "ci-run:42"}
            body = {"name": "tiny", "source": str(labels)}
            registered = httpx2.post(f"{url}/datasets", json=body, headers=headers)
            assert registered.headers["x-request-id"] == "ci-run:42"
            job = registered.json()["job"]["id"]
            wait_for(lambda: httpx2.get(f"{url}/jobs/{job}").json()["state"] == "succeeded")
            assert httpx2.get(f"{url}/jobs/{job}").json()["request_id"] == "ci-run:42"
            assert httpx2.get(f"{url}/weights?secret=x").status_code == 422
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"ERROR", "CRITICAL"}.isdisjoint(line["level"] for line in lines)
    now = datetime.now(UTC)
    for line in lines:
        assert 0 <= (now - datetime.fromisoformat(line["time"])).total_seconds() < 600
        assert line["time"].endswith("Z")
    of_request = [line for line in lines if line.get("request_id") == "ci-run:42"]
    assert {"statsvc.audit", "statsvc.access", "statsvc_workers.jobs.executor"} <= {
        line["logger"] for line in of_request
    }
    published = next(line for line in of_request if "version 1 published" in line["message"])
    assert (published["job"], published["level"]) == (job, "INFO")
    assert len({line["pid"] for line in of_request}) >= 2
    rejected = next(line for line in lines if line.get("path") == "/weights")
    assert (rejected["method"], rejected["status"], rejected["client"]) == ("GET", 422, "127.0.0.1")
    assert "secret" not in log.read_text()


def test_an_invalid_request_id_is_replaced_and_each_request_gets_its_own(home: Home) -> None:
    with ApiClient(build_app(home)) as client:
        ids = {client.get("/healthz").headers["x-request-id"] for _ in range(3)}
        for given in ("", "two words", "ä", "x" * 129, 'quote"', "a\tb"):
            response = client.get("/weights", headers=[(b"X-Request-ID", given.encode())])
            ids.add(response.headers["x-request-id"])
        twice = [(b"X-Request-ID", b"one"), (b"X-Request-ID", b"two")]
        ids.add(client.get("/healthz", headers=twice).headers["x-request-id"])
        assert (
            client.get("/nothing", headers={"X-Request-ID": "x" * 128}).headers["x-request-id"] == "x" * 128
        )
    assert len(ids) == 10
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)


def test_a_record_is_one_line_in_both_formats_whatever_it_contains() -> None:
    record = logging.LogRecord("statsvc", logging.WARNING, "", 0, "a\nb %s", ("\x1b[1m\u2028",), None)
    record.created, record.msecs = 0.0, 7.0
    with log_context(request_id="r1"), log_context(job="j1"):
        text = OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s").format(record)
        line = JsonFormatter().format(record)
    assert text.startswith("1970-01-01T00:00:00.007Z WARNING statsvc: a")
    assert text.endswith(" job=j1 request_id=r1")
    assert len(text.splitlines()) == len(line.splitlines()) == 1
    assert "\x1b" not in text + line
    content = json.loads(line)
    assert content["message"] == "a\nb \x1b[1m\u2028"
    assert (content["job"], content["request_id"]) == ("j1", "r1")
    assert "request_id" not in JsonFormatter().format(record)
