"""No request keeps the server from serving others: time in the event loop, connections, and event streams."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import logging
import re
import resource
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn
import uvloop

from statsvc.api.app import build_app
from statsvc.api.connections import (
    MAX_CONNECTIONS,
    MAX_PIPELINED,
    Joined,
    Limits,
    connection_limit,
    guarded_protocol,
)
from statsvc.api.http.json_route import loads
from statsvc.api.http.middleware import MAX_BODY, MAX_DATASET_BODY, largest_body
from statsvc.api.state import job_events
from statsvc.client import http as client_http
from statsvc.client.client import Client
from statsvc.errors import ServerError
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from support.contract import ApiClient
from support.http_server import Reply
from support.http_server import serving as replying
from support.publishing import label_maps, publish
from support.servers import responds, serving
from support.waiting import TIMEOUT, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statsvc.store.home import Home

JSON = {"Content-Type": "application/json"}
MAX_STALL = 0.05
TRIES = 8
"""A stall that a request causes occurs each time; one that the machine causes does not."""

LONG_QUERY = "&".join(f"clas_ma{number}" for number in range(4000))
LONG_VALUE = ",".join(map(str, range(9000)))


def filled(start: str, item: Callable[[int], str], end: str, size: int) -> bytes:
    """Return JSON of `size` bytes that repeats an item."""
    text = start + item(0)
    items, length = [], len(text) + len(end)
    number = 1
    while length < size - 200:
        items.append("," + item(number))
        length += len(items[-1])
        number += 1
    return (text + "".join(items) + end).encode().ljust(size)


def largest_bodies(path: str, size: int) -> Iterator[bytes]:
    yield filled("{", lambda k: f'"clas_ma{k}": 1', "}", size)
    yield filled('{"class_names": [', lambda k: f'"{k}"', "]}", size)
    if path.endswith("/import"):
        sample = '{{"file": "{}.png", "0": 1200, "5": 17}}'
        yield filled('{"samples": [', sample.format, "]}", size)
    elif path.endswith("/changed"):
        yield filled('{"paths": [', lambda k: f'"{k:0800d}"', "]}", size)
    elif path.startswith("/datasets"):
        fields = '"name": "big", "source": "/none", ' if path == "/datasets" else ""
        paths = f'{{{fields}"splits": {{"train": ['
        # In no order, because sorting them is the slowest step.
        yield filled(paths, lambda k: f'"x/{k * 7919 % 1000003:07d}/000000{k}.png"', "]}}", size)


def largest_requests(path: str, method: str, job_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield the URL and the body of the largest requests for a route."""
    names = {"{name}": "street", "{job_id}": job_id, "{tag}": "paper", "{asset}": "page.js"}
    url = path
    for placeholder, value in names.items():
        url = url.replace(placeholder, value)
    assert "{" not in url, f"add a value for the placeholder of {path}"
    if method == "get":
        yield f"{url}?{LONG_QUERY}", b""
        yield f"{url}?ignore_index={LONG_VALUE}&class_map={'x' * 5000}&split={'y' * 5000}", b""
        yield f"{path.replace('{', '').replace('}', 'z' * 5000)}", b""
        return
    size = largest_body(path)
    for body in largest_bodies(path, size):
        yield url, body


def test_an_answer_to_a_connection_that_was_aborted_meanwhile_is_dropped() -> None:
    problems: list[Any] = []

    async def answer() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: problems.append(context))
        client, server = socket.socketpair()
        with client:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=server)
            joined = Joined(transport, loop)
            loop.call_soon(joined.write, b"HTTP/1.1 200 OK")  # before the protocol hears of the end
            joined.abort()
            for _ in range(5):
                await asyncio.sleep(0)

    uvloop.run(answer())
    assert problems == []


async def longest_stall(send: Callable[[], Any]) -> float:
    """Return how long the event loop did not run during a request, in seconds.

    In CPU time of this process: other processes of a busy machine do not count.
    """
    longest = 0.0
    done = False

    async def watch() -> None:
        nonlocal longest
        while not done:
            started = time.process_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.process_time() - started)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await send()
    done = True
    await watching
    return longest


async def stalls_of(home: Home) -> dict[str, float]:
    """Return the longest stall of the largest requests for each route."""
    app = build_app(home)
    catalog = Catalog.open(home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    jobs.cancel(catalog, job.id)
    catalog.close()
    stalls: dict[str, float] = {}
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as client,
    ):
        for path, operations in app.openapi()["paths"].items():
            for method in operations:
                for number, (url, body) in enumerate(largest_requests(path, method, job.id)):

                    async def send(method: str = method, url: str = url, body: bytes = body) -> None:
                        response = await client.request(method, url, content=body, headers=JSON)
                        assert response.status_code < 500, (method, url[:80], response.text[:200])

                    longest = await longest_stall(send)
                    for _ in range(TRIES):
                        if longest <= MAX_STALL:
                            break
                        longest = min(longest, await longest_stall(send))
                    stalls[f"{method} {path} {number}"] = longest
    return stalls


