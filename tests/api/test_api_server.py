"""Real server processes: freshness, replicas, concurrent clients, and imported modules."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from statsvc.api.serve import listen, run
from statsvc.api.state.snapshot import POLL_SECONDS
from statsvc.dataset.splits import detect
from statsvc.errors import Conflict, InvalidParameter
from support.contract import checking_client
from support.publishing import label_maps, publish
from support.servers import free_port, serving
from support.waiting import wait_for

if TYPE_CHECKING:
    from statsvc.store.home import Home


@pytest.fixture
def home(home: Home) -> Home:
    publish(home, "street", label_maps(), num_classes=4, splits=detect(label_maps()))
    return home


def serves_version(url: str, number: int) -> bool:
    return bool(httpx2.get(f"{url}/weights").json()["version"] == number)


def test_two_processes_send_the_same_bytes_and_serve_a_new_version_after_the_next_poll(home: Home) -> None:
    with serving(home) as one, serving(home) as two:
        first = [httpx2.get(f"{url}/weights?format=csv") for url in (one, two)]
        assert first[0].headers["etag"] == first[1].headers["etag"]
        assert first[0].content == first[1].content
        number = publish(home, "street", label_maps(7), num_classes=4).number
        for url in (one, two):
            wait_for(partial(serves_version, url, number))
        assert POLL_SECONDS <= 0.5  # an idle server serves the new version within a second
        stale = httpx2.get(f"{one}/weights?format=csv", headers={"If-None-Match": first[0].headers["etag"]})
        assert stale.status_code == 200
        patched = httpx2.patch(f"{one}/datasets/street", json={"num_classes": 5}).json()["version"]
        assert httpx2.get(f"{one}/weights").json()["version"] == patched == number + 1


def test_two_hundred_concurrent_requests_get_the_same_response(home: Home) -> None:
    limits = httpx2.Limits(max_connections=200)
    with serving(home) as url, checking_client(url, limits=limits) as client:
        with ThreadPoolExecutor(200) as pool:
            responses = list(pool.map(lambda _: client.get("/weights?split=train"), range(200)))
        assert {response.status_code for response in responses} == {200}
        assert len({response.content for response in responses}) == 1
        assert len({response.headers["etag"] for response in responses}) == 1


def test_head_over_a_socket_has_a_length_and_no_body(home: Home) -> None:
    with serving(home) as url, checking_client(url) as client:
        got, head = client.get("/weights"), client.head("/weights")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
        assert "server" not in got.headers


def test_a_server_does_not_import_heavy_packages(home: Home) -> None:
    program = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from statsvc.api.app import build_app
from statsvc.store import home

with TestClient(build_app(home.resolve(sys.argv[1])), base_url="http://127.0.0.1") as client:
    for path in ("/weights?split=train", "/datasets", "/datasets/street/samples", "/methods"):
        assert client.get(path).status_code == 200, path
heavy = {"dask", "distributed", "torch", "PIL", "tifffile", "imagecodecs", "statsvc_workers", "pandas"}
heavy |= {"xarray"}
sys.exit(", ".join(sorted(heavy & {name.partition(".")[0] for name in sys.modules})) or None)
"""
    process = subprocess.run(
        [sys.executable, "-c", program, str(home.folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_addresses_other_than_loopback_are_rejected_without_a_token(home: Home, host: str) -> None:
    with pytest.raises(InvalidParameter, match=r"token create --scope write.* ssh -L 8000:127\.0\.0\.1:8000"):
        run(home, host, 8000, [])


@pytest.mark.parametrize("host", ["example.org", "", "127.0.0.1.example.org"])
def test_an_invalid_address_is_rejected(home: Home, host: str) -> None:
    with pytest.raises(InvalidParameter, match=r"is not an IP address of this machine; use 0\.0\.0\.0"):
        run(home, host, 8000, [])


def test_a_port_in_use_is_a_clear_error() -> None:
    port = free_port()
    with listen("127.0.0.1", port), pytest.raises(Conflict, match=f"port {port} is in use .* --port"):
        listen("localhost", port)
    with pytest.raises(InvalidParameter, match="port"):
        listen("127.0.0.1", 70000)


def test_a_server_stops_on_a_signal_while_a_client_stays_connected(home: Home) -> None:
    with httpx2.Client() as client:
        with serving(home) as url:
            assert client.get(f"{url}/healthz").json() == {"status": "ok"}
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 10