def test_no_request_holds_the_event_loop(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    stalls = asyncio.run(stalls_of(home))
    assert len(stalls) > 40
    slow = {name: round(seconds, 3) for name, seconds in stalls.items() if seconds > MAX_STALL}
    assert slow == {}


def test_the_stepwise_json_parser_is_the_parser_of_the_standard_library() -> None:
    for text in ('{"a": [1, -2.5e3, "\\u00e9\\n", null, true, {"b": []}]}', '"é"', "[]", " 1 "):
        assert loads(text.encode()) == json.loads(text)
    for bad in (b"{", b'{"a": }', b"[1,]", b""):
        with pytest.raises(json.JSONDecodeError):
            loads(bad)


def test_unknown_names_are_reported_up_to_a_limit(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as client:
        body = client.get(f"/weights?{LONG_QUERY}").json()
        assert len(body["errors"]) == 10
        response = client.post("/jobs", json={f"x{number}": 1 for number in range(3000)})
        assert (response.status_code, len(response.json()["errors"])) == (422, 10)


def test_bodies_have_a_limit_for_each_path(home: Home) -> None:
    with ApiClient(build_app(home)) as client:
        for path, limit in (("/jobs", MAX_BODY), ("/datasets", MAX_DATASET_BODY)):
            response = client.post(path, content=b" " * (limit + 1), headers=JSON)
            assert response.status_code == 413
            assert f"{limit} bytes" in response.json()["detail"]


@pytest.mark.parametrize("glob", ["nothing/*.png", "*a" * 12 + "*b.png"])
def test_a_split_that_matches_nothing_is_a_clear_answer(home: Home, glob: str) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as client:
        response = client.patch("/datasets/street", json={"splits": {"x": {"glob": glob}}})
        assert response.status_code == 422
        assert "matches none of the" in response.json()["detail"]


@contextmanager
def running(home: Home, limits: Limits) -> Iterator[int]:
    """Serve a home with these limits; yield the port."""
    config = uvicorn.Config(build_app(home), port=0, log_level="warning", http=guarded_protocol(limits))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def sent(port: int, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Open connections, and send these bytes on each."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sockets.append(
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
            )
            sockets[-1].sendall(data)
        yield sockets


def status(port: int) -> int:
    return httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT).status_code


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection; waits for data or the end."""
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


HALF_HEAD = b"GET /healthz HTTP/1.1\r\nX-"
HALF_BODY = (
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
)
HALF_CHUNK = HALF_BODY.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked") + b"1\r\n{\r\n"


@pytest.mark.parametrize("limit", ["total", "per_client"])
@pytest.mark.parametrize("data", [HALF_HEAD, HALF_BODY, HALF_CHUNK], ids=["head", "body", "chunk"])
def test_half_requests_do_not_keep_others_from_connecting(home: Home, limit: str, data: bytes) -> None:
    limits = Limits()
    setattr(limits, limit, 5)
    with running(home, limits) as port, sent(port, data, 20) as connections:
        assert status(port) == 200
        assert is_closed(connections[0])  # the oldest had to go


@pytest.mark.parametrize("limits", [Limits(total=5), Limits(per_client=5)], ids=["total", "client"])
def test_the_number_of_connections_is_limited(home: Home, limits: Limits) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    catalog = Catalog.open(home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    catalog.close()
    events = f"GET /jobs/{job.id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with running(home, limits) as port:
        with sent(port, events, 5):
            wait_for(lambda: not limits.waiting and limits.clients.total() == 5)
            assert status(port) == 503
        wait_for(lambda: not limits.clients)
        assert status(port) == 200


def test_many_connections_fill_no_log_where_few_files_can_be_open(home: Home, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(home, files=100, log=log) as url, sent(int(url.rpartition(":")[2]), b"", 300):
        assert responds(f"{url}/healthz")
    assert "Too many open files" not in log.read_text()


def test_the_limit_of_open_files_is_raised_for_connections() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        assert connection_limit() == MAX_CONNECTIONS
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > MAX_CONNECTIONS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_trusted_proxy_may_open_more_connections_than_a_client(home: Home) -> None:
    limits = Limits(per_client=2, trusted=[ipaddress.ip_network("127.0.0.0/8")])
    with running(home, limits) as port, sent(port, HALF_BODY, 5):
        assert status(port) == 200


@pytest.mark.parametrize("data", [b"", HALF_HEAD, HALF_BODY], ids=["nothing", "head", "body"])
def test_a_request_has_a_deadline(home: Home, data: bytes) -> None:
    limits = Limits(head_seconds=0.2, body_seconds=0.2)
    with running(home, limits) as port, sent(port, data, 1) as (connection,):
        assert is_closed(connection)


POST = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKS = b"\r\n2\r\n{}\r\n0\r\n\r\n"
INVALID = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "another coding last": POST + b"Transfer-Encoding: chunked, identity\r\n" + CHUNKS,
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n" + CHUNKS,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
    "chunk of 2**64 bytes": POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}",
    "chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}X",
    "bare line feeds": GET.replace(b"\r\n", b"\n") + b"\n",
    "folded line": GET + b"X-A: b\r\n c\r\n\r\n",
    "NUL in a value": GET + b"X-A: b\0c\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: evil\r\n\r\n",
    "target of another server": GET.replace(b"/healthz", b"http://evil/healthz") + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "long header": GET + b"X-A: " + b"x" * 100_000,
    "long target": b"GET /" + b"x" * 100_000,
    "many headers": GET + b"A:\r\n" * 20_000,
    "many trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"A:\r\n" * 20_000,
}


def answers(connection: socket.socket) -> list[int]:
    """Return the status of each response until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
    return [int(code) for code in re.findall(rb"HTTP/1.1 (\d{3}) ", received)]


def test_requests_that_are_ambiguous_or_too_long_are_rejected_and_end_the_connection(home: Home) -> None:
    """Nothing after such a request is read, so no proxy and no client can smuggle another one behind it."""
    with running(home, Limits()) as port:
        for name, data in INVALID.items():
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
                with suppress(ConnectionError):
                    connection.sendall(data + GET + b"\r\n")
                assert answers(connection) in ([400], []), name  # nothing: the rest arrived after the end
        assert status(port) == 200


def test_requests_that_clients_repeat_do_not_fill_the_log(home: Home, tmp_path: Path) -> None:
    log = tmp_path / "log"
    upgrade = GET + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    with serving(home, log=log) as url:
        port = int(url.rpartition(":")[2])
        for data, expected in ((b"nonsense\r\n\r\n", 400), (upgrade, 200)):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
                    connection.sendall(data)
                    assert answers(connection) == [expected]
    text = log.read_text()
    assert text.count("Invalid HTTP request") == 1
    assert "upgrade" not in text.lower()
    assert "WebSocket" not in text


def test_long_paths_are_cut_in_logs(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ApiClient(build_app(home, access_log=True)) as client:
        assert client.get("/" + "x" * 5000).status_code == 404
        assert client.post("/" + "y" * 5000).status_code == 404
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("statsvc.")]
    assert [line.split(" ")[0] for line in lines] == ["GET", "POST", "POST"]  # access, audit and access
    assert max(map(len, lines)) < 600


def test_pipelined_requests_are_answered_in_order_and_are_limited(home: Home) -> None:
    missing = GET.replace(b"/healthz", b"/nothing")
    with running(home, Limits()) as port:
        with sent(port, GET + b"\r\n" + missing + b"\r\n" + GET + b"Connection: close\r\n\r\n", 1) as (few,):
            assert answers(few) == [200, 404, 200]
        with sent(port, (GET + b"\r\n") * 500, 1) as (many,):
            assert answers(many) == [200] * (MAX_PIPELINED + 1)
        with sent(port, GET + b"\r\n" + INVALID["two hosts"], 1) as (invalid,):
            assert answers(invalid) == [200]


def test_event_streams_are_limited(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_events, "MAX_CLIENT_STREAMS", 2)
    publish(home, "street", label_maps(), num_classes=4)
    catalog = Catalog.open(home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    catalog.close()
    with running(home, Limits()) as port, ExitStack() as stack:
        url = f"http://127.0.0.1:{port}/jobs/{job.id}/events"
        streams = []
        for _ in range(2):
            response = stack.enter_context(httpx2.stream("GET", url, timeout=TIMEOUT))
            assert response.status_code == 200
            streams.append(response.iter_raw())
            assert next(streams[-1])
        refused = httpx2.get(url, timeout=TIMEOUT)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")


def test_the_client_limits_what_it_decompresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_http, "MAX_RESPONSE_BYTES", 1 << 20)
    bomb = Reply(200, gzip.compress(b" " * (64 << 20)), {"Content-Encoding": "gzip"})
    with replying(lambda *_: bomb) as server, pytest.raises(ServerError, match="more than 1048576 bytes"):
        Client(server.url).weights()
